"""The engine in virtual time: the very same scheduler and policies, with a cost table in place of an accelerator.

Event driven, so its speed depends on steps, not on seconds: some 10,000 to 100,000 requests per second of one core. All
that it leaves out is what `CostModel` does not hold: transport, admission, and time of the scheduler itself (unless
`Setup.decision_s` says so). Its results are *simulated*, and *hypothetical* where the profile is.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from deployments.costs.cost_model import CostModel
from deployments.scheduling.registry import make_policy
from deployments.scheduling.scheduler import Row, Scheduler, Step
from slicer.common.comparison import queue_grew
from slicer.core.protocol.messages import DEFAULT_PRIORITY
from slicer.errors import ConfigError

MODEL = "simulated"

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Arrival:
    """One request: when it arrives at the server, at which boundary it enters, its deadline and level (`Row`)."""

    arrival_s: float
    entry: int
    deadline_s: float | None = None
    priority: int = DEFAULT_PRIORITY


@dataclass(frozen=True)
class Setup:
    """What is simulated, beside the arrivals.

    Attributes:
        costs: of the model as it is cut: one slice per boundary that strategies may use.
        strategy, options, max_batch, max_wait_s: as in `make_policy`.
        accelerators: how many, each with a scheduler of its own.
        routing: how a request finds its accelerator: in turn, or the one with the fewest rows (of equals the first).
        decision_s: time that every step costs beside its execution.
        lead_s: so long before a step's end the next one is chosen, as the pipelined engine does (at most half of the
            step before): rows that arrive in between are not in it. 0: late binding without a cost, an ideal.
        draw: whether durations are drawn from the table's spread (lognormal), with `seed`; else they are the means.
    """

    costs: CostModel
    strategy: str
    options: Mapping[str, Any] = field(default_factory=dict)
    max_batch: int = 32
    max_wait_s: float = 1.0
    accelerators: int = 1
    routing: Literal["round_robin", "least_loaded"] = "round_robin"
    decision_s: float = 0.0
    lead_s: float = 0.0
    draw: bool = False
    seed: int = 0


@dataclass
class Run:
    """What happened. Arrays have one value per request, in order of arrival.

    Attributes:
        latency_s: from arrival to the end of its last step; infinite for a request that left too late.
        steps, rows, busy_s: executions, rows in them (a row counts once per step), seconds of execution.
        ended_s: when the last step ended.
    """

    arrivals: Sequence[Arrival]
    latency_s: Doubles
    steps: int
    rows: int
    busy_s: float
    ended_s: float
    accelerators: int

    def summary(self, warm_up: float = 0.05) -> dict[str, Any]:
        """Plain figures, without the first `warm_up` share of the requests."""
        skip = int(len(self.latency_s) * warm_up)
        latency_s, entries = self.latency_s[skip:], np.array([a.entry for a in self.arrivals[skip:]])
        finite = np.isfinite(latency_s)
        answered = latency_s[finite]
        span_s = self.arrivals[-1].arrival_s - self.arrivals[skip].arrival_s if len(answered) else 0.0
        due_s = np.array([a.arrival_s - self.arrivals[skip].arrival_s for a in self.arrivals[skip:]])
        return {
            "requests": len(latency_s),
            "answered": len(answered),
            "rate_rps": (len(latency_s) - 1) / span_s if span_s else 0.0,
            "mean_ms": _ms(answered.mean() if len(answered) else math.inf),
            "p50_ms": _ms(_percentile(latency_s, 50)),
            "p99_ms": _ms(_percentile(latency_s, 99)),
            "p99_ms_by_entry": {int(e): _ms(_percentile(latency_s[entries == e], 99)) for e in np.unique(entries)},
            "rows_per_step": self.rows / self.steps if self.steps else 0.0,
            "steps_per_request": self.steps / max(len(self.latency_s), 1),
            "utilisation": self.busy_s / (self.ended_s * self.accelerators) if self.ended_s else 0.0,
            "stable": not queue_grew(due_s[finite], answered * 1e3, span_s),
        }

    def share_within(self, slo_s: float, warm_up: float = 0.05) -> float:
        """The least share, over the entries, of offered requests that were answered within `slo_s`."""
        skip = int(len(self.latency_s) * warm_up)
        latency_s, entries = self.latency_s[skip:], np.array([a.entry for a in self.arrivals[skip:]])
        return min((float((latency_s[entries == entry] <= slo_s).mean()) for entry in np.unique(entries)), default=1.0)


class _Accelerator:
    def __init__(self, setup: Setup, index: int) -> None:
        policy = make_policy(
            setup.strategy,
            model=MODEL,
            num_slices=setup.costs.num_slices,
            max_batch=setup.max_batch,
            max_wait_s=setup.max_wait_s,
            options=setup.options,
            costs=setup.costs.copy(),
        )
        self.index = index
        self.scheduler = Scheduler({MODEL: policy})
        self.running: Step | None = None
        self.busy = False  # whether there will be a moment to choose what follows
        self.free_s = 0.0  # when all that was begun has ended
        self.held = 0  # rows that wait or run


class Simulation:
    """One run. `observer` is told of every step and when it began, in order; tests compare it with the engine's."""

    def __init__(self, setup: Setup, observer: Callable[[float, Step], None] | None = None) -> None:
        if setup.accelerators < 1:
            raise ConfigError(f"accelerators {setup.accelerators}: at least one must run the steps")
        self._setup = setup
        self._observer = observer
        self._random = random.Random(setup.seed)
        self._accelerators = [_Accelerator(setup, index) for index in range(setup.accelerators)]
        self._ends: list[tuple[float, int]] = []  # heap of (when to choose the next step: the end or a lead before it)

    def run(self, arrivals: Sequence[Arrival]) -> Run:
        """Serve these arrivals, which ascend in time, until the last one has ended."""
        self._latency_s = np.full(len(arrivals), math.inf)
        self._steps = self._rows = 0
        self._busy_s = now_s = 0.0
        due, count = 0, len(arrivals)
        while due < count or self._ends:
            now_s = self._ends[0][0] if self._ends else math.inf
            if due < count:
                now_s = min(now_s, arrivals[due].arrival_s)
            touched: dict[int, _Accelerator] = {}
            # Whoever arrives at the moment when a step ends is seen by the next decision, as in the engine.
            while due < count and arrivals[due].arrival_s <= now_s:
                accelerator = self._route(due)
                arrival = arrivals[due]
                accelerator.scheduler.add(
                    Row(due, MODEL, arrival.entry, arrival.arrival_s, arrival.deadline_s, arrival.priority)
                )
                accelerator.held += 1
                touched[accelerator.index] = accelerator
                due += 1
            while self._ends and self._ends[0][0] <= now_s:
                accelerator = self._accelerators[heapq.heappop(self._ends)[1]]
                accelerator.busy = False
                self._finish(accelerator, now_s)
                touched[accelerator.index] = accelerator
            for accelerator in touched.values():
                if not accelerator.busy:
                    self._begin(accelerator, now_s)
        ended_s = max(accelerator.free_s for accelerator in self._accelerators)
        return Run(arrivals, self._latency_s, self._steps, self._rows, self._busy_s, ended_s, len(self._accelerators))

    def _route(self, index: int) -> _Accelerator:
        if self._setup.routing == "least_loaded":
            return min(self._accelerators, key=lambda accelerator: (accelerator.held, accelerator.index))
        return self._accelerators[index % len(self._accelerators)]

    def _begin(self, accelerator: _Accelerator, now_s: float) -> None:
        accelerator.held -= len(accelerator.scheduler.expired(now_s))
        step = accelerator.scheduler.next(now_s)
        if step is None:
            if now_s < accelerator.free_s:  # nothing to enqueue, so the engine waits for the running step
                self._choose_again(accelerator, accelerator.free_s)
            return
        began_s = max(now_s, accelerator.free_s)
        if self._observer is not None:
            self._observer(began_s, step)
        duration_s = self._duration_s(step)
        self._steps += 1
        self._rows += len(step.rows)
        self._busy_s += duration_s
        accelerator.running, accelerator.free_s = step, began_s + duration_s + self._setup.decision_s
        lead_s = min(self._setup.lead_s, duration_s / 2)
        if lead_s:  # what is chosen next runs behind it, so its rows go back at once
            self._finish(accelerator, accelerator.free_s)
        self._choose_again(accelerator, accelerator.free_s - lead_s)

    def _choose_again(self, accelerator: _Accelerator, at_s: float) -> None:
        accelerator.busy = True
        heapq.heappush(self._ends, (at_s, accelerator.index))

    def _finish(self, accelerator: _Accelerator, ended_s: float) -> None:
        step, accelerator.running = accelerator.running, None
        for row in accelerator.scheduler.finish(step, ended_s) if step is not None else ():
            self._latency_s[row.key] = ended_s - row.arrival_s
            accelerator.held -= 1

    def _duration_s(self, step: Step) -> float:
        costs = self._setup.costs
        mean_s = costs.span_s(step.start, step.end, len(step.rows))
        if not self._setup.draw:
            return mean_s
        sigma = math.sqrt(math.log1p(costs.spread(step.start, step.end, len(step.rows)) ** 2))
        return mean_s * math.exp(self._random.gauss(-sigma * sigma / 2, sigma))


def _ms(seconds: float) -> float:
    return round(float(seconds) * 1e3, 4)


def _percentile(values: Doubles, percent: float) -> float:
    """The smallest value that at least `percent` of the values do not exceed; infinity counts as a value."""
    return float(np.percentile(values, percent, method="inverted_cdf")) if len(values) else math.inf
