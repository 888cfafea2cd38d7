"""The curve in virtual time: what the demo says of strategies follows from it."""

from __future__ import annotations

import numpy as np
import pytest

from deployments.simulation.simulator import Setup, Simulation
from headtail.demo.load_curve import LIMIT_MS, SERIES, Bench, Point

BENCH = Bench(requests=1500, seeds=(0,))


def test_a_lone_camera_sees_the_time_of_its_tail() -> None:
    point = Bench(entries=(0,), requests=200, seeds=(0,)).point("continuous", 0.01)
    assert point.mean_ms == pytest.approx(BENCH.whole_ms) == pytest.approx(14.4)


def test_all_series_but_server_only_see_the_same_arrivals() -> None:
    offered = [BENCH.arrivals(series, 100, 0, 50) for series in SERIES]
    assert {one.entry for one in offered[SERIES.index("server-only")]} == {0}
    assert all(each == offered[1] for each in offered[1:])
    assert [one.arrival_s for one in offered[0]] != []


def test_the_curve_is_the_simulators() -> None:
    arrivals = BENCH.arrivals("per_slice", 200, 0, 300)
    theirs = Simulation(Setup(BENCH.costs, "per_slice")).run(arrivals).latency_s
    assert np.array_equal(BENCH.latencies_s("per_slice", arrivals), theirs)


def test_a_rate_is_kept_while_p99_is_within_the_limit_and_the_queue_does_not_grow() -> None:
    assert Point(1, 1, LIMIT_MS, grew=False).kept
    assert not Point(1, 1, LIMIT_MS + 0.1, grew=False).kept
    assert not Point(1, 1, LIMIT_MS, grew=True).kept


def test_a_curve_ends_where_its_strategy_is_overrun() -> None:
    rates = [point.rate_rps for point in BENCH.curve("unbatched")]
    assert 80 in rates and 300 not in rates


def test_merging_across_entries_keeps_more_than_a_batch_per_tail_and_that_more_than_none() -> None:
    kept = [BENCH.highest_rps(name) for name in ("unbatched", "per_tail_shared", "per_slice", "continuous")]
    assert kept[0] < 0.3 * kept[1]
    assert 1.1 * kept[1] < min(kept[2:])


def test_serve_batch_gets_the_waiting_time_that_suits_it_best() -> None:
    best = BENCH.with_best_wait()
    assert best.highest_rps("serve_batch") >= BENCH.highest_rps("serve_batch")
    assert best.serve_batch_wait_s != BENCH.serve_batch_wait_s


def test_with_tight_deadlines_continuous_keeps_more_than_per_slice() -> None:
    slo_s = 2e-3 * BENCH.whole_ms
    assert BENCH.in_time_rps("continuous", slo_s) > 2 * BENCH.in_time_rps("per_slice", slo_s)


def test_where_two_rows_take_twice_the_time_batching_gains_nothing() -> None:
    cpu = Bench("cpu-like", requests=1500, seeds=(0,))
    assert cpu.highest_rps("continuous") == pytest.approx(cpu.highest_rps("unbatched"), rel=0.05)
