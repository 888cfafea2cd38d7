"""The in-process harness: every request recorded, warm-up excluded, both loops, real and emulated executors."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pytest

from benchmarks.common.engine_harness import Harness, Record, Setup, latencies_ms, replayed, summary
from deployments.simulation.workloads import Workload
from slicer import slice_model
from slicer.slicing.slice_model import SlicedModel


@pytest.fixture(scope="module")
def sliced() -> SlicedModel:
    return slice_model("deployments.executors.emulated:chain", 4, units=12, img_size=8, in_chans=1)


@pytest.fixture(params=["torch", "emulated"])
def harness(request: pytest.FixtureRequest, sliced: SlicedModel) -> Iterator[Harness]:
    options = {"profile": "launch-bound"} if request.param == "emulated" else {}
    made = Harness(sliced, Setup("continuous", (0, 1, 2, 3), executor=request.param, executor_options=options))
    yield made
    made.close()


def test_an_open_loop_records_every_request_in_order(harness: Harness) -> None:
    arrivals = Workload((0, 1, 2, 3), 60, seed=1).arrivals(200.0)
    records, stats = harness.open_loop(arrivals)
    assert [record.entry for record in records] == [arrival.entry for arrival in arrivals]
    assert {record.outcome for record in records} == {"answered"}
    gaps = [later.due_s - earlier.due_s for earlier, later in pairwise(records)]
    assert min(gaps) >= 0.0
    for record in records:
        assert record.due_s <= record.submitted_s <= record.ended_s, "the clock starts at the schedule"
        assert record.rows_per_step
    assert stats.outcomes == {"answered": 60}
    figures = summary(records)
    assert figures["requests"] == figures["answered"] == 57, "the first 5 % are warm-up"
    assert figures["p50_ms"] <= figures["p99_ms"]
    again = replayed(records)
    assert again[0].arrival_s == 0.0
    assert len(again) == len(latencies_ms(records)) == 60


def test_a_closed_loop_keeps_as_many_requests_in_the_engine_as_there_are_clients(harness: Harness) -> None:
    records, stats = harness.closed_loop(clients=3, seconds=0.3, warm_up_s=0.1)
    assert len(records) >= 3
    assert {record.entry for record in records} == {0, 1, 2, 3}
    assert {record.outcome for record in records} == {"answered"}
    assert max(stats.rows_per_step) <= 3
    assert harness.engine.stats().waiting == {}


def test_a_run_that_lags_or_grows_says_so() -> None:
    def run(lag_s: float, growth_s: float) -> dict[str, object]:
        records = [Record(i * 0.1, 0, i * 0.1 + lag_s, i * 0.1 + 0.05 + i * growth_s, "answered") for i in range(100)]
        for record in records:
            record.rows_per_step = (1,)
        return summary(records)

    assert run(0.0, 0.0)["valid"] and run(0.0, 0.0)["stable"]
    assert not run(0.004, 0.0)["valid"]
    assert not run(0.0, 0.01)["stable"]
    assert summary([Record(0.0, 0)])["valid"] is False
