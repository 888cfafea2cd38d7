"""Who is in the engine and how each row ended: the books that make "exactly one outcome per row" true.

A row is opened once, booked in every step it took part in, and closed once; who closes it gets its `Outcome`, anyone
who comes later gets None. So the engine's thread and a caller of `stop` may race without a row answering twice.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from deployments.engine.forks import asked_of
from deployments.scheduling.scheduler import Row
from slicer.core.protocol.messages import DEFAULT_PRIORITY, RefusalCode


class Outcome(NamedTuple):
    """How one row ended. Exactly one of `logits` and `code` is set.

    Attributes:
        logits: float32, the model's output for this row without a batch dimension.
        code: why there are none; `message` holds value and remedy.
        queue_s: in the engine but not executing, from `Engine.submit` on, all boundaries together.
        execution_s: in steps that succeeded, all together.
        rows_per_step: the rows of each of these steps, in order.
    """

    key: int
    logits: npt.NDArray[np.float32] | None
    code: RefusalCode | None = None
    message: str = ""
    queue_s: float = 0.0
    execution_s: float = 0.0
    rows_per_step: tuple[int, ...] = ()

    def of(self, key: int) -> Outcome:
        """The same under another key."""
        return self._replace(key=key)


@dataclass(frozen=True)
class EngineStats:
    """A snapshot of the engine's counters since it was made, or since `Engine.reset_stats`.

    Attributes:
        started_s: when that was, on the engine's clock; ``busy_s / (now - started_s)`` is the utilisation.
        steps: executions that succeeded; `rows_per_step`: how many of them had so many rows.
        busy_s: seconds of execution in these steps.
        retried: calls of the executor that raised and were tried again in smaller parts.
        outcomes: rows that ended, by code; answered ones as ``answered``.
        waiting: rows in the engine, waiting or running, by the model that they were sent to.
    """

    started_s: float
    steps: int = 0
    busy_s: float = 0.0
    retried: int = 0
    rows_per_step: Mapping[int, int] = field(default_factory=dict)
    outcomes: Mapping[str, int] = field(default_factory=dict)
    waiting: Mapping[str, int] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Rows of all steps together; a row counts once per step."""
        return sum(rows * steps for rows, steps in self.rows_per_step.items())


class Ledger:
    """The rows of one engine and its counters. All methods may be called from any thread.

    Args:
        clock: the engine's.
        max_rows: how many rows may be open at once.
    """

    def __init__(self, clock: Callable[[], float], max_rows: int) -> None:
        self._clock = clock
        self._max_rows = max_rows
        self._lock = threading.Lock()
        self._next_key = 0
        self._open: dict[int, Row] = {}
        self.reset_stats()

    def open(
        self,
        model: str,
        entry: int,
        arrivals_s: Sequence[float],
        deadlines_s: Sequence[float | None],
        priorities: Sequence[int] | None = None,
        *,
        fork: str = "",
        none: bool = False,
    ) -> tuple[list[Row], int]:
        """Make a row (of `fork`) with a key of its own for each arrival, and open as many as fit (`none`: no row).

        Returns all rows, and how many of them, from the first on, are open.
        """
        with self._lock:
            now_s = self._clock()
            free = 0 if none else self._max_rows - len(self._open)
            rows: list[Row] = []
            levels = [DEFAULT_PRIORITY] * len(arrivals_s) if priorities is None else priorities
            for arrival_s, deadline_s, level in zip(arrivals_s, deadlines_s, levels, strict=True):
                row = Row(self._next_key, model, entry, arrival_s, deadline_s, level)
                row.fork = fork
                self._next_key += 1
                rows.append(row)
                if len(rows) <= free:
                    row.opened_s = now_s
                    self._open[row.key] = row
            return rows, min(len(rows), free)

    def find(self, key: int) -> Row | None:
        """The open row of this key."""
        with self._lock:
            return self._open.get(key)

    def still_open(self, rows: Iterable[Row]) -> list[Row]:
        """Those of the rows that are not closed, in order."""
        with self._lock:
            return [row for row in rows if row.key in self._open]

    def open_keys(self) -> list[int]:
        """Keys of all open rows, in order of submission."""
        with self._lock:
            return list(self._open)

    def book_step(self, rows: Sequence[Row], execution_s: float) -> None:
        """A step of these rows succeeded."""
        with self._lock:
            self._steps += 1
            self._busy_s += execution_s
            count = len(rows)
            self._rows_per_step[count] += 1
            for row in rows:  # one that `stop` has closed meanwhile has its outcome, so it does no harm
                row.execution_s += execution_s
                row.rows_per_step.append(count)

    def book_retry(self) -> None:
        """A call of the executor raised and is tried again in parts."""
        with self._lock:
            self._retried += 1

    def answer(
        self, rows: Sequence[Row], logits_BC: npt.NDArray[np.float32] | Sequence[npt.NDArray[np.float32]]
    ) -> list[Outcome]:
        """Close rows with their logits, in order; those that are closed already are passed over.

        Raises:
            ValueError: there are not as many logits as rows; then none is closed.
        """
        if len(logits_BC) != len(rows):
            raise ValueError(f"the executor gave {len(logits_BC)} rows of logits for {len(rows)} rows")
        with self._lock:
            now_s = self._clock()
            outcomes = [
                _outcome(row, now_s, logits)
                for row, logits in zip(rows, logits_BC, strict=True)
                if self._open.pop(row.key, None) is not None
            ]
            self._outcomes["answered"] += len(outcomes)
        return outcomes

    def refuse(self, key: int, code: RefusalCode, message: str) -> Outcome | None:
        """Close a row without logits; None: it is closed already."""
        with self._lock:
            row = self._open.pop(key, None)
            if row is None:
                return None
            self._outcomes[code] += 1
            return _outcome(row, self._clock(), None, code, message)

    def turn_away(self, rows: Sequence[Row], code: RefusalCode, message: str) -> list[Outcome]:
        """Outcomes of rows that were never open."""
        with self._lock:
            self._outcomes[code] += len(rows)
        return [Outcome(row.key, None, code, message) for row in rows]

    def stats(self) -> EngineStats:
        """The counters, consistent with each other."""
        with self._lock:
            return EngineStats(
                started_s=self._started_s,
                steps=self._steps,
                busy_s=self._busy_s,
                retried=self._retried,
                rows_per_step=dict(self._rows_per_step),
                outcomes={code: rows for code, rows in self._outcomes.items() if rows},
                waiting=dict(Counter(map(asked_of, self._open.values()))),
            )

    def reset_stats(self) -> None:
        """Count from here on; open rows stay open."""
        with self._lock:
            self._started_s = self._clock()
            self._steps, self._busy_s, self._retried = 0, 0.0, 0
            self._rows_per_step: Counter[int] = Counter()
            self._outcomes: Counter[str] = Counter()


def _outcome(
    row: Row,
    now_s: float,
    logits: npt.NDArray[np.float32] | None,
    code: RefusalCode | None = None,
    message: str = "",
) -> Outcome:
    queue_s = max(0.0, now_s - row.opened_s - row.execution_s)
    return Outcome(row.key, logits, code, message, queue_s, row.execution_s, tuple(row.rows_per_step))
