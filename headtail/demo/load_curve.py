"""Latency over offered rate in virtual time: the server's own scheduler and strategies on an emulated accelerator.

All figures here are emulated; with the shipped profile `launch-bound` they are hypothetical, too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from deployments.costs.cost_model import CostModel
from deployments.costs.profile_files import load_cost_profile
from deployments.simulation.simulator import Arrival, Setup, Simulation
from deployments.simulation.workloads import Workload, bound_rps, goodput_rps
from headtail.demo import serve_batch_model
from slicer.common.comparison import queue_grew
from slicer.errors import ConfigError

#: What is compared, from least to most batching. "server-only": nothing is split, every camera sends its image.
SERIES = ("server-only", "unbatched", "serve_batch", "per_tail_shared", "per_slice", "continuous")

#: A rate is kept where 99 of 100 answers come within so long.
LIMIT_MS = 60.0

#: Offered rates of the curve, requests per second.
RATES = (10, 20, 40, 60, 80, 100, 150, 200, 250, 300, 350, 400, 450, 500, 550, 600)

#: `batch_wait_timeout_s` that serve_batch may choose from; the one with the highest rate stands.
WAITS_S = (0.005, 0.01, 0.02, 0.03, 0.04)

_WARM_UP = 0.05


@dataclass(frozen=True)
class Point:
    """One rate; latencies of all requests of all seeds. `kept`: the queue did not grow, and p99 is within LIMIT_MS."""

    rate_rps: float
    mean_ms: float
    p99_ms: float
    grew: bool

    @property
    def kept(self) -> bool:
        """See above."""
        return not self.grew and self.p99_ms <= LIMIT_MS


@dataclass(frozen=True)
class Bench:
    """One accelerator, and cameras whose requests enter at `entries`.

    Attributes:
        profile: a shipped cost profile of 12 blocks; four slices of three blocks are made of it.
        requests: per seed and rate.
        serve_batch_wait_s: of serve_batch.
    """

    profile: str = "launch-bound"
    entries: tuple[int, ...] = (0, 1, 2, 3)
    requests: int = 3000
    seeds: tuple[int, ...] = (0, 1)
    max_batch: int = 32
    serve_batch_wait_s: float = 0.01

    @cached_property
    def costs(self) -> CostModel:
        """Of the four slices. Raises ConfigError."""
        blocks = load_cost_profile(self.profile)
        if blocks.num_slices % 4:
            raise ConfigError(
                f"profile {self.profile!r} has {blocks.num_slices} blocks; the demo needs a multiple of 4"
            )
        return blocks.regroup(range(0, blocks.num_slices + 1, blocks.num_slices // 4))

    @cached_property
    def whole_ms(self) -> float:
        """One row through the whole model, alone."""
        return self.costs.span_s(0, 4, 1) * 1e3

    def block_ms(self, rows: int) -> float:
        """One block of the twelve, with so many rows."""
        return self.costs.span_s(0, 4, rows) * 1e3 / 12

    @cached_property
    def bound_rps(self) -> float:
        """The rate that no strategy exceeds on these entries."""
        return bound_rps(self.costs, self.entries, self.max_batch)

    def arrivals(
        self, series: str, rate_rps: float, seed: int, requests: int, slo_s: float | None = None
    ) -> list[Arrival]:
        """Poisson; the same moments for every series."""
        entries = (0,) if series == "server-only" else self.entries
        return Workload(entries, requests, seed=seed).arrivals(rate_rps, slo_s)

    def latencies_s(self, series: str, arrivals: Sequence[Arrival]) -> npt.NDArray[np.float64]:
        """From arrival at the server to the answer, per request."""
        if series == "serve_batch":
            return serve_batch_model.latencies_s(
                arrivals, self.costs, max_batch=self.max_batch, wait_s=self.serve_batch_wait_s
            )
        return Simulation(Setup(self.costs, strategy_of(series), max_batch=self.max_batch)).run(arrivals).latency_s

    def point(self, series: str, rate_rps: float) -> Point:
        """All seeds at one rate, the first 5 % of each left out."""
        pooled, grew = [], False
        for seed in self.seeds:
            arrivals = self.arrivals(series, rate_rps, seed, self.requests)
            skip = int(len(arrivals) * _WARM_UP)
            latency_ms = self.latencies_s(series, arrivals)[skip:] * 1e3
            due_s = np.array([one.arrival_s for one in arrivals[skip:]]) - arrivals[skip].arrival_s
            grew = grew or queue_grew(due_s, latency_ms, float(due_s[-1]))
            pooled.append(latency_ms)
        values = np.concatenate(pooled)
        return Point(rate_rps, float(values.mean()), float(np.percentile(values, 99)), grew)

    def curve(self, series: str) -> list[Point]:
        """At `RATES`, up to the first that is not kept by far, which still stands in it."""
        found = []
        for rate_rps in RATES:
            found.append(self.point(series, rate_rps))
            if found[-1].grew or found[-1].p99_ms > 4 * LIMIT_MS:
                break
        return found

    def highest_rps(self, series: str) -> float:
        """The highest rate that is kept, to 1 %; 0: none is."""
        return goodput_rps(lambda rate_rps: float(self.point(series, rate_rps).kept), self.bound_rps, share=1.0)

    def with_best_wait(self) -> Bench:
        """The same with the waiting time of WAITS_S that suits serve_batch best, by the first seed."""
        found = {
            wait_s: replace(self, seeds=self.seeds[:1], serve_batch_wait_s=wait_s).highest_rps("serve_batch")
            for wait_s in WAITS_S
        }
        return replace(self, serve_batch_wait_s=max(found, key=lambda wait_s: found[wait_s]))

    def in_time_rps(self, series: str, slo_s: float) -> float:
        """The highest rate at which 99 % of the requests of every entry, which carry the deadline, are in time."""

        def share(rate_rps: float, seed: int) -> float:
            arrivals = self.arrivals(series, rate_rps, seed, self.requests, slo_s)
            run = Simulation(Setup(self.costs, strategy_of(series), max_batch=self.max_batch)).run(arrivals)
            return run.share_within(slo_s, _WARM_UP)

        each = [goodput_rps(lambda rate, s=seed: share(rate, s), self.bound_rps) for seed in self.seeds]  # type: ignore[misc]
        return math.fsum(each) / len(each)


def strategy_of(series: str) -> str:
    """The strategy that a series runs with."""
    return "continuous" if series == "server-only" else series
