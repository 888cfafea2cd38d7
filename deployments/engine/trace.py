"""The last steps of an accelerator, for pictures of its work: when each ran, which slices, rows of which entries."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter

from deployments.scheduling.scheduler import Row

#: How many steps are kept.
KEPT = 4096

_ENTRY = attrgetter("entry")


@dataclass(frozen=True)
class TracedStep:
    """One execution that succeeded.

    Attributes:
        start, end: it ran slices ``start:end``.
        began_s, ended_s: on the engine's clock.
        entries: how many of its rows entered the server at which cut, in order of the cuts.
    """

    model: str
    start: int
    end: int
    began_s: float
    ended_s: float
    entries: dict[int, int]


class StepTrace:
    """Keeps the last `kept` steps. `add` costs well below 1 us; all methods may be called from any thread."""

    def __init__(self, kept: int = KEPT) -> None:
        self._lock = threading.Lock()
        self._steps: deque[tuple[str, int, int, float, float, list[int]]] = deque(maxlen=kept)

    def add(self, model: str, start: int, end: int, rows: Sequence[Row], ended_s: float, execution_s: float) -> None:
        """A step of these rows ended now, after so many seconds of execution. The rows are not kept."""
        entries = list(map(_ENTRY, rows))
        with self._lock:
            self._steps.append((model, start, end, ended_s, execution_s, entries))

    def clear(self) -> None:
        """Forget all steps, after a warm-up."""
        with self._lock:
            self._steps.clear()

    def steps(self) -> list[TracedStep]:
        """Those that are kept, in the order in which they ended."""
        with self._lock:
            kept = list(self._steps)
        return [
            TracedStep(model, start, end, ended_s - execution_s, ended_s, dict(sorted(Counter(entries).items())))
            for model, start, end, ended_s, execution_s, entries in kept
        ]
