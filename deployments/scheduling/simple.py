"""The four strategies that need no costs: small policies over the same queues.

They differ in two things only: which rows form a step, and which weights are resident. None of them waits for a fuller
batch: a batch is whatever waits, up to the limit, at the moment when the accelerator is free (late binding).

Levels (`Row.priority`): each step has a row of the lowest level that waits at all, and no row is in it while one of a
lower level stays behind at the same place. What they say of the oldest row is said of that level's. Rows of other
levels may fill up a batch.

Source of per_tail and per_slice: Mubark & Uddin, "Batching Model Slices for Resource-Efficient Execution of Transformer
Models in Edge AI", IEEE MDM 2025 ("batch per model" and "batch per slice").
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from deployments.scheduling.queue_policy import QueuePolicy
from deployments.scheduling.scheduler import SHARED, Resident, Step
from slicer.errors import ConfigError


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
            to the end), ``shallowest``, ``fullest`` (of equal ones the deepest); of those with the lowest level.

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
        return max(self.filled(), default=None)

    def shallowest_queue(self) -> int | None:
        """The filled queue nearest to the input."""
        return min(self.filled(), default=None)

    def fullest_queue(self) -> int | None:
        """The queue with the most rows, of equal ones the deepest."""
        return max(self.filled(), key=lambda name: (len(self.queues[name]), name), default=None)


#: Which queue goes next, by the name of `PerSlice.order`.
ORDERS: Mapping[str, Callable[[PerSlice], int | None]] = {
    "oldest": PerSlice.oldest_queue,
    "deepest": PerSlice.deepest_queue,
    "shallowest": PerSlice.shallowest_queue,
    "fullest": PerSlice.fullest_queue,
}
