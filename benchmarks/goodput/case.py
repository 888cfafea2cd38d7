"""What goodput.py measures, apart from how: a profile at one granularity, its arrivals, and what simulation says."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from actors.network.auto_transport import Way
from benchmarks.common.strategies import options_of
from deployments.costs.cost_model import CostModel
from deployments.costs.profile_files import load_cost_profile
from deployments.simulation.simulator import Arrival, Run, Setup, Simulation
from deployments.simulation.workloads import Workload, bound_rps, goodput_rps
from slicer.errors import ConfigError

WARM_UP = 0.05  # share of the requests of a point that is not counted


@dataclass(frozen=True)
class Case:
    """See the command line's help for the fields.

    Raises:
        ConfigError: the profile cannot be read, or the boundaries or entries do not go with it.
    """

    profile_name: str
    boundaries: int = 4
    entry_blocks: tuple[int, ...] = (0, 3, 6, 9)
    max_batch: int = 32
    senders: int = 1
    deadlines: bool = False
    decision_us: float = 0.0
    burn_launch_ms: float = 0.0
    raw: Path | None = None
    most_seconds: float = math.inf
    way: Way = "auto"

    def __post_init__(self) -> None:
        blocks = self.profile.num_slices
        if self.boundaries < 1 or blocks % self.boundaries:
            raise ConfigError(f"--boundaries {self.boundaries} does not divide the profile's {blocks} slices")
        size = blocks // self.boundaries
        if any(entry % size or not 0 <= entry < blocks for entry in self.entry_blocks):
            raise ConfigError(
                f"--entries {','.join(map(str, self.entry_blocks))}: with {self.boundaries} boundaries, multiples of "
                f"{size} below {blocks}"
            )

    @cached_property
    def profile(self) -> CostModel:
        """The table, block by block."""
        return load_cost_profile(self.profile_name)

    @cached_property
    def costs(self) -> CostModel:
        """The table of the model as it is cut."""
        blocks = self.profile.num_slices
        return self.profile.regroup(range(0, blocks + 1, blocks // self.boundaries))

    @cached_property
    def entries(self) -> tuple[int, ...]:
        """The entries in slices."""
        return tuple(entry * self.boundaries // self.profile.num_slices for entry in self.entry_blocks)

    @cached_property
    def whole_s(self) -> float:
        """One row through the whole model, alone."""
        return self.profile.span_s(0, self.profile.num_slices, 1)

    @cached_property
    def bound_rps(self) -> float:
        """The rate that no strategy exceeds."""
        return bound_rps(self.costs, self.entries, self.max_batch)

    def workload(self, rate_rps: float, seed: int, requests: int, seconds: float) -> Workload:
        """So many counted requests, or as many as the rate brings in so many seconds, and the warm-up before them.

        Fewer where they would take longer than `most_seconds`; a rate of 0 has no such limit.
        """
        counted = max(requests, math.ceil(rate_rps * seconds))
        if rate_rps and math.isfinite(self.most_seconds):
            counted = min(counted, math.ceil(rate_rps * self.most_seconds))
        return Workload(self.entries, math.ceil(counted / (1 - WARM_UP)), seed=seed)

    def simulate(self, strategy: str, arrivals: list[Arrival], slo_s: float) -> Run | None:
        """The simulator on these arrivals; None for serve_batch, whose batches Serve makes."""
        if strategy == "serve_batch":
            return None
        setup = Setup(
            self.costs,
            strategy,
            options=options_of(strategy, slo_s),
            max_batch=self.max_batch,
            decision_s=self.decision_us * 1e-6,
        )
        return Simulation(setup).run(arrivals)

    def predict(self, strategy: str, seed: int, slo_s: float, requests: int, seconds: float = 0.0) -> float:
        """Simulated goodput on the arrivals that the seed offers; for serve_batch half of what per_tail_shared has."""
        asked = "per_tail_shared" if strategy == "serve_batch" else strategy

        def share(rate_rps: float) -> float:
            arrivals = self.workload(rate_rps, seed, requests, seconds).arrivals(
                rate_rps, slo_s if self.deadlines else None
            )
            run = self.simulate(asked, arrivals, slo_s)
            return float(run.share_within(slo_s, WARM_UP)) if run else 0.0

        found = goodput_rps(share, self.bound_rps)
        return found / 2 if strategy == "serve_batch" else found
