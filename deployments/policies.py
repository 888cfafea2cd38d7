"""The strategies: four small policies of one scheduler, and how an own one is loaded.

They differ in two things only: which rows form a step, and which weights are resident. None of them waits for a fuller
batch: a batch is whatever waits, up to the limit, at the moment when the accelerator is free (late binding).

Source of per_tail and per_slice: Mubark & Uddin, "Batching Model Slices for Resource-Efficient Execution of Transformer
Models in Edge AI", IEEE MDM 2025 ("batch per model" and "batch per slice").
"""

from __future__ import annotations

import bisect
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from deployments.scheduler import SHARED, Policy, Resident, Row, Step
from slicer.errors import ConfigError
from slicer.plugins import load_object


def by_age(row: Row) -> tuple[float, int]:
    """Sort key: the oldest row first; of two that arrived together, the one submitted first."""
    return row.arrival_s, row.key


@dataclass
class QueuePolicy:
    """Rows in queues, each in order of arrival: what the four strategies share. An own one may start from it.

    A subclass says in `queue_of` where a row waits, in `next` what runs, in `residents` with which weights.

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
        """Let a row wait, behind the older and before the younger rows of its queue."""
        # Nearly always the youngest, so this appends; rows between two slices go in front of later arrivals.
        bisect.insort(self.queues.setdefault(self.queue_of(row), []), row, key=by_age)
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
        """The queue that holds the oldest row; None: no row waits."""
        filled = [name for name, queue in self.queues.items() if queue]
        return min(filled, key=lambda name: by_age(self.queues[name][0]), default=None)

    def take(self, queue: int, limit: int | None = None) -> tuple[Row, ...]:
        """The oldest rows of a queue, up to `limit` (default: max_batch); they no longer wait."""
        count = self.max_batch if limit is None else limit
        rows = tuple(self.queues[queue][:count])
        del self.queues[queue][:count]
        self.waiting -= len(rows)
        return rows


@dataclass
class Unbatched(QueuePolicy):
    """One row at a time, its whole tail, oldest first. One copy of the weights."""

    def next(self, now_s: float) -> Step | None:
        """The oldest row."""
        entry = self.oldest_queue()
        if entry is None:
            return None
        return Step(self.model, SHARED, entry, self.num_slices, self.take(entry, limit=1))


@dataclass
class PerTail(QueuePolicy):
    """The paper's first: one queue and one tail with weights of its own per entry; the oldest row's queue goes."""

    def residents(self, entries: Sequence[int]) -> Mapping[str, Resident]:
        """One tail per entry, each a copy of its own."""
        return {self.weights_of(entry): Resident(entry, self.num_slices, own_copy=True) for entry in entries}

    def weights_of(self, entry: int) -> str:
        """Name of the weights that run the tail of an entry."""
        return f"tail{entry}"

    def next(self, now_s: float) -> Step | None:
        """The whole tail for the queue that holds the oldest row."""
        entry = self.oldest_queue()
        if entry is None:
            return None
        return Step(self.model, self.weights_of(entry), entry, self.num_slices, self.take(entry))


@dataclass
class PerTailShared(PerTail):
    """`PerTail` with one copy of the weights, as the authors' prototype shares modules between its tails."""

    def residents(self, entries: Sequence[int]) -> Mapping[str, Resident]:
        """One copy of the weights, from the first entry to the end."""
        return QueuePolicy.residents(self, entries)

    def weights_of(self, entry: int) -> str:
        """The shared weights, whatever the entry."""
        return SHARED


@dataclass
class PerSlice(QueuePolicy):
    """The paper's second: one queue per slice; after slice i a row joins queue i+1, in order of arrival.

    Args:
        order: which queue goes: ``oldest`` (holds the oldest row; the only stable one under load), ``deepest`` (nearest
            to the end), ``shallowest``, ``fullest`` (of equal ones the deepest).

    Raises:
        ConfigError: the order is unknown.
    """

    order: str = "oldest"

    def __post_init__(self) -> None:
        QueuePolicy.__post_init__(self)
        if self.order not in ORDERS:
            raise ConfigError(f"order {self.order!r} of {self.model}: per_slice knows {', '.join(ORDERS)}")

    def next(self, now_s: float) -> Step | None:
        """One slice for the queue that the order says."""
        boundary = ORDERS[self.order](self)
        if boundary is None:
            return None
        return Step(self.model, SHARED, boundary, boundary + 1, self.take(boundary))

    def deepest_queue(self) -> int | None:
        """The filled queue nearest to the end."""
        return max((name for name, queue in self.queues.items() if queue), default=None)

    def shallowest_queue(self) -> int | None:
        """The filled queue nearest to the input."""
        return min((name for name, queue in self.queues.items() if queue), default=None)

    def fullest_queue(self) -> int | None:
        """The queue with the most rows, of equal ones the deepest."""
        filled = [name for name, queue in self.queues.items() if queue]
        return max(filled, key=lambda name: (len(self.queues[name]), name), default=None)


#: Which queue goes next, by the name of `PerSlice.order`.
ORDERS: Mapping[str, Callable[[PerSlice], int | None]] = {
    "oldest": PerSlice.oldest_queue,
    "deepest": PerSlice.deepest_queue,
    "shallowest": PerSlice.shallowest_queue,
    "fullest": PerSlice.fullest_queue,
}

#: The strategies that run in the engine, by the name that the configuration uses.
POLICIES: Mapping[str, type[QueuePolicy]] = {
    "unbatched": Unbatched,
    "per_tail": PerTail,
    "per_tail_shared": PerTailShared,
    "per_slice": PerSlice,
}


def make_policy(
    strategy: str,
    *,
    model: str,
    num_slices: int,
    max_batch: int = 32,
    max_wait_s: float = 1.0,
    options: Mapping[str, Any] | None = None,
) -> Policy:
    """The policy of one model.

    Args:
        strategy: a key of `POLICIES`, or ``package.module:Class`` for an own one, which is called with the same
            arguments: model, num_slices, max_batch, max_wait_s and the options.
        options: further arguments of this strategy, such as per_slice's ``order``.

    Raises:
        ConfigError: the strategy or an option is unknown, or a value is out of range.
    """
    if ":" in strategy:
        policy_class = load_object(strategy, "strategy")
    elif strategy in POLICIES:
        policy_class = POLICIES[strategy]
    else:
        raise ConfigError(
            f"strategy {strategy!r}: known are {', '.join(POLICIES)}; an own one is written package.module:Class"
        )
    arguments = {
        "model": model,
        "num_slices": num_slices,
        "max_batch": max_batch,
        "max_wait_s": max_wait_s,
    }
    try:
        inspect.signature(policy_class).bind(**arguments, **dict(options or {}))
    except TypeError as error:
        raise ConfigError(f"strategy {strategy!r} with options {dict(options or {})}: {error}") from None
    return cast(Policy, policy_class(**arguments, **dict(options or {})))
