"""The arithmetic of every figure that is published: percentiles, validity, growing queues, paired ratios.

Pure functions over numbers; load jobs and benchmarks use the same ones. A figure that cannot be computed is None, never
zero. Percentiles interpolate linearly between order statistics (numpy's default).
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from slicer.core.common.statistics import Values as Values
from slicer.core.common.statistics import mean as mean
from slicer.core.common.statistics import percentile as percentile

#: A run is invalid when the generator's lag p99 exceeds this share of its p50 inference time.
MAX_LAG_SHARE = 0.05

#: Answers that each quarter of a run needs before a growing queue can be told from a few slow requests.
_LEAST_PER_QUARTER = 5


def in_time(lags: Values, latencies: Values) -> bool:
    """Whether the load generator was: its lag p99 is at most `MAX_LAG_SHARE` of the median latency (same unit)."""
    lag, median = percentile(lags, 99), percentile(latencies, 50)
    return lag is not None and median is not None and lag <= MAX_LAG_SHARE * median


def queue_grew(scheduled_s: Values, latencies_ms: Values, window_s: float) -> bool:
    """Whether the queue grew all through an open-loop run, so that a latency would only say how long the run was.

    The median latency of each quarter of the arrival window exceeds that of the quarter before it, the last is at least
    twice the first, and the growth is at least 2 % of the window (the offered rate exceeds what is served by about
    3 %). Needs 5 answers in every quarter.

    Args:
        scheduled_s: when each answered request was due, from the start of the window; the order is free.
        latencies_ms: of the same requests.
        window_s: length of the arrival window.
    """
    if window_s <= 0 or not len(scheduled_s):
        return False
    latencies = np.asarray(latencies_ms, dtype=float)
    quarter = np.clip((4 * np.asarray(scheduled_s, dtype=float) / window_s).astype(int), 0, 3)
    parts = [latencies[quarter == index] for index in range(4)]
    if min(len(part) for part in parts) < _LEAST_PER_QUARTER:
        return False
    medians = [float(np.median(part)) for part in parts]
    grows = all(later > earlier for earlier, later in itertools.pairwise(medians))
    return grows and medians[3] >= 2 * medians[0] and medians[3] - medians[0] >= 0.02 * 1000 * window_s


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Student's 95 % confidence interval of the mean; None for fewer than two values.

    The quantile is `scipy.stats.t`'s, by the function that it calls itself: `scipy.stats` takes a second to import.
    """
    if len(values) < 2:
        return None
    centre = statistics.fmean(values)
    half = float(stdtrit(len(values) - 1, 0.975)) * statistics.stdev(values) / math.sqrt(len(values))
    return centre - half, centre + half


@dataclass(frozen=True)
class Ratio:
    """A paired ratio: geometric mean, its 95 % confidence interval (None with one pair), and each pair's own."""

    ratio: float
    low: float | None
    high: float | None
    by_pair: tuple[float, ...]

    @property
    def pairs(self) -> int:
        """How many pairs it is of."""
        return len(self.by_pair)


def paired_ratio(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """``ours / theirs`` pair by pair (the same seed, or the same round): mean and interval of the logarithms.

    Raises:
        ValueError: not the same number of values, none at all, or one that is not above 0.
    """
    if len(ours) != len(theirs) or not ours or min(*ours, *theirs) <= 0:
        raise ValueError(f"{list(ours)} over {list(theirs)}: pairs of values above 0 are needed")
    logs = [math.log(a / b) for a, b in zip(ours, theirs, strict=True)]
    found = interval(logs)
    low, high = (None, None) if found is None else map(math.exp, found)
    return Ratio(math.exp(statistics.fmean(logs)), low, high, tuple(map(math.exp, logs)))
