"""The seam between what speaks to clients and what owns an accelerator: rows go one way, outcomes come the other.

Two implementations: `deployments.ipc.local_sink` within one process, `deployments.ipc.node_cores` to a process (or
several) of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from deployments.engine.ledger import Outcome

#: Gets the outcomes of rows that ended together, on the caller's event loop; `Outcome.key` is the row's ticket.
Deliver = Callable[[list[Outcome]], None]


class RowBatch(NamedTuple):
    """Rows that arrived together; of `arrivals_s` and those after it there is one per row.

    Attributes:
        manifest: digest of the model's: rows run on these weights only.
        rows: ``[rows, *shape at the entry]``, float32 or float16; not to be written any more.
        arrivals_s, deadlines_s: on the monotonic clock.
        keys: what sendings of one request have in common, of which one runs; empty: the row runs whatever came before.
        priorities: levels, as `Row.priority`.
    """

    model: str
    manifest: str
    entry: int
    rows: npt.NDArray[Any]
    arrivals_s: Sequence[float]
    deadlines_s: Sequence[float | None]
    keys: Sequence[bytes]
    priorities: Sequence[int]

    def part(self, start: int, count: int) -> RowBatch:
        """So many of them from there on."""
        part = slice(start, start + count)
        times = self.arrivals_s[part], self.deadlines_s[part]
        columns = self.rows[part], *times, self.keys[part], self.priorities[part]
        return RowBatch(self.model, self.manifest, self.entry, *columns)


class RowSink(Protocol):
    """Takes rows and gives an outcome for each, exactly one. Use it from one event loop, but for `receiving`."""

    @property
    def alive(self) -> bool:
        """Whether rows have a chance; where a core may come back, that is always so."""

    def receiving(self, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        """Memory for rows that are to be submitted; its content is arbitrary. Any thread."""

    def submit(self, batch: RowBatch) -> list[int]:
        """Hand over rows; never waits. Returns their tickets, in order, before any outcome of theirs is delivered."""

    def cancel(self, ticket: int) -> None:
        """Let a row go, if it has not ended; nobody waits for it."""
