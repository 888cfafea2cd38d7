"""One checkout's engine under load in virtual time, for engine_cost.py: a case a line comes in, its figures go out.

    python benchmarks/serving/engine_cost_worker.py CHECKOUT

Nothing but this file is taken from the checkout that it stands in. The executor computes nothing and keeps nothing of a
row; its steps take the table's time on a fake clock, so what the thread spends is the engine, the scheduler, the ledger
and this file's own loop (about 1 us a row).
"""

from __future__ import annotations

import gc
import hashlib
import json
import math
import sys
import time
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

sys.path.insert(0, sys.argv[1])

import numpy as np

from deployments.costs.profile_files import load_cost_profile
from deployments.engine.engine import Engine
from deployments.engine.pipelined import PipelinedEngine
from deployments.scheduling.registry import make_policy
from deployments.scheduling.scheduler import Scheduler, Step
from deployments.simulation.simulator import Arrival
from deployments.simulation.workloads import Workload, bound_rps
from deployments.testing.fakes import FakeClock

MODEL, CLASSES, MAX_BATCH = "toy", 10, 32
ROWS = np.zeros((1024, 1), np.float32)
LOGITS = np.zeros((MAX_BATCH, CLASSES), np.float32)
ENTRIES = {4: (0, 1, 2, 3), 12: (0, 3, 6, 9)}  # the same places of the model


class Accelerator:
    """Takes the table's time on the clock; `launches` counts its steps, `log` keeps them where that is asked for."""

    name, emulated, padded, notes = "virtual", "no compute", False, ()

    def __init__(self, clock: FakeClock, seconds: dict[tuple[int, int, int], float], log: list[Any] | None) -> None:
        self._clock, self._seconds, self._log = clock, seconds, log
        self._free_s = 0.0
        self.launches = 0

    def put(self, model: str, rows: object, batch: object) -> None: ...

    def flush(self) -> None: ...

    def drop(self, row: object) -> None: ...

    def launch(self, step: Step) -> tuple[float, float]:
        self.launches += 1
        if self._log is not None:
            self._log.append((step.start, step.end, [row.key for row in step.rows]))
        began_s = max(self._clock.now_s, self._free_s)
        self._free_s = began_s + self._seconds[step.start, step.end, len(step.rows)]
        return began_s, self._free_s

    def wait(self, ticket: tuple[float, float]) -> float:
        began_s, ended_s = ticket
        self._clock.now_s = max(self._clock.now_s, ended_s)
        return ended_s - began_s

    def run(self, step: Step) -> float:
        return self.wait(self.launch(step))

    def take(self, rows: Sequence[object]) -> Any:
        return LOGITS[: len(rows)]


class Driver:
    """Submits arrivals when the clock has reached them: one by one, or together with those of the same entry."""

    def __init__(self, engine: Engine, clock: FakeClock, arrivals: list[Arrival], together: bool) -> None:
        self._engine, self._clock, self._arrivals, self._together = engine, clock, arrivals, together
        self._due = 0
        self._next_s = arrivals[0].arrival_s  # when the next one arrives; infinite: all have

    def run(self) -> None:
        if isinstance(self._engine, PipelinedEngine):
            self._run_pipelined(self._engine)
        else:
            self._run_plain()

    def _run_plain(self) -> None:
        clock, step_once = self._clock, self._engine.step_once
        while True:
            if clock.now_s >= self._next_s:
                self._submit_due()
            if step_once() is None:
                if self._next_s == math.inf:
                    return
                clock.now_s = self._next_s

    def _run_pipelined(self, engine: PipelinedEngine) -> None:
        clock, turn, together = self._clock, engine.turn, self._together
        while True:
            if clock.now_s >= self._next_s:
                self._submit_due()
            sleep_s = turn()
            if sleep_s == 0.0:
                continue
            next_s = self._next_s
            if sleep_s is None:
                if next_s == math.inf:
                    return
                clock.now_s = next_s
            elif together or clock.now_s + sleep_s < next_s:
                clock.now_s += sleep_s
            else:  # whoever comes wakes the engine's thread
                clock.now_s = next_s

    def _submit_due(self) -> None:
        arrivals, now_s, first = self._arrivals, self._clock.now_s, self._due
        due = first
        while due < len(arrivals) and arrivals[due].arrival_s <= now_s:
            due += 1
        self._due = due
        self._next_s = arrivals[due].arrival_s if due < len(arrivals) else math.inf
        came = arrivals[first:due]
        if self._together and len(came) > 1:
            for entry, rows in groupby(sorted(came, key=_entry), key=_entry):
                self._submit(entry, [row.arrival_s for row in rows])
        else:
            for arrival in came:
                self._submit(arrival.entry, [arrival.arrival_s])

    def _submit(self, entry: int, arrivals_s: list[float]) -> None:
        count = len(arrivals_s)
        self._engine.submit(MODEL, entry, ROWS[:count], arrivals_s, [None] * count)


