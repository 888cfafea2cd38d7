"""Arrivals for simulations, and the search for goodput, so that all strategies see exactly the same ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from deployments.costs.cost_model import CostModel
from deployments.simulation.simulator import Arrival
from slicer.errors import ConfigError

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Workload:
    """An open loop: arrivals are fixed beforehand, whatever the server does. The same seed at another rate is the same
    pattern, stretched, so that a search over rates compares like with like.

    Attributes:
        entries: where requests enter; `weights`: how often, relative to each other (None: equally).
        requests: how many.
        process: ``poisson`` (many independent sources), or ``periodic``: devices by their own clocks, each with
            a random phase and an entry of its own.
        device_rate_rps: of one periodic device.
    """

    entries: tuple[int, ...]
    requests: int = 5000
    weights: tuple[float, ...] | None = None
    process: Literal["poisson", "periodic"] = "poisson"
    device_rate_rps: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.entries or self.requests < 1:
            raise ConfigError(f"entries {self.entries}, requests {self.requests}: there must be at least one of each")
        if self.weights is not None and (len(self.weights) != len(self.entries) or min(self.weights) <= 0):
            raise ConfigError(f"weights {self.weights}: one above 0 for each of the entries {self.entries}")

    def arrivals(self, rate_rps: float, slo_s: float | None = None) -> list[Arrival]:
        """The requests at this rate, in order; with deadlines `slo_s` after their arrival if it is given.

        Raises:
            ConfigError: the rate is not above 0.
        """
        if not rate_rps > 0:
            raise ConfigError(f"rate {rate_rps}: requests per second, above 0")
        generator = np.random.default_rng(self.seed)
        make = self._poisson if self.process == "poisson" else self._periodic
        times_s, entries = make(generator, rate_rps)
        return [
            Arrival(time_s, entry, None if slo_s is None else time_s + slo_s)
            for time_s, entry in zip(times_s.tolist(), entries.tolist(), strict=True)
        ]

    def _choose(self, generator: np.random.Generator, count: int) -> npt.NDArray[np.int64]:
        weights = None if self.weights is None else np.array(self.weights) / sum(self.weights)
        return generator.choice(np.array(self.entries), count, p=weights)

    def _poisson(self, generator: np.random.Generator, rate_rps: float) -> tuple[Doubles, npt.NDArray[np.int64]]:
        times_s = np.cumsum(generator.exponential(1.0, self.requests)) / rate_rps
        return times_s, self._choose(generator, self.requests)

    def _periodic(self, generator: np.random.Generator, rate_rps: float) -> tuple[Doubles, npt.NDArray[np.int64]]:
        devices = max(1, round(rate_rps / self.device_rate_rps))
        phases, entry_of = generator.random(devices), self._choose(generator, devices)
        rounds = math.ceil(self.requests / devices)
        order = np.argsort(phases)
        times_s = ((np.arange(rounds)[:, None] + phases[order][None, :]) * (devices / rate_rps)).reshape(-1)
        return times_s[: self.requests], np.tile(entry_of[order], rounds)[: self.requests]

    def seeded(self, seed: int) -> Workload:
        """The same with another seed."""
        return replace(self, seed=seed)


def bound_rps(
    costs: CostModel, entries: Sequence[int], max_batch: int, weights: Sequence[float] | None = None
) -> float:
    """The rate that no strategy exceeds: every slice at full batches, ``1 / sum_j (Phi_j t_j(B) / B)``."""
    shares = weights or [1.0] * len(entries)
    per_row_s = [costs.tails(max_batch)[entry] / max_batch for entry in entries]
    return sum(shares) / sum(share * row_s for share, row_s in zip(shares, per_row_s, strict=True))


def goodput_rps(share_within: Callable[[float], float], highest_rps: float, share: float = 0.99) -> float:
    """The highest rate at which at least `share` of the offered requests of every entry are within the SLO.

    Args:
        share_within: rate -> the least share over the entries, as `Run.share_within` gives it.
        highest_rps: no rate above it is tried.

    Bisection to 1 %; 0.0 if the SLO is missed even at 1 % of the highest rate.
    """
    low_rps, high_rps = 0.0, highest_rps
    while high_rps - low_rps > max(0.01 * high_rps, 0.002 * highest_rps):
        rate_rps = (low_rps + high_rps) / 2
        if share_within(rate_rps) >= share:
            low_rps = rate_rps
        else:
            high_rps = rate_rps
    return low_rps
