"""Rates at equal fidelity: what a curve says, and where it says nothing."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.frontier.rate import Curve, bd_rate, bytes_for, summary

FIDELITIES = 1 - np.array([0.03, 0.015, 0.008, 0.004, 0.002])


def curve(times: float = 1.0, images: int = 3, only: slice = slice(None)) -> Curve:
    """Half of the error for twice the bytes."""
    sizes = times * np.array([1000.0, 2000, 4000, 8000, 16000])
    return Curve(np.tile(sizes[only, None], (1, images)), np.tile(FIDELITIES[only, None], (1, images)))


@pytest.mark.parametrize("times", [0.5, 1.0, 1.25])
def test_a_curve_that_takes_so_many_times_the_bytes_says_so(times: float) -> None:
    assert bd_rate(curve(times), curve()) == pytest.approx([times - 1] * 3)


def test_bytes_for_a_fidelity_lie_between_the_measured_ones() -> None:
    assert bytes_for(curve(), 1 - 0.004) == pytest.approx([8000] * 3)
    assert (bytes_for(curve(), 1 - 0.005) > 4000).all()
    assert (bytes_for(curve(), 1 - 0.005) < 8000).all()


def test_an_image_that_is_always_better_takes_its_fewest_bytes_and_one_that_never_is_takes_too_many() -> None:
    assert bytes_for(curve(), 0.9).tolist() == [1000] * 3
    assert bytes_for(curve(), 0.9999).tolist() == [np.inf] * 3
    both = Curve(np.array([[1000.0, 1000], [2000, 2000]]), np.array([[0.98, 0.999], [0.99, 0.9999]]))
    assert bytes_for(both, 0.995).tolist() == [np.inf, 1000]


def test_nothing_is_compared_beyond_what_was_measured() -> None:
    assert np.isnan(bd_rate(curve(only=slice(3, 5)), curve(only=slice(0, 2)))).all()


def test_more_bytes_for_less_are_passed_over() -> None:
    worse = Curve(np.array([[1000.0], [1500], [2000]]), np.array([[0.99], [0.98], [0.995]]))
    better = Curve(np.array([[1000.0], [2000]]), np.array([[0.99], [0.995]]))
    assert bytes_for(worse, 0.9925) == pytest.approx(bytes_for(better, 0.9925))


def test_the_summary_leaves_out_and_counts_images_without_a_figure() -> None:
    found = summary(np.array([0.1, 0.2, np.nan, 0.3]))
    assert (found["median"], found["images"]) == (0.2, 3)
    low, high = found["ci95"]  # type: ignore[misc]
    assert 0.1 <= low <= 0.2 <= high <= 0.3
    assert summary(np.array([np.nan])) == {"images": 0}
