"""The cost table: sums, what lies between measurements, what serving teaches it, and its files."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.costs.cost_model import GUESS_S, UNKNOWN, Cell, CostModel, Source, buckets_to, from_dict, padded_to
from deployments.costs.profile_files import load_cost_profile, save_cost_profile, shipped
from slicer.errors import ConfigError

HERE = Source(what="a test", where="here", when="now")


def table(*slices: list[float], buckets: tuple[int, ...] = (1, 2, 4), **more: Any) -> CostModel:
    """Seconds per slice and bucket; 0 is not measured. As if each was measured ten times."""
    cells = [[Cell(time_s, 0.1 * time_s, 10) if time_s else UNKNOWN for time_s in times_s] for times_s in slices]
    return CostModel(buckets, cells, source=HERE, name="test", **more)


def test_a_span_costs_the_sum_of_its_slices() -> None:
    costs = table([1.0, 2.0, 3.0], [10.0, 20.0, 30.0], [100.0, 200.0, 300.0])
    assert costs.span_s(0, 3, 1) == 111.0 and costs.span_s(1, 2, 2) == 20.0 and costs.span_s(1, 1, 4) == 0.0
    assert costs.tails(4) == [333.0, 330.0, 300.0, 0.0]


def test_between_two_buckets_it_is_interpolated() -> None:
    assert table([1.0, 2.0, 3.0]).slice_s(0, 3) == 2.5


def test_a_padded_batch_costs_as_much_as_the_next_bucket() -> None:
    costs = table([1.0, 2.0, 3.0], padded=True)
    assert [costs.slice_s(0, rows) for rows in (1, 2, 3, 4)] == [1.0, 2.0, 3.0, 3.0]
    costs.observe(0, 1, 3, 6.0)
    assert costs.slice_s(0, 2) == 2.0 and costs.slice_s(0, 4) > 3.0  # three rows ran as four


def test_beyond_the_measurements_guesses_are_those_that_get_tried() -> None:
    assert table([1.0, 2.0, 3.0]).slice_s(0, 8) == 5.0  # the line through 2 and 4 rows goes on
    assert table([0, 2.0, 0]).slice_s(0, 4) == 2.0  # one point: larger batches seem free, and are tried
    assert table([0, 2.0, 0]).slice_s(0, 1) == 1.0  # smaller ones seem to gain nothing from being larger
    assert table([0, 0, 0]).slice_s(0, 3) == GUESS_S
    assert table([4.0, 2.0, 1.0]).slice_s(0, 100) == 1.0  # a falling line ends before it is absurd


def test_what_a_row_needs_is_zero_as_long_as_a_part_of_it_is_a_guess() -> None:
    costs = table([0, 0, 0], [1.0, 0, 0], [2.0, 0, 0])  # slice 0 is not resident here, so it was never measured
    assert [costs.alone_s(boundary) for boundary in range(4)] == [0.0, 3.0, 2.0, 0.0]
    costs.observe(0, 1, 1, 5.0)
    assert costs.alone_s(0) == pytest.approx(8.0)


def test_measurements_while_serving_move_the_cell_and_its_spread() -> None:
    costs = table([1.0, 2.0, 3.0], [1.0, 2.0, 3.0])
    for _ in range(200):
        costs.observe(0, 1, 2, 3.0)
    assert costs.slice_s(0, 2) == pytest.approx(3.0, rel=0.03)
    assert costs.slice_s(0, 1) == 1.0 and costs.slice_s(1, 2) == 2.0, "only this cell was seen"
    assert costs.tails(2)[0] == pytest.approx(5.0, rel=0.03), "sums follow"
    assert costs.table[0][1].seen == 210


def test_a_step_of_several_slices_moves_them_in_proportion() -> None:
    costs = table([1.0, 1.0, 1.0], [3.0, 3.0, 3.0])
    for _ in range(200):
        costs.observe(0, 2, 4, 8.0)
    assert costs.slice_s(0, 4) == pytest.approx(2.0, rel=0.03)
    assert costs.slice_s(1, 4) == pytest.approx(6.0, rel=0.03)


def test_a_batch_between_buckets_moves_both_the_nearer_one_more() -> None:
    costs = table([1.0, 1.0], buckets=(4, 8))
    costs.observe(0, 1, 5, 1.5)
    near, far = costs.table[0]
    assert 1.0 < far.mean_s < near.mean_s


def test_a_single_outlier_hardly_counts() -> None:
    costs = table([1.0, 2.0, 3.0])
    costs.observe(0, 1, 1, 1000.0)
    assert costs.slice_s(0, 1) <= 1.0 + 1 / 11 + 1e-9  # at most a factor of 2, as one measurement of eleven
    for seconds in (0.0, -1.0, math.nan, math.inf):
        costs.observe(0, 1, 2, seconds)
    assert costs.slice_s(0, 2) == 2.0


def test_the_first_measurement_of_a_cell_is_taken_as_it_is() -> None:
    costs = CostModel.unknown(2, 4)
    assert costs.known_from == 2
    costs.observe(0, 2, 1, 0.5)
    assert costs.span_s(0, 2, 1) == pytest.approx(0.5) and costs.known_from == 0


def test_the_spread_of_a_span_is_that_of_slices_that_are_slow_together() -> None:
    assert table([1.0, 2.0, 3.0], [3.0, 3.0, 3.0]).spread(0, 2, 1) == pytest.approx(0.1)
    assert table([0, 0, 0]).spread(0, 1, 1) == 0.0


def test_the_time_of_a_decision_follows_slowly() -> None:
    costs = table([1.0, 1.0, 1.0], decision_s=1e-4)
    costs.observe_decision(1.0)
    assert costs.decision_s <= 1.06e-4
    for _ in range(300):
        costs.observe_decision(2e-4)
    assert costs.decision_s == pytest.approx(2e-4, rel=0.01)


def test_the_same_model_cut_elsewhere() -> None:
    costs = table([1.0, 2.0, 3.0], [10.0, 20.0, 30.0], [100.0, 200.0, 300.0]).regroup([0, 2, 3])
    assert costs.num_slices == 2 and costs.tails(1) == [111.0, 100.0, 0.0]
    assert costs.table[0][0].std_s == pytest.approx(1.1)
    assert not table([1.0, 0, 3.0], [1.0, 2.0, 3.0]).regroup([0, 2]).table[0][1].known
    for cuts in ([0, 3], [0], [1, 2], [0, 2, 1, 2], [0, 0, 2]):
        with pytest.raises(ConfigError, match="they ascend from 0 to 2"):
            table([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]).regroup(cuts)


def test_a_copy_is_observed_alone() -> None:
    costs = table([1.0, 2.0, 3.0])
    costs.copy().observe(0, 1, 1, 2.0)
    assert costs.slice_s(0, 1) == 1.0


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    times_ms=st.lists(st.lists(st.integers(1, 10**6), min_size=3, max_size=3), min_size=1, max_size=5),
    padded=st.booleans(),
)
def test_a_profile_is_read_back_as_it_was_written(
    times_ms: list[list[int]], padded: bool, tmp_path_factory: Any
) -> None:
    path = tmp_path_factory.mktemp("profile") / "p.yaml"
    costs = table(*[[time / 1e6 for time in times] for times in times_ms], merge_s=1e-5, decision_s=2e-5, padded=padded)
    save_cost_profile(costs, path)
    back = load_cost_profile(path)
    assert (back.buckets, back.source, back.name, back.padded) == (costs.buckets, costs.source, costs.name, padded)
    assert (back.merge_s, back.decision_s) == (pytest.approx(1e-5), pytest.approx(2e-5))
    for rows in range(1, 5):
        assert back.tails(rows) == pytest.approx(costs.tails(rows))
    assert back.table[0][0].seen == 10 and back.spread(0, 1, 1) == pytest.approx(0.1, abs=1e-3)


@pytest.mark.parametrize(("name", "floor", "per_row"), [("launch-bound", 1.2, 0.18), ("edge-gpu", 1.2, 0.48)])
def test_shipped_profiles_hold_what_they_say(name: str, floor: float, per_row: float) -> None:
    costs = load_cost_profile(name)
    assert costs.num_slices == 12 and costs.source.hypothetical
    for rows in range(1, 33):
        assert costs.slice_s(5, rows) * 1e3 == pytest.approx(max(floor, 0.35 * floor + per_row * rows))


def test_every_shipped_profile_loads_and_says_where_it_comes_from() -> None:
    assert {"launch-bound", "edge-gpu", "cpu-like"} <= set(shipped())
    for name in shipped():
        source = load_cost_profile(name).source
        assert source.hypothetical or (source.where and source.when)
    assert load_cost_profile("cpu-like").span_s(0, 12, 3) == pytest.approx(0.036)


def document(**changes: Any) -> dict[str, Any]:
    return {"source": {"hypothetical": True}, "buckets": [1, 2], "slices": [{"mean_ms": [1, 2]}], **changes}


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (document(source={}), "must say where and when it was measured, or hypothetical: true"),
        (document(buckets=[2, 1]), "must ascend"),
        (document(slices=[]), "needs one cell for each of 2 buckets"),
        (document(slices=[{"mean_ms": [1]}]), "needs one cell for each of 2 buckets"),
        (document(slices=[{"mean_ms": [1, -2]}]), "negative or not a number"),
        (document(slices=[{"mean_ms": [1, 2], "mode": 3}]), "no key 'mode'"),
        (document(slices=[{"mean_ms": [1, 2], "std_ms": [1]}]), "2 means, 1 stds"),
        (document(slices=[{}]), "mean_ms"),
        (document(speed=1), "no key 'speed'"),
        ({"buckets": [1]}, "source"),
        (None, "needs source, buckets"),
    ],
)
def test_a_wrong_profile_is_refused_with_the_reason(data: Any, complaint: str, tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    with pytest.raises(ConfigError, match=complaint) as error:
        load_cost_profile(path)
    assert "p.yaml" in str(error.value)


def test_a_profile_of_unknown_origin_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must say where and when"):
        save_cost_profile(CostModel.unknown(2, 4), tmp_path / "p.yaml")
    with pytest.raises(ConfigError, match="shipped are cpu-like"):
        load_cost_profile(tmp_path / "missing.yaml")


def test_slices_that_are_alike_are_written_once() -> None:
    assert from_dict(document(slices=[{"mean_ms": [1, 2], "repeat": 3}])).num_slices == 3


def test_batch_sizes_to_measure_at() -> None:
    assert buckets_to(1) == (1,) and buckets_to(12) == (1, 2, 4, 8, 12) and buckets_to(32) == (1, 2, 4, 8, 16, 32)
    assert padded_to(1) == (1,) and padded_to(7) == (1, 2, 3, 4, 6, 7)
    assert padded_to(32) == (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
    assert CostModel.unknown(2, 7, padded=True).buckets == padded_to(7)
