"""Measures a cost table on the accelerator itself, through the executor's interface, before the first request."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime, timezone

import numpy as np

from deployments.costs.cost_model import Cell, CostModel, Source
from deployments.executors.base import Executor, OutOfMemory
from deployments.executors.enqueuing import Enqueuing
from deployments.scheduling.scheduler import SHARED, Row, Step

#: A measurement slower than so many medians was disturbed by something else, and is left out.
_OUTLIER = 3.0

#: Passes that are enqueued at once: one that runs, and one behind it.
_AT_ONCE = 2


def calibrate(
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
    way = Step(model, weights, entry, costs.num_slices, ())
    overheads_s: list[float] = []
    previous_s, previous_rows = 0.0, 0
    for bucket, rows in enumerate(costs.buckets):
        # A larger batch takes at most as much more time as it has more rows.
        expected_s = previous_s * rows / previous_rows if previous_rows else 0.0
        if previous_rows and clock() - began_s + expected_s > budget_s:
            break
        bucket_began_s = clock()
        try:
            passes = _passes(executor, way, (rows, *shape), repeats + 1, overheads_s, clock)[1:]
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


def _passes(
    executor: Executor,
    way: Step,
    shape: tuple[int, ...],
    count: int,
    overheads_s: list[float],
    clock: Callable[[], float],
) -> list[list[float]]:
    """Seconds of every slice of a way (a step without rows), for so many batches that pass it one after the other.

    Where steps can be enqueued, the next pass is behind the running one, as it is while serving: then the times are the
    accelerator's alone, and what the host does between two steps is in `overheads_s` only.
    """
    enqueuing = executor if isinstance(executor, Enqueuing) else None
    running: deque[tuple[tuple[Row, ...], list[object]]] = deque()
    times_s: list[list[float]] = []

    def end() -> None:
        rows, tickets = running.popleft()
        try:
            if enqueuing is not None:
                times_s.append([enqueuing.wait(ticket) for ticket in tickets])
        finally:
            for row in rows:
                executor.drop(row)

    try:
        for number in range(count):
            rows = tuple(Row(number * shape[0] + i, way.model, way.start, 0.0) for i in range(shape[0]))
            tickets: list[object] = []
            taken_s: list[float] = []
            executor.put(way.model, rows, np.zeros(shape, np.float32))
            running.append((rows, tickets))
            for index in range(way.start, way.end):
                began_s = clock()
                step = Step(way.model, way.weights, index, index + 1, rows)
                if enqueuing is not None:
                    tickets.append(enqueuing.launch(step))
                else:
                    taken_s.append(executor.run(step))
                overheads_s.append(max(clock() - began_s - sum(taken_s[-1:]), 0.0))
            if enqueuing is None:
                times_s.append(taken_s)
            if enqueuing is None or len(running) == _AT_ONCE:
                end()
    finally:
        while running:
            end()
    return times_s


def _cell(times_s: Sequence[float]) -> Cell:
    limit_s = _OUTLIER * statistics.median(times_s)
    kept = [time_s for time_s in times_s if time_s <= limit_s]
    return Cell(statistics.fmean(kept), statistics.pstdev(kept), len(kept))
