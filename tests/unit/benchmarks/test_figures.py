"""Means and paired ratios with their confidence intervals."""

from __future__ import annotations

import pytest

from benchmarks.common.figures import interval, paired_ratio


def test_the_interval_of_a_mean_is_students() -> None:
    assert interval([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx([3 - 1.963, 3 + 1.963], abs=5e-3)
    assert interval([7.0] * 5) == [7.0, 7.0]
    assert interval([7.0]) is None
    assert interval([0.0, 1.0] * 50) == pytest.approx([0.5 - 0.0985, 0.5 + 0.0985], abs=2e-3)


def test_ratios_are_paired_so_what_both_have_in_common_cancels_out() -> None:
    found = paired_ratio([2.0, 20.0, 200.0], [1.0, 10.0, 100.0])
    assert found == {"ratio": 2.0, "ci95": [2.0, 2.0], "by_seed": [2.0, 2.0, 2.0]}
    assert paired_ratio([4.0, 1.0], [1.0, 1.0])["ratio"] == 2.0, "geometric: twice and half are as far from 1"


@pytest.mark.parametrize(("ours", "theirs"), [([1.0], [1.0, 2.0]), ([], []), ([1.0, 0.0], [1.0, 1.0])])
def test_what_has_no_ratio_is_refused(ours: list[float], theirs: list[float]) -> None:
    with pytest.raises(ValueError, match="pairs of values above 0 are needed"):
        paired_ratio(ours, theirs)
