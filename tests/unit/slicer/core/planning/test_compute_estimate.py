"""What a device learns of itself."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from slicer.core.planning.compute_estimate import ComputeEstimate
from slicer.core.planning.cut_planner import Choice
from slicer.core.protocol.calibration_index import Measured
from slicer.profiles.device_profile import NATIVE
from tests.unit.slicer.core.planning.test_online_planner import BOARD, FACTS


def images(gaps_s: list[float]) -> ComputeEstimate:
    estimate, now_s = ComputeEstimate(FACTS, BOARD), 0.0
    estimate.arrived(now_s)
    for gap_s in gaps_s:
        now_s += gap_s
        estimate.arrived(now_s)
    return estimate


def test_the_rate_is_unknown_until_some_images_have_come() -> None:
    assert images([0.1] * 3).view.rate_rps == 0.0
    view = images([0.1] * 4).view
    assert view.rate_rps == pytest.approx(10.0)
    assert view.burst > 0.9  # four alike may be chance: as of Poisson arrivals


def test_a_camera_that_ticks_is_told_from_images_that_come_as_they_like() -> None:
    assert images([0.1] * 100).view.burst < 0.1
    rng, bursts = random.Random(0), []
    for _ in range(30):
        bursts.append(images([rng.expovariate(10.0) for _ in range(100)]).view.burst)
    assert sum(bursts) / len(bursts) == pytest.approx(1.0, abs=0.2)


def test_a_few_short_gaps_do_not_look_like_twice_the_rate() -> None:
    assert images([0.2] * 50 + [0.02] * 5).view.rate_rps < 6.0  # 5 before


def test_a_rate_that_has_changed_is_learnt() -> None:
    assert images([0.2] * 50 + [0.05] * 100).view.rate_rps == pytest.approx(20.0, rel=0.15)


def test_only_slices_that_never_ran_are_hoped_to_be_faster() -> None:
    estimate = ComputeEstimate(FACTS, BOARD)
    estimate.computed(2.0, (12.0, 13.0))
    assert estimate.view.slices_ms == (12.0, 13.0, 10.0, 10.0)
    assert estimate.hopeful(0.2).slices_ms == (12.0, 13.0, 8.0, 8.0)


def test_encoding_is_learnt_by_codec_and_a_photographs_size_as_well() -> None:
    estimate = ComputeEstimate(FACTS, NATIVE)
    estimate.encoded(Choice(1, "int8"), 0.025, 2700)  # 2,500 values
    estimate.encoded(Choice(0, "jpeg"), 0.0, 4000)
    assert estimate.view.encode_ns == pytest.approx({"int8": 10.0})
    assert estimate.view.image_bytes == {"jpeg": 4000.0}


def test_payloads_that_are_larger_than_calibration_expected_raise_what_is_expected_of_all() -> None:
    choice = Choice(1, "transform-995")
    exact = Measured(1, "int8", 2550.0, 1.0, 1.0, 1.0)
    calibrated = {choice: Measured(1, "transform-995", 1000.0, 0.996, 0.99, 1.0), Choice(1, "int8"): exact}
    calibrated[Choice(0, "rgb8")] = Measured(0, "rgb8", 30_000.0, 1.0, 1.0, 1.0)
    facts = replace(FACTS, calibrated=calibrated)
    found = ComputeEstimate(facts, NATIVE)
    assert found.view.size_ratio == 1
    for _ in range(60):
        found.encoded(choice, 1.0, 1500)
    assert found.view.size_ratio == pytest.approx(1.5, abs=0.01)
    found.encoded(Choice(1, "int8"), 1.0, 2550)
    found.encoded(Choice(0, "rgb8"), 0.0, 30_000)
    assert found.view.size_ratio == pytest.approx(1.5, abs=0.01)
