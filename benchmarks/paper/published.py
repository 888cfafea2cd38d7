"""The batching of the paper's published scripts, as own strategies: a batch runs only when it is full.

Mubark & Uddin's prototype waits for 4 requests of one tail ("batch per model"), or for 16 at one slice ("batch per
slice"). Our per_tail and per_slice are the same ideas without that wait, so the two stand beside each other in
``paper.py --as-published``. Rows of a batch that never fills are never answered, there as here.
"""

from __future__ import annotations

from dataclasses import dataclass

from deployments.scheduling.queue_policy import QueuePolicy, by_turn
from deployments.scheduling.scheduler import Step
from deployments.scheduling.simple import PerSlice, PerTailShared


@dataclass
class FullPerModel(PerTailShared):
    """One queue per entry; a tail runs when `full` requests wait for it. The scripts share modules between tails."""

    full: int = 4

    def next(self, now_s: float) -> Step | None:
        """The whole tail of the full queue with the oldest row; None: none is full."""
        entry = _full_queue(self, self.full)
        if entry is None:
            return None
        return Step(self.model, self.weights_of(entry), entry, self.num_slices, self.take(entry, self.full))


@dataclass
class FullPerSlice(PerSlice):
    """One queue per slice; a slice runs when `full` rows wait for it."""

    full: int = 16

    def next(self, now_s: float) -> Step | None:
        """One slice for the full queue with the oldest row; None: none is full."""
        boundary = _full_queue(self, self.full)
        if boundary is None:
            return None
        return Step(self.model, "shared", boundary, boundary + 1, self.take(boundary, self.full))


def _full_queue(policy: QueuePolicy, full: int) -> int | None:
    queues = {name: queue for name, queue in policy.queues.items() if len(queue) >= full}
    return min(queues, key=lambda name: by_turn(queues[name][0]), default=None)
