"""The arithmetic of published figures: intervals, paired ratios, percentiles, a late generator, a growing queue."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from slicer.common.comparison import Ratio, in_time, interval, mean, paired_ratio, percentile, queue_grew


def test_the_interval_of_a_mean_is_students() -> None:
    assert interval([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx((3 - 1.963, 3 + 1.963), abs=5e-3)
    assert interval([7.0] * 5) == (7.0, 7.0)
    assert interval([7.0]) is None
    assert interval([0.0, 1.0] * 50) == pytest.approx((0.5 - 0.0985, 0.5 + 0.0985), abs=2e-3)


@pytest.mark.parametrize("count", [2, 3, 5, 11, 40])
def test_its_width_is_the_one_of_scipys_t_for_any_number_of_values(count: int) -> None:
    values = list(np.random.default_rng(count).normal(5.0, 2.0, count))
    wanted = stats.t.interval(0.95, count - 1, loc=np.mean(values), scale=stats.sem(values))
    assert interval(values) == pytest.approx(wanted)


def test_ratios_are_paired_so_what_both_have_in_common_cancels_out() -> None:
    found = paired_ratio([2.0, 20.0, 200.0], [1.0, 10.0, 100.0])
    assert (found.ratio, found.low, found.high) == pytest.approx((2.0, 2.0, 2.0))
    assert found.by_pair == pytest.approx((2.0, 2.0, 2.0)) and found.pairs == 3
    assert paired_ratio([4.0, 1.0], [1.0, 1.0]).ratio == pytest.approx(2.0), "geometric: twice and half are alike"
    assert paired_ratio([3.0], [2.0]) == Ratio(pytest.approx(1.5), None, None, (pytest.approx(1.5),))


@pytest.mark.parametrize(("ours", "theirs"), [([1.0], [1.0, 2.0]), ([], []), ([1.0, 0.0], [1.0, 1.0])])
def test_what_has_no_ratio_is_refused(ours: list[float], theirs: list[float]) -> None:
    with pytest.raises(ValueError, match="pairs of values above 0 are needed"):
        paired_ratio(ours, theirs)


def test_percentiles_interpolate_and_what_is_not_there_is_none() -> None:
    assert percentile([10, 20, 30, 40, 100], 95) == pytest.approx(88.0)
    assert percentile(np.array([1.0, 2.0]), 50) == 1.5
    assert percentile([], 50) is None and mean([]) is None
    assert mean([1.0, math.pi]) == pytest.approx((1 + math.pi) / 2)


def test_a_generator_is_in_time_up_to_a_twentieth_of_the_median_latency() -> None:
    assert in_time([5.0] * 10, [100.0] * 10)
    assert not in_time([5.1] * 10, [100.0] * 10)
    assert not in_time([], [100.0]) and not in_time([0.0], [])


def test_a_queue_is_judged_in_the_order_in_which_requests_were_due() -> None:
    due_s = [t / 10 for t in range(100)]
    latencies_ms = [20.0 + 10 * t for t in range(100)]
    assert queue_grew(due_s, latencies_ms, 10.0)
    assert queue_grew(due_s[::-1], latencies_ms[::-1], 10.0), "the order in which answers came says nothing"
    assert not queue_grew(due_s, [20.0] * 100, 10.0)
    assert not queue_grew([], [], 10.0)
    assert not queue_grew(due_s[:30], latencies_ms[:30], 10.0), "a quarter without answers says nothing"
