"""Ray Serve's `@serve.batch` around each tail, in virtual time: strategy `serve_batch` without a host's noise.

As read in Ray 2.60 (`ray.serve.batching`): per entry, a batch begins with a request, and closes when it is full or
`wait_s` have passed, whether the accelerator is free or not. One batch of an entry runs at a time
(``max_concurrent_batches=1``, Serve's default); batches of different entries take turns in the order in which they may
run. The demo prints this model beside live points.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from deployments.costs.cost_model import CostModel
from deployments.simulation.simulator import Arrival


@dataclass(frozen=True)
class Batch:
    """Requests of one entry, by their index; `closed_s`: when Serve hands them on."""

    entry: int
    closed_s: float
    rows: tuple[int, ...]


def batches(arrivals: Sequence[Arrival], entry: int, max_batch: int, wait_s: float) -> list[Batch]:
    """The batches of one entry, in order. Only arrivals decide them."""
    found: list[Batch] = []
    rows: list[int] = []
    begun_s = 0.0
    for index, arrival in enumerate(arrivals):
        if arrival.entry != entry:
            continue
        if rows and arrival.arrival_s > begun_s + wait_s:
            found.append(Batch(entry, begun_s + wait_s, tuple(rows)))
            rows = []
        if not rows:
            begun_s = arrival.arrival_s
        rows.append(index)
        if len(rows) == max_batch:
            found.append(Batch(entry, arrival.arrival_s, tuple(rows)))
            rows = []
    if rows:
        found.append(Batch(entry, begun_s + wait_s, tuple(rows)))
    return found


def latencies_s(
    arrivals: Sequence[Arrival], costs: CostModel, *, max_batch: int, wait_s: float
) -> npt.NDArray[np.float64]:
    """From arrival to answer, per request, in order of arrival."""
    entries = sorted({arrival.entry for arrival in arrivals})
    waiting = {entry: deque(batches(arrivals, entry, max_batch, wait_s)) for entry in entries}
    permit_s = dict.fromkeys(entries, 0.0)  # when the entry's batch before has ended
    found = np.zeros(len(arrivals))
    free_s = 0.0
    while any(waiting.values()):
        ready = {entry: max(queue[0].closed_s, permit_s[entry]) for entry, queue in waiting.items() if queue}
        entry = min(ready, key=lambda one: (ready[one], one))
        batch = waiting[entry].popleft()
        free_s = max(free_s, ready[entry]) + costs.span_s(entry, costs.num_slices, len(batch.rows))
        permit_s[entry] = free_s
        for row in batch.rows:
            found[row] = free_s - arrivals[row].arrival_s
    return found
