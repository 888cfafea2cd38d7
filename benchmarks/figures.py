"""The arithmetic of comparisons: means over seeds, paired ratios with Student's 95 % intervals, and what is valid."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Values = Sequence[float] | npt.NDArray[np.float64]

#: Two-sided 95 % quantiles of Student's t by degrees of freedom; above, that of the normal distribution.
_T95 = (
    12.71,
    4.30,
    3.18,
    2.78,
    2.57,
    2.45,
    2.36,
    2.31,
    2.26,
    2.23,
    2.20,
    2.18,
    2.16,
    2.14,
    2.13,
    2.12,
    2.11,
    2.10,
    2.09,
)


def interval(values: Sequence[float]) -> list[float] | None:
    """The 95 % confidence interval of the mean; None for fewer than two values."""
    if len(values) < 2:
        return None
    mean, half = _mean_and_half(values)
    return [round(mean - half, 4), round(mean + half, 4)]


def _mean_and_half(values: Sequence[float]) -> tuple[float, float]:
    freedom = len(values) - 1
    t = _T95[freedom - 1] if freedom <= len(_T95) else 1.96
    return statistics.fmean(values), t * statistics.stdev(values) / math.sqrt(len(values))


def paired_ratio(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Any]:
    """``ours / theirs`` seed by seed: the geometric mean as ``ratio``, its interval ``ci95``, and ``by_seed``.

    Raises:
        ValueError: not the same number of values, none at all, or one that is not above 0.
    """
    if len(ours) != len(theirs) or not ours or min(*ours, *theirs) <= 0:
        raise ValueError(f"{list(ours)} over {list(theirs)}: pairs of values above 0 are needed")
    logs = [math.log(a / b) for a, b in zip(ours, theirs, strict=True)]
    mean, half = _mean_and_half(logs) if len(logs) > 1 else (logs[0], math.nan)
    return {
        "ratio": round(math.exp(mean), 4),
        "ci95": [round(math.exp(mean - half), 4), round(math.exp(mean + half), 4)] if len(logs) > 1 else None,
        "by_seed": [round(math.exp(one), 4) for one in logs],
    }


def in_time(lags: Values, latencies: Values) -> bool:
    """Whether the load generator was: the 99th percentile of its lag is at most 5 % of the median latency."""
    return len(latencies) > 0 and bool(np.percentile(lags, 99) <= 0.05 * np.percentile(latencies, 50))


def stable(latencies: Values) -> bool:
    """A queue that grows shows as a later half that waits much longer than the earlier one."""
    half = len(latencies) // 2
    return half > 0 and bool(np.median(latencies[half:]) < 2 * np.median(latencies[:half]))
