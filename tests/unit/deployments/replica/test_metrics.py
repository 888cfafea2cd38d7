"""What is counted per request reaches Ray's metrics once per period: every request counted, the histograms sampled."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from itertools import pairwise
from typing import Any

import pytest

from deployments.replica import metrics
from slicer.core.protocol.messages import Refusal, Reply, Timings


class Recorder:
    """A metric of any kind that keeps what it is told."""

    def __init__(self, name: str, **_: Any) -> None:
        self.told: list[tuple[float, dict[str, str]]] = METRICS[name]

    def inc(self, value: float, tags: dict[str, str]) -> None:
        self.told.append((value, tags))

    def observe(self, value: float, tags: dict[str, str]) -> None:
        self.told.append((value, tags))


METRICS: dict[str, list[tuple[float, dict[str, str]]]] = defaultdict(list)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> metrics.RequestMetrics:
    METRICS.clear()
    for kind in ("Counter", "Histogram", "Gauge"):
        monkeypatch.setattr(metrics.metrics, kind, Recorder)
    return metrics.RequestMetrics()


def reply(number: int) -> Reply:
    return Reply(str(number), Timings(0.1, float(number), 2.0, 3.0, (4, 5)), ((0, 1.0),))


def test_a_request_is_counted_once_by_model_entry_and_outcome(counted: metrics.RequestMetrics) -> None:
    for number in range(3):
        counted.count("m", 1, reply(number))
    counted.count("m", 1, Refusal("r", "too_late", "late"))
    assert METRICS["headtail_requests"] == [], "nothing is handed over per request"
    asyncio.run(counted.update())
    asyncio.run(counted.update())
    assert METRICS["headtail_requests"] == [
        (3.0, {"model": "m", "entry": "1", "outcome": "answered"}),
        (1.0, {"model": "m", "entry": "1", "outcome": "too_late"}),
    ]
    assert [value for value, _ in METRICS["headtail_queue_ms"]] == [0.0, 1.0, 2.0]
    assert [value for value, _ in METRICS["headtail_rows_per_step"]] == [4.0, 5.0] * 3


@pytest.mark.parametrize("requests", [199, 200, 201, 399, 1000, 1001])
def test_the_histograms_hold_at_most_so_many_requests_evenly_spread(
    counted: metrics.RequestMetrics, requests: int
) -> None:
    for number in range(requests):
        counted.count("m", 0, reply(number))
    asyncio.run(counted.update())
    waits = [value for value, _ in METRICS["headtail_queue_ms"]]
    assert 100 <= len(waits) <= metrics.RequestMetrics.SAMPLES
    gaps = {later - earlier for earlier, later in pairwise(waits)}
    assert len(gaps) == 1, "evenly spread"
    assert METRICS["headtail_requests"][0][0] == requests, "but each is counted"
