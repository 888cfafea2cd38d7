"""Both ends within one process: an engine with a thread of its own beside the event loop that speaks to clients."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from deployments.engine.engine import Engine
from deployments.engine.ledger import Outcome
from deployments.ipc.row_registry import RowRegistry
from deployments.ipc.row_sink import Deliver, RowBatch, RowSink


class LocalSink(RowSink):
    """Rows to an engine of this process. The registry is the event loop's.

    Args:
        make_engine: makes the engine, given where its outcomes go; called once.
        deliver: as `Deliver` says.
        receiving: the executor's, for memory that its accelerator reads best.

    Attributes:
        engine: what runs the rows.
    """

    gone = False

    def __init__(
        self,
        make_engine: Callable[[Deliver], Engine],
        deliver: Deliver,
        receiving: Callable[[tuple[int, ...]], npt.NDArray[np.float32]],
    ) -> None:
        self.keys: dict[int, int] = {}
        self._receiving, self._deliver = receiving, deliver
        self._loop: asyncio.AbstractEventLoop | None = None
        self._next = 0
        self._ended: list[Outcome] = []
        self._registry = RowRegistry()
        self.engine = self._registry.engine = make_engine(self._from_engine)

    @property
    def alive(self) -> bool:
        """The engine."""
        return self.engine.alive

    def receiving(self, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        """The executor's."""
        return self._receiving(shape)

    def submit(self, batch: RowBatch) -> list[int]:
        """To the engine's inbox; it has one version of each model."""
        self._loop = asyncio.get_running_loop()
        first = self._next
        self._next += len(batch.rows)
        self._registry.submit(self, first, batch)
        return list(range(first, self._next))

    def cancel(self, ticket: int) -> None:
        """Before its next step."""
        self._registry.cancel(self, ticket)

    def told(self, ticket: int, outcome: Outcome) -> None:
        """By the registry."""
        self._ended.append(outcome.of(ticket))

    def tell(self) -> None:
        """By the registry; a turn later, since it may be in the middle of a `submit`."""
        ended, self._ended = self._ended, []
        if ended:
            assert self._loop is not None, "nothing ends before something was submitted"
            self._loop.call_soon(self._deliver, ended)

    def _from_engine(self, outcomes: list[Outcome]) -> None:
        """On the engine's thread: one hop to the event loop for all rows that ended together."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._registry.deliver, outcomes)
