"""The search for goodput: the highest rate that holds."""

from __future__ import annotations

import math
from collections.abc import Callable

#: Found to this factor.
TOLERANCE = 1.04


def highest_rate(
    holds: Callable[[float], bool], near_rps: float, bound_rps: float, points: int, step: float = TOLERANCE
) -> float:
    """The highest rate that holds, to 4 %: steps away from a prediction that grow, then bisection.

    Args:
        holds: tries a rate; not cheap, so it is asked as seldom as can be: twice where the prediction is right.
        near_rps: the prediction.
        bound_rps: no rate far above it is tried, and none below a hundredth of it.
        points: most rates that are tried.
        step: the factor of the first step away from the prediction; the less it is trusted, the larger.

    Returns 0.0 where none holds.
    """
    asked = 0

    def ask(rate_rps: float) -> bool:
        nonlocal asked
        asked += 1
        return holds(rate_rps)

    rate_rps, factor = min(max(near_rps, 0.02 * bound_rps), bound_rps) * 0.98, step
    first = ask(rate_rps)
    low, high = (rate_rps, math.inf) if first else (0.0, rate_rps)
    while high == math.inf or low == 0.0:
        rate_rps = rate_rps * factor if first else rate_rps / factor
        if rate_rps < 0.01 * bound_rps or rate_rps > 1.5 * bound_rps or asked >= points:
            break
        low, high = (rate_rps, high) if ask(rate_rps) else (low, rate_rps)
        factor **= 1.6
    while low and high / low > TOLERANCE + 1e-4 and high < math.inf and asked < points:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if ask(middle) else (low, middle)
    return low
