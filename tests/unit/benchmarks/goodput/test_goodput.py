"""The goodput benchmark's own arithmetic: the search, who is measured together, what is compared. No Ray here."""

from __future__ import annotations

import argparse
import threading
from typing import Any

import pytest

from benchmarks.goodput import measure, report
from benchmarks.goodput.case import Case
from benchmarks.goodput.stack import idle_before_steps_s
from slicer.errors import ConfigError

CASE = Case("launch-bound")


class FakeStack:
    """Holds every rate up to `limit_rps`."""

    strategy, slo_s, case = "continuous", 0.0576, CASE

    def __init__(self, limit_rps: float) -> None:
        self.limit_rps = limit_rps
        self.offered: list[float] = []

    def offer(self, rate_rps: float, seed: int, requests: int, seconds: float) -> dict[str, Any]:
        self.offered.append(rate_rps)
        share = 1.0 if rate_rps <= self.limit_rps else 0.9
        return {"share_within": share, "ended_early": False, "valid": True}


def search(limit_rps: float, near_rps: float, points: int = 20) -> tuple[float, list[float]]:
    stack = FakeStack(limit_rps)
    args = argparse.Namespace(requests=2000, seconds=1.0, points=points, hold=None)
    return measure.search(stack, 0, near_rps, args)[0], stack.offered  # type: ignore[arg-type]


@pytest.mark.parametrize("limit_rps", [30.0, 120.0, 357.0, 480.0, 660.0])
@pytest.mark.parametrize("off", [0.6, 0.97, 1.0, 1.03, 1.7])
def test_the_search_finds_the_highest_rate_that_holds_to_four_percent(limit_rps: float, off: float) -> None:
    found, _ = search(limit_rps, limit_rps * off)
    assert found <= limit_rps <= found * 1.0402


def test_where_the_prediction_is_right_two_points_are_enough() -> None:
    found, offered = search(100.0, 100.0)
    assert len(offered) == 2
    assert found == pytest.approx(98.0)


def test_a_strategy_that_holds_nothing_has_a_goodput_of_zero() -> None:
    found, offered = search(0.1, 100.0)
    assert found == 0.0
    assert min(offered) >= 0.01 * CASE.bound_rps


def test_those_who_are_measured_together_never_exceed_the_limit_but_one_alone_may() -> None:
    share, inside, most = measure.Share(100.0), [0.0], [0.0]
    lock = threading.Lock()

    def job(weight: float) -> None:
        with share.hold(weight):
            with lock:
                inside[0] += weight
                most[0] = max(most[0], inside[0] if inside[0] != weight else 0.0)
            with lock:
                inside[0] -= weight

    threads = [threading.Thread(target=job, args=(weight,)) for weight in (60.0, 40.0, 50.0, 300.0, 20.0) * 20]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads), "nobody waits for ever"
    assert most[0] <= 100.0


def test_entries_and_boundaries_that_do_not_go_with_the_profile_are_refused() -> None:
    with pytest.raises(ConfigError, match="--boundaries 5 does not divide the profile's 12 slices"):
        Case("launch-bound", boundaries=5)
    with pytest.raises(ConfigError, match="--entries 0,4: with 4 boundaries, multiples of 3 below 12"):
        Case("launch-bound", entry_blocks=(0, 4))
    assert Case("launch-bound", boundaries=12).entries == (0, 3, 6, 9)
    assert CASE.entries == (0, 1, 2, 3)


def row(strategy: str, found: list[float], simulated: list[float] | None, mean_ms: float) -> dict[str, Any]:
    return {
        "strategy": strategy,
        "slo_x": 2.0,
        "by_seed_rps": found,
        "simulated_by_seed_rps": simulated,
        "mean_ms_at_half_bound": mean_ms,
        "stable_at_half_bound": True,
    }


def test_continuous_is_compared_seed_by_seed_beside_the_simulated_gain() -> None:
    rows = [
        row("per_tail", [20.0, 40.0], [20.0, 40.0], 28.0),
        row("continuous", [60.0, 100.0], [80.0, 160.0], 21.0),
        row("serve_batch", [10.0, 0.0], None, 40.0),
    ]
    (over_per_tail,) = report.comparisons(rows)  # serve_batch held nothing at one seed: no ratio
    assert over_per_tail["continuous_over"] == "per_tail"
    assert over_per_tail["ratio"] == pytest.approx(2.75, rel=0.02), "the mean of 3.0 and 2.5"
    assert over_per_tail["simulated_ratio"] == pytest.approx(4.0)
    assert over_per_tail["share_of_simulated_gain"] == pytest.approx(1.75 / 3, rel=0.03)
    assert over_per_tail["mean_at_half_bound"] == pytest.approx(-0.25)


def test_standing_still_counts_only_while_a_row_was_there() -> None:
    """One slice of two is 3 ms. Row a runs alone, b arrives during its first step, c long after both have ended."""
    record = [
        "row 0.000 0",  # a
        "step 0.000 0.003 0.003 0 1 1",
        "row 0.001 1",  # b: there when the step ends, and a is in any case
        "step 0.004 0.003 0.003 1 2 2",  # 1 ms late
        "row 0.050 0",  # c: nobody was there before it
        "step 0.051 0.006 0.006 0 2 1",
    ]
    idle_s = idle_before_steps_s([line.split() for line in record], slices=2)
    assert idle_s == pytest.approx([0.0, 0.001, 0.0])
