"""An engine in this process under load, without Ray: for benchmarks of strategies on one accelerator.

Model, policy, executor, cost table and engine are made as `deployments.replica.tail_server` makes them; what is left
out is the way in. For a half-precision model on an accelerator rows arrive as float16, as devices send them, in the
memory that the executor offers for receiving.

Open loop: arrivals are scheduled beforehand and a request's clock starts at its schedule. Closed loop: so many clients,
each with one request in the engine, and no think time. A warm-up is not counted, the drain is.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from deployments.costs.cost_model import CostModel
from deployments.engine.calibrate import calibrate
from deployments.engine.ledger import EngineStats, Outcome
from deployments.engine.pipelined import engine_class
from deployments.engine.warm_up import warm_up
from deployments.executors.base import Executor
from deployments.executors.enqueuing import Enqueuing
from deployments.executors.registry import make_executor
from deployments.scheduling.registry import find_strategy, make_policy
from deployments.scheduling.scheduler import Scheduler
from deployments.simulation.simulator import Arrival
from slicer.common.comparison import in_time, percentile, queue_grew
from slicer.common.thread_timing import hand_over_soon, sleep_exactly
from slicer.slicing.slice_model import SlicedModel

MODEL = "model"
WARM_UP = 0.05  # share of an open loop's requests that is not counted
_ROWS = 64  # different rows per entry; requests take turns with them


@dataclass(frozen=True)
class Setup:
    """What is loaded; fields as in the server's configuration.

    Attributes:
        warm_up_by: another strategy whose steps warm the weights up, for one that keeps single rows waiting.
    """

    strategy: str
    entries: tuple[int, ...]
    max_batch: int = 32
    device: str = "cpu"
    threads: int | None = 1
    executor: str = "torch"
    executor_options: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    warm_up_by: str | None = None


@dataclass(slots=True)
class Record:
    """One request; moments in seconds on this host's monotonic clock."""

    due_s: float
    entry: int
    submitted_s: float = 0.0
    ended_s: float = 0.0
    outcome: str = "lost"
    queue_s: float = 0.0
    execution_s: float = 0.0
    rows_per_step: tuple[int, ...] = ()


class Harness:
    """A loaded engine; `open_loop` and `closed_loop` one after another, from one thread.

    Args:
        sliced: the model; on the CPU strategies with one copy of the weights run on this one.
        costs: a table to decide by; None: measured now, for a strategy that wants one.
    """

    def __init__(self, sliced: SlicedModel, setup: Setup, costs: CostModel | None = None) -> None:
        hand_over_soon()  # as the server does
        self.setup = setup
        self.executor: Executor = make_executor(
            setup.executor, device=setup.device, threads=setup.threads, options=setup.executor_options
        )
        table = None
        strategy = find_strategy(setup.strategy)
        if strategy.needs_costs:
            empty = CostModel.unknown(sliced.num_slices, setup.max_batch, padded=self.executor.padded)
            table = costs.copy() if costs else empty
            table.overlapped = isinstance(self.executor, Enqueuing)
        policy = strategy.policy(
            model=MODEL,
            num_slices=sliced.num_slices,
            max_batch=setup.max_batch,
            options=setup.options,
            costs=table,
        )
        self.executor.load(MODEL, sliced, policy.residents(setup.entries))
        shapes = {entry: sliced.shape_at(entry) for entry in setup.entries}
        receiving = self.executor.receiving
        own_memory = type(self.executor).receiving is not Executor.receiving
        half = own_memory and next(sliced.module.parameters()).element_size() == 2
        dtype = np.float16 if half else np.float32
        self._rows = {entry: receiving((_ROWS, *shape), dtype) for entry, shape in shapes.items()}
        random = np.random.default_rng(0)
        for rows in self._rows.values():
            rows[:] = random.standard_normal(rows.shape, np.float32)
        first_steps = policy
        if setup.warm_up_by is not None:
            first_steps = make_policy(setup.warm_up_by, model=MODEL, num_slices=sliced.num_slices)
        warm_up(Scheduler({MODEL: first_steps}), self.executor, {MODEL: shapes}, dtype)
        if table is not None and costs is None:
            first = min(setup.entries)
            calibrate(table, self.executor, model=MODEL, entry=first, shape=shapes[first])
        self.costs = table
        self.engine = engine_class(self.executor)(
            Scheduler({MODEL: policy}), self.executor, self._deliver, max_rows=1 << 20
        )
        self._meeting: dict[int, Record | Outcome] = {}  # by key, whichever of the two came first
        self._given_up: set[int] = set()  # keys of rows whose outcome nobody waits for
        self._next: Callable[[Record], None] | None = None
        gc.collect()
        gc.freeze()  # as the server does
        self.engine.start()

    def open_loop(self, arrivals: Sequence[Arrival], patience_s: float = 60.0) -> tuple[list[Record], EngineStats]:
        """Offer these arrivals; every request's record, in order, once all have ended, and the engine's counters.

        A request that has not ended `patience_s` after the last was due stays `lost` (published policies that wait for
        a full batch never run the last rows).
        """
        sleep_exactly()
        self.engine.reset_stats()
        began_s = time.monotonic() + 0.02
        records = [Record(began_s + arrival.arrival_s, arrival.entry) for arrival in arrivals]
        for number, record in enumerate(records):
            while (left_s := record.due_s - time.monotonic()) > 0:
                time.sleep(left_s)
            self._submit(record, number)
        return records, self._drained(patience_s)

    def closed_loop(
        self, clients: int, seconds: float, warm_up_s: float = 0.5, patience_s: float = 60.0
    ) -> tuple[list[Record], EngineStats]:
        """So many clients without think time, their entries in turn; the requests that ended after the warm-up."""
        entries, records = self.setup.entries, list[Record]()
        until_s = time.monotonic() + warm_up_s + seconds

        def again(record: Record) -> None:
            now_s = time.monotonic()
            if now_s < until_s:
                following = Record(now_s, entries[(entries.index(record.entry) + 1) % len(entries)])
                records.append(following)
                self._submit(following, len(records))

        for client in range(clients):
            records.append(Record(time.monotonic(), entries[client % len(entries)]))
        self._next = again
        for number, record in enumerate(list(records)):
            self._submit(record, number)
        time.sleep(warm_up_s)
        self.engine.reset_stats()
        counted_from_s = until_s - seconds
        time.sleep(max(0.0, until_s - time.monotonic()))
        stats = self.engine.stats()
        self._drained(patience_s)
        self._next = None
        return [record for record in records if counted_from_s <= record.ended_s < until_s], stats

    def close(self) -> None:
        """End the engine's thread."""
        self.engine.stop()
        gc.unfreeze()

    def _submit(self, record: Record, number: int) -> None:
        row = self._rows[record.entry][number % _ROWS][None]
        record.submitted_s = time.monotonic()
        (key,) = self.engine.submit(MODEL, record.entry, row, [record.due_s], [None])
        outcome = self._meet(key, record)
        if isinstance(outcome, Outcome):
            self._close(record, outcome)

    def _deliver(self, outcomes: list[Outcome]) -> None:
        for outcome in outcomes:
            if outcome.key in self._given_up:
                continue
            record = self._meet(outcome.key, outcome)
            if isinstance(record, Record):
                self._close(record, outcome)

    def _meet(self, key: int, one: Record | Outcome) -> Record | Outcome | None:
        """The other one, if it was here before; an outcome may be delivered before `submit` has returned the key."""
        other = self._meeting.setdefault(key, one)  # atomic, so no lock is needed
        if other is one:
            return None
        del self._meeting[key]
        return other

    def _close(self, record: Record, outcome: Outcome) -> None:
        record.ended_s = time.monotonic()
        record.outcome = outcome.code or "answered"
        record.queue_s, record.execution_s = outcome.queue_s, outcome.execution_s
        record.rows_per_step = outcome.rows_per_step
        if self._next is not None:
            self._next(record)

    def _drained(self, patience_s: float) -> EngineStats:
        until_s = time.monotonic() + patience_s
        while self._meeting and time.monotonic() < until_s:
            time.sleep(0.002)
        stats = self.engine.stats()
        left = list(self._meeting)
        self._given_up.update(left)
        self._meeting = {}
        for key in left:
            self.engine.cancel(key)
        return stats


