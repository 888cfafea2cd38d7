"""What bytes and times mean: inference time over a link, and requests that one accelerator carries.

Arithmetic, not a run: the link has no delay, no protocol and no loss, and nobody else asks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

#: Mbit/s.
RATES = (1, 5, 20, 100)

#: The fidelity at which ways are compared: that of the median image.
GOAL = 0.995


def cheapest(points: Sequence[dict[str, Any]], goal: float = GOAL) -> dict[str, Any] | None:
    """The point of the fewest bytes that reaches the goal; None: none does."""
    reach = [point for point in points if point["cosine"] >= goal]
    return min(reach, key=lambda point: float(point["bytes"]), default=None)


def inference_ms(point: Mapping[str, Any], mbit_per_s: float) -> float:
    """Device, link and server, one after the other."""
    return float(point["joint_ms"] + link_ms(point["bytes"], mbit_per_s))


def link_ms(size_bytes: float, mbit_per_s: float) -> float:
    """How long a link carries so many bytes."""
    return size_bytes * 8 / (mbit_per_s * 1e3)


def meanings(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row per way of a document that reaches the goal, by the cut."""
    rows = [_row(name, 0, found["points"]) for name, found in document["images"].items()]
    for cut, found in document["cuts"].items():
        rows += [_row(name, int(cut), points) for name, points in found["ways"].items()]
    return [row for row in rows if row is not None]


def _row(way: str, cut: int, points: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    point = cheapest(points)
    if point is None:
        return None
    return {
        "way": way,
        "cut": cut,
        **point,
        "inference_ms": {str(rate): round(inference_ms(point, rate), 1) for rate in RATES},
        "requests_per_s_of_tail_on_this_cpu_unbatched": round(1e3 / point["tail_ms"], 1),
    }
