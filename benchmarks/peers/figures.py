"""What is made of a run's records: percentiles, verdicts, the best of a grid, the next rate of a search. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.peers.settings import LIMIT_MS
from slicer.common.comparison import in_time, percentile, queue_grew

WARM_UP = 0.05  # share of the requests of a run that is not counted
SHARE = 0.99

#: Due, sent, received (None: no right answer came), in seconds of the run's clock; entry.
Records = Sequence[tuple[float, float, float | None, int]]


def point_of(records: Records, offered: int) -> dict[str, Any]:
    """The figures of one run.

    Args:
        records: in the order in which they were due; fewer than offered where the run was ended early.
        offered: how many requests were to be sent.

    Returns latencies of None where the queue grew or the run was ended early: they would say how long it was.
    """
    counted = records[int(WARM_UP * offered) :]
    answered = [(due_s, 1e3 * (received_s - due_s)) for due_s, _, received_s, _ in counted if received_s is not None]
    latencies = [ms for _, ms in answered]
    lags = [1e3 * (sent_s - due_s) for due_s, sent_s, _, _ in counted]
    first_s, last_s = (counted[0][0], counted[-1][0]) if counted else (0.0, 0.0)
    grew = queue_grew([due_s - first_s for due_s, _ in answered], latencies, last_s - first_s)
    stable = len(records) == offered and not grew and len(answered) >= SHARE * len(counted)
    within = sum(ms <= LIMIT_MS for ms in latencies) / max(len(counted), 1)
    return {
        "p50_ms": _rounded(percentile(latencies, 50)) if stable else None,
        "p99_ms": _rounded(percentile(latencies, 99)) if stable else None,
        "requests": len(counted),
        "answered": len(answered),
        "share_within_100ms": round(within, 4),
        "holds": stable and within >= SHARE,
        "stable": stable,
        "valid": in_time(lags, latencies),
        "generator_lag_p99_ms": _rounded(percentile(lags, 99)),
    }


def score(tried: Mapping[str, Mapping[str, Any]], rates: Sequence[float]) -> float:
    """Of a grid's setting, the lower the better: the geometric mean of the median at the first rate and p99 at the
    second; infinite where it does not keep the first, and far worse than any that does where it loses the second."""
    p50_ms, p99_ms = tried[f"{rates[0]:g}"].get("p50_ms"), tried[f"{rates[1]:g}"].get("p99_ms")
    return math.inf if p50_ms is None else math.sqrt(p50_ms * (p99_ms or 1e4))


def next_rate(grid: Sequence[float], held: Sequence[float], lost: Sequence[float]) -> float | None:
    """The rate to try next: the middle of the grid between the highest that held below all that lost, and those.

    None: none lies between; then `highest` is the answer.
    """
    least_lost = min(lost, default=math.inf)
    low = highest(held, lost)
    between = [rate for rate in grid if low < rate < least_lost]
    if not between:
        return None
    # With nothing lost yet the next rate above is asked: a server far beyond its limit takes long to recover.
    return between[0] if math.isinf(least_lost) else between[(len(between) - 1) // 2]


def highest(held: Sequence[float], lost: Sequence[float]) -> float:
    """The highest rate that held, below all that were lost; 0: none."""
    return max((rate for rate in held if rate < min(lost, default=math.inf)), default=0.0)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)
