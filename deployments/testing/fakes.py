"""A clock and an executor without torch or time, for tests of engines and of own strategies.

A row's activation is ``[name, trace]``: `name` says whose it is, `trace` which slices it passed, in order, as the
digits of a base-8 number (slice i appends i + 1). So an answer tells at once whether rows were swapped, or passed a
slice twice, never or in another order::

    rows_at(17.0)                            -> [[17, 0]]
    answer_of(17.0, entry=1, num_slices=4)   -> [17, 0o234]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from deployments.executors.base import Executor, Floats, ReceivedBatch, Sliced
from deployments.scheduling.scheduler import Resident, Row, Step


class FakeClock:
    """A clock that stands still until it is told otherwise; seconds."""

    def __init__(self, now_s: float = 0.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        """The time that it shows."""
        return self.now_s


class FakeExecutor(Executor):
    """Runs steps on the host in no time, or in as much as it is told, and remembers them.

    Args:
        clock: moved on by the duration of each step; None: nothing moves.
        seconds: duration of a step.
        before: called before each step; an exception that it raises is the step's. It may also move the clock, submit
            rows or cancel some: whatever can happen while the accelerator is busy.

    Attributes:
        steps: the steps that succeeded, in order.
        tried: all steps, those that raised included.
        activations: of the rows that are here, by key.
    """

    name = "fake"
    emulated: str | None = "accelerator (fake)"

    def __init__(
        self,
        clock: FakeClock | None = None,
        seconds: Callable[[Step], float] = lambda step: 0.0,
        before: Callable[[Step], None] = lambda step: None,
    ) -> None:
        self._clock = clock
        self._seconds = seconds
        self._before = before
        self.steps: list[Step] = []
        self.tried: list[Step] = []
        self.activations: dict[int, Floats] = {}

    def load(self, model: str, sliced: Sliced, residents: Mapping[str, Resident]) -> None:
        """Nothing to load."""

    def put(self, model: str, rows: Sequence[Row], batch: ReceivedBatch) -> None:
        """Keep the rows' activations."""
        self.activations.update((row.key, batch[i].copy()) for i, row in enumerate(rows))

    def run(self, step: Step) -> float:
        """Append the slices to the rows' traces."""
        self.tried.append(step)
        self._before(step)
        for row in step.rows:
            name, trace = self.activations[row.key]
            for index in range(step.start, step.end):
                trace = trace * 8 + index + 1
            self.activations[row.key] = np.array([name, trace], np.float32)
        execution_s = self._seconds(step)
        if self._clock is not None:
            self._clock.now_s += execution_s
        self.steps.append(step)
        return execution_s

    def take(self, rows: Sequence[Row]) -> Floats:
        """The rows' activations, which are forgotten."""
        return np.stack([self.activations.pop(row.key) for row in rows])

    def drop(self, row: Row) -> None:
        """Forget a row."""
        self.activations.pop(row.key, None)

    def memory(self) -> dict[str, int]:
        """Bytes of the activations; a fake has no weights."""
        activations = sum(activation.nbytes for activation in self.activations.values())
        return {"weights": 0, "activations": activations, "process": 0}

    @property
    def batches(self) -> list[tuple[int, int, int]]:
        """What ran: (start, end, rows) of each step, in order."""
        return [(step.start, step.end, len(step.rows)) for step in self.steps]


class FakePipeline(FakeExecutor):
    """A `FakeExecutor` that takes steps while one runs: each begins when those before it have ended.

    What a step does to its rows is done when it ends, so a row that is fetched or run too early is found out.
    """

    def __init__(
        self,
        clock: FakeClock,
        seconds: Callable[[Step], float] = lambda step: 1.0,
        before: Callable[[Step], None] = lambda step: None,
    ) -> None:
        super().__init__(None, seconds, lambda step: None)
        self._now, self._check = clock, before
        self._enqueued: list[tuple[Step, float, float]] = []
        self._free_s = 0.0
        self.idle_s = 0.0  # between a launch and the end of what ran before it, as long as anything was launched

    def flush(self) -> None:
        """Rows are moved when they are put."""

    def launch(self, step: Step) -> int:
        """Enqueue the step; returns its number."""
        self.tried.append(step)
        self._check(step)
        began_s = max(self._now.now_s, self._free_s)
        self.idle_s += began_s - self._free_s
        self._free_s = began_s + self._seconds(step)
        self._enqueued.append((step, began_s, self._free_s))
        return len(self._enqueued) - 1

    def wait(self, ticket: int) -> float:
        """Move the clock to the step's end, if it is earlier, and do what the step does."""
        step, began_s, ended_s = self._enqueued[ticket]
        self._now.now_s = max(self._now.now_s, ended_s)
        for row in step.rows:
            if row.key in self.activations:  # else it was dropped meanwhile
                name, trace = self.activations[row.key]
                for index in range(step.start, step.end):
                    trace = trace * 8 + index + 1
                self.activations[row.key] = np.array([name, trace], np.float32)
        self.steps.append(step)
        return ended_s - began_s


def rows_at(*names: float) -> Floats:
    """A batch of rows as they enter, one per name (integers up to 2**24 are exact)."""
    return np.array([[name, 0.0] for name in names], np.float32).reshape(len(names), 2)


def answer_of(name: float, entry: int, num_slices: int) -> list[float]:
    """The answer of a row of this name that passed slices ``entry:num_slices`` once each, in order."""
    trace = 0
    for index in range(entry, num_slices):
        trace = trace * 8 + index + 1
    return [name, float(trace)]