def summary(records: Sequence[Record], wall_s: float | None = None, warm_up: float = WARM_UP) -> dict[str, Any]:
    """Plain figures of a run: inference time from the due moment to the end, in ms, and whether the run is valid.

    Args:
        wall_s: what the rate is over; None: from the first counted due moment to the last end.
        warm_up: share of the records, by their order, that is not counted.
    """
    counted = list(records)[int(len(records) * warm_up) :]
    answered = [record for record in counted if record.outcome == "answered"]
    if not answered:
        return {"requests": len(counted), "answered": 0, "valid": False, "stable": False}
    times_ms = np.array([(record.ended_s - record.due_s) * 1e3 for record in answered])
    lag_ms = np.array([(record.submitted_s - record.due_s) * 1e3 for record in counted])
    due_s = np.array([record.due_s - counted[0].due_s for record in answered])
    wall_s = wall_s or max(record.ended_s for record in answered) - counted[0].due_s
    return {
        "requests": len(counted),
        "answered": len(answered),
        "rate_rps": len(answered) / wall_s,
        "mean_ms": float(times_ms.mean()),
        "p50_ms": percentile(times_ms, 50),
        "p99_ms": percentile(times_ms, 99),
        "rows_per_step": statistics.fmean(statistics.fmean(record.rows_per_step) for record in answered),
        "generator_lag_p99_ms": percentile(lag_ms, 99),
        "valid": in_time(lag_ms, times_ms),
        "stable": not queue_grew(due_s, times_ms, counted[-1].due_s - counted[0].due_s),
    }


def replayed(records: Sequence[Record]) -> list[Arrival]:
    """The arrivals as the engine saw them, from 0 s, for the simulator."""
    first_s = min(record.submitted_s for record in records)
    ordered = sorted(records, key=lambda record: record.submitted_s)
    return [Arrival(record.submitted_s - first_s, record.entry) for record in ordered]


def latencies_ms(records: Sequence[Record]) -> npt.NDArray[np.float64]:
    """From submission to the end, of those answered; what the simulator's latency is."""
    return np.array([(r.ended_s - r.submitted_s) * 1e3 for r in records if r.outcome == "answered"])
