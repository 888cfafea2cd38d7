"""Measures a cost table on the accelerator itself, through the executor's interface, before the first request."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone

import numpy as np

from deployments.costs import Cell, CostModel, Source
from deployments.executors import Executor, OutOfMemory
from deployments.scheduler import SHARED, Row, Step

#: A measurement slower than so many medians was disturbed by something else, and is left out.
_OUTLIER = 3.0


def measure(
    costs: CostModel,
    executor: Executor,
    *,
    model: str,
    entry: int,
    shape: Sequence[int],
    weights: str = SHARED,
    repeats: int = 5,
    budget_s: float = 1.0,
    clock: Callable[[], float] = time.perf_counter,
) -> CostModel:
    """Fill `costs` from the first entry on: rows of zeros go slice by slice to the end, for one bucket after the other.

    Args:
        costs: as many slices as the model has; what was known of a measured cell is replaced.
        executor: loaded and warm; it holds no row, and holds none afterwards.
        entry: the first slice that is resident; `shape` is that of one row there.
        repeats: passes per bucket, after one that is not counted.
        budget_s: the next bucket is not begun when it would probably go past it, and is found out while serving. One
            row is always measured.

    Returns `costs`. A batch that the memory does not hold ends the measurement, too.
    """
    began_s = clock()
    overheads_s: list[float] = []
    previous_s, previous_rows = 0.0, 0
    for bucket, rows in enumerate(costs.buckets):
        # A larger batch takes at most as much more time as it has more rows.
        expected_s = previous_s * rows / previous_rows if previous_rows else 0.0
        if previous_rows and clock() - began_s + expected_s > budget_s:
            break
        bucket_began_s = clock()
        try:
            passes = [
                _pass(executor, model, weights, entry, costs.num_slices, (rows, *shape), overheads_s, clock)
                for _ in range(repeats + 1)
            ][1:]
        except OutOfMemory:
            break
        for index, times_s in enumerate(zip(*passes, strict=True), start=entry):
            costs.fill(index, bucket, _cell(times_s))
        previous_s, previous_rows = clock() - bucket_began_s, rows
    costs.decision_s = statistics.median(overheads_s) if overheads_s else 0.0
    emulated = f"; emulated: {executor.emulated}" if executor.emulated else ""
    costs.source = Source(
        what=f"{model}, rows of zeros, {repeats} passes{emulated}",
        where=executor.name,
        when=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )
    return costs


def _pass(
    executor: Executor,
    model: str,
    weights: str,
    entry: int,
    num_slices: int,
    shape: tuple[int, ...],
    overheads_s: list[float],
    clock: Callable[[], float],
) -> list[float]:
    """Seconds of every slice, for one batch from the entry to the end."""
    rows = tuple(Row(key, model, entry, 0.0) for key in range(shape[0]))
    times_s = []
    try:
        executor.put(model, rows, np.zeros(shape, np.float32))
        for index in range(entry, num_slices):
            began_s = clock()
            execution_s = executor.run(Step(model, weights, index, index + 1, rows))
            overheads_s.append(max(clock() - began_s - execution_s, 0.0))
            times_s.append(execution_s)
    finally:
        for row in rows:
            executor.drop(row)
    return times_s


def _cell(times_s: Sequence[float]) -> Cell:
    limit_s = _OUTLIER * statistics.median(times_s)
    kept = [time_s for time_s in times_s if time_s <= limit_s]
    return Cell(statistics.fmean(kept), statistics.pstdev(kept), len(kept))
