"""Rows in queues, each in the order in which they are served: what most strategies share."""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from deployments.scheduling.scheduler import SHARED, Resident, Row, Step
from slicer.errors import ConfigError


def by_turn(row: Row) -> tuple[int, float, int]:
    """Sort key: the lowest level first, then the oldest row; of two that arrived together, the one submitted first."""
    return row.priority, row.arrival_s, row.key


@dataclass
class QueuePolicy:
    """Rows in queues, each by level, then by arrival: what the four strategies share. An own one may start from it.

    A subclass says in `queue_of` where a row waits, in `next` what runs, in `residents` with which weights. With `take`
    no row leaves a queue before one of a lower level that waits in it; with `oldest_queue` or `filled`, each step has a
    row of the lowest level that waits at all.

    Args:
        model: the model's name in the application.
        num_slices: its slices.
        max_batch: the most rows of a step.
        max_wait_s: a row without a deadline is due so long after its arrival (only orders models among each other).

    Raises:
        ConfigError: a value is out of range.
    """

    model: str
    num_slices: int
    max_batch: int = 32
    max_wait_s: float = 1.0
    queues: dict[int, list[Row]] = field(init=False, default_factory=dict)
    waiting: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        if self.max_batch < 1:
            raise ConfigError(f"max_batch {self.max_batch} of {self.model}: a step has at least one row; set 1 or more")
        if not self.max_wait_s > 0:
            raise ConfigError(f"max_wait_s {self.max_wait_s} of {self.model}: set a time above 0 seconds")

    def queue_of(self, row: Row) -> int:
        """Which queue the row waits in; by default one queue per boundary."""
        return row.boundary

    def residents(self, entries: Sequence[int]) -> Mapping[str, Resident]:
        """One copy of the weights, from the first entry to the end."""
        return {SHARED: Resident(min(entries), self.num_slices, own_copy=False)}

    def next(self, now_s: float) -> Step | None:
        """Choose a span and rows; see `Policy.next`."""
        raise NotImplementedError(f"{type(self).__name__} must say what runs next")

    def add(self, row: Row) -> None:
        """Let a row wait, behind the older and before the younger rows of its level in its queue."""
        queue = self.queues.setdefault(self.queue_of(row), [])
        last = queue[-1] if queue else None
        if last is None or (
            last.priority <= row.priority
            and (last.arrival_s < row.arrival_s or (last.arrival_s == row.arrival_s and last.key < row.key))
        ):
            queue.append(row)  # nearly always
        else:  # one between two slices goes in front of later arrivals, and an urgent one in front of others
            bisect.insort(queue, row, key=by_turn)
        self.waiting += 1

    def remove(self, row: Row) -> None:
        """Forget a waiting row."""
        self.queues[self.queue_of(row)].remove(row)
        self.waiting -= 1

    def urgency_s(self) -> float | None:
        """When the most urgent waiting row is due; None: none waits. Reads every waiting row."""
        due_s = (
            row.arrival_s + self.max_wait_s if row.deadline_s is None else row.deadline_s
            for queue in self.queues.values()
            for row in queue
        )
        return min(due_s, default=None)

    def finish(self, step: Step) -> list[Row]:
        """Move the rows on; see `Policy.finish`."""
        for row in step.rows:
            row.boundary = step.end
            if row.boundary < self.num_slices:
                self.add(row)
        return [row for row in step.rows if row.boundary == self.num_slices]

    def oldest_queue(self) -> int | None:
        """The queue that holds the oldest row of the lowest level that waits; None: no row waits."""
        filled = [name for name, queue in self.queues.items() if queue]
        return min(filled, key=lambda name: by_turn(self.queues[name][0]), default=None)

    def filled(self) -> list[int]:
        """The queues that hold a row of the lowest level that waits: all filled ones, where rows are of one level."""
        levels = {name: queue[0].priority for name, queue in self.queues.items() if queue}
        lowest = min(levels.values(), default=0)
        return [name for name, level in levels.items() if level == lowest]

    def take(self, queue: int, limit: int | None = None) -> tuple[Row, ...]:
        """The first rows of a queue, by level and age, up to `limit` (default: max_batch); they no longer wait."""
        count = self.max_batch if limit is None else limit
        rows = tuple(self.queues[queue][:count])
        del self.queues[queue][:count]
        self.waiting -= len(rows)
        return rows
