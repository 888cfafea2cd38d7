"""How a comparison stands in a benchmark's JSON; the arithmetic is `slicer.common.comparison`'s."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from slicer.common import comparison


def interval(values: Sequence[float]) -> list[float] | None:
    """The 95 % confidence interval of the mean; None for fewer than two values."""
    found = comparison.interval(values)
    return None if found is None else [round(bound, 4) for bound in found]


def paired_ratio(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Any]:
    """``ours / theirs`` seed by seed: the geometric mean as ``ratio``, its interval ``ci95``, and ``by_seed``.

    Raises:
        ValueError: not the same number of values, none at all, or one that is not above 0.
    """
    found = comparison.paired_ratio(ours, theirs)
    return {
        "ratio": round(found.ratio, 4),
        "ci95": None if found.low is None or found.high is None else [round(found.low, 4), round(found.high, 4)],
        "by_seed": [round(one, 4) for one in found.by_pair],
    }