def _entry(arrival: Arrival) -> int:
    return arrival.entry


def measure(case: dict[str, Any]) -> dict[str, Any]:
    """Microseconds of this thread per request of a case, and what ran.

    Its keys: engine, strategy, boundaries, load (share of `bound_rps`), together, requests, log (whether to say a
    digest of all steps and outcomes, in place of a time).
    """
    costs = load_cost_profile("launch-bound")
    boundaries = case["boundaries"]
    costs = costs.regroup(range(0, costs.num_slices + 1, costs.num_slices // boundaries))
    costs.overlapped = case["engine"] == "pipelined"
    policy = make_policy(case["strategy"], model=MODEL, num_slices=boundaries, max_batch=MAX_BATCH, costs=costs.copy())
    log: list[Any] | None = [] if case["log"] else None
    seconds = {
        (start, end, rows): costs.span_s(start, end, rows)
        for start in range(boundaries)
        for end in range(start + 1, boundaries + 1)
        for rows in range(1, MAX_BATCH + 1)
    }
    clock = FakeClock()
    executor = Accelerator(clock, seconds, log)
    answered = 0

    def deliver(outcomes: Iterable[Any]) -> None:
        nonlocal answered
        for outcome in outcomes:
            answered += outcome.logits is not None
            if log is not None:
                log.append((outcome.key, outcome.queue_s, outcome.execution_s, outcome.rows_per_step))

    make: Any = PipelinedEngine if case["engine"] == "pipelined" else Engine
    engine = make(Scheduler({MODEL: policy}), executor, deliver, clock=clock, max_rows=1 << 20)
    entries = ENTRIES[boundaries]
    rate_rps = case["load"] * bound_rps(costs, entries, MAX_BATCH)
    arrivals = Workload(entries, case["requests"], seed=0).arrivals(rate_rps)
    driver = Driver(engine, clock, arrivals, case["together"])
    gc.collect()
    gc.freeze()  # as the server does
    began_s = time.thread_time()
    driver.run()
    taken_s = time.thread_time() - began_s
    gc.unfreeze()
    if answered != case["requests"]:
        raise RuntimeError(f"{answered} of {case['requests']} rows were answered")
    stats = engine.stats()
    found = {"rows_per_step": stats.rows / stats.steps, "steps_per_request": stats.rows / case["requests"]}
    if log is None:
        return {**found, "us": taken_s / case["requests"] * 1e6, "launches": executor.launches}
    return {**found, "digest": hashlib.sha256(repr(log).encode()).hexdigest()}


def main() -> None:
    """Serve cases until stdin ends."""
    where = Path(sys.modules[Engine.__module__].__file__ or "").resolve()
    if not where.is_relative_to(Path(sys.argv[1]).resolve()):
        raise RuntimeError(f"the engine came from {where}, not from {sys.argv[1]}")
    assert math.isfinite(measure({**WARM_UP, "log": False})["us"])
    for line in sys.stdin:
        print(json.dumps(measure(json.loads(line))), flush=True)


WARM_UP = {
    "engine": "pipelined",
    "strategy": "continuous",
    "boundaries": 4,
    "load": 0.5,
    "together": False,
    "requests": 500,
}

if __name__ == "__main__":
    main()
