"""What bytes mean over a link: plain arithmetic, at the fewest bytes that are good enough."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.frontier.meaning import cheapest, inference_ms, meanings


def point(size: float, cosine: float, tail_ms: float = 4.0) -> dict[str, Any]:
    return {"bytes": size, "cosine": cosine, "joint_ms": 10.0, "tail_ms": tail_ms}


def test_the_fewest_bytes_that_reach_the_goal_count() -> None:
    points = [point(900, 0.994), point(2000, 0.999), point(1500, 0.996)]
    assert cheapest(points) == point(1500, 0.996)
    assert cheapest(points[:1]) is None


@pytest.mark.parametrize(("rate", "ms"), [(1, 30), (20, 11), (100, 10.2)])
def test_a_request_takes_device_link_and_server_one_after_the_other(rate: float, ms: float) -> None:
    assert inference_ms(point(2500, 1.0), rate) == pytest.approx(ms)


def test_a_way_that_misses_the_goal_has_no_row() -> None:
    document = {
        "images": {"jpeg": {"points": [point(100, 0.9)]}, "webp": {"points": [point(125, 0.996)]}},
        "cuts": {"2": {"ways": {"int8": [point(5000, 0.9999, tail_ms=2.0)]}}},
    }
    first, second = meanings(document)
    assert (first["way"], first["cut"], second["way"], second["cut"]) == ("webp", 0, "int8", 2)
    assert first["inference_ms"] == {"1": 11.0, "5": 10.2, "20": 10.1, "100": 10.0}
    assert second["requests_per_s_of_tail_on_this_cpu_unbatched"] == 500
