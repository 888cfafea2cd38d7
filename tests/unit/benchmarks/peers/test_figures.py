"""What is made of a run's records: percentiles, verdicts, the best of a grid, the next rate of a search."""

from __future__ import annotations

import math

import pytest

from benchmarks.peers.figures import highest, next_rate, point_of, score

Record = tuple[float, float, float | None, int]


def records(latencies_ms: list[float | None], lag_ms: float = 0.1, every_s: float = 0.01) -> list[Record]:
    return [
        (n * every_s, n * every_s + lag_ms / 1e3, None if ms is None else n * every_s + ms / 1e3, 0)
        for n, ms in enumerate(latencies_ms)
    ]


def test_times_run_from_the_scheduled_moment_and_the_warm_up_does_not_count() -> None:
    point = point_of(records([500.0] * 10 + [20.0] * 190), offered=200)
    assert (point["p50_ms"], point["p99_ms"], point["requests"]) == (20.0, 20.0, 190)
    assert point["holds"] and point["stable"] and point["valid"]


def test_a_rate_holds_when_99_of_100_are_within_the_limit_and_lost_ones_count() -> None:
    assert point_of(records([20.0] * 99 + [150.0], every_s=0.05), offered=100)["holds"] is False  # 94 of 95
    assert point_of(records([20.0] * 990 + [150.0] * 9), offered=999)["holds"] is True
    assert point_of(records([20.0] * 990 + [None] * 9), offered=999)["share_within_100ms"] == round(941 / 950, 4)


def test_a_run_that_was_ended_early_or_lost_much_has_no_latency() -> None:
    for point in (point_of(records([20.0] * 150), offered=200), point_of(records([20.0, None] * 100), offered=200)):
        assert (point["stable"], point["holds"], point["p50_ms"], point["p99_ms"]) == (False, False, None, None)


def test_a_queue_that_grows_has_no_latency() -> None:
    assert point_of(records([10.0 + n for n in range(400)]), offered=400)["stable"] is False


def test_a_late_load_generator_makes_a_run_invalid() -> None:
    assert point_of(records([20.0] * 200, lag_ms=2.0), offered=200)["valid"] is False


def test_nothing_answered_is_no_figure_and_no_crash() -> None:
    point = point_of(records([None] * 20), offered=200)
    assert (point["p50_ms"], point["share_within_100ms"], point["stable"]) == (None, 0.0, False)


def test_a_setting_is_judged_by_the_median_at_one_rate_and_p99_at_the_other() -> None:
    def tried(p50_ms: float | None, p99_ms: float | None) -> dict[str, dict[str, float | None]]:
        return {"330": {"p50_ms": p50_ms}, "500": {"p99_ms": p99_ms}}

    rates = (330.0, 500.0)
    assert score(tried(20.0, 80.0), rates) == pytest.approx(40.0)
    assert score(tried(20.0, 80.0), rates) < score(tried(25.0, 80.0), rates) < score(tried(25.0, None), rates)
    assert math.isinf(score(tried(None, None), rates))


GRID = (10.0, 20.0, 30.0, 40.0, 50.0, 60.0)


def test_a_search_bisects_between_what_held_and_what_lost() -> None:
    assert next_rate(GRID, [10.0], [60.0]) == 30.0  # of 20, 30, 40, 50
    assert next_rate(GRID, [10.0, 30.0], [60.0]) == 40.0
    assert next_rate(GRID, [10.0, 30.0, 40.0], [60.0, 50.0]) is None


def test_a_search_goes_up_step_by_step_while_nothing_lost() -> None:
    assert next_rate(GRID, [30.0], []) == 40.0
    assert next_rate(GRID, [60.0], []) is None


def test_a_search_goes_down_where_nothing_held() -> None:
    assert next_rate(GRID, [], [40.0]) == 20.0
    assert next_rate(GRID, [], [20.0, 10.0]) is None


def test_a_rate_above_one_that_lost_is_luck() -> None:
    assert highest([30.0, 50.0], [40.0]) == 30.0
    assert highest([], [40.0]) == 0.0
