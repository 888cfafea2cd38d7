"""Device profiles: what a file may say, what is drawn from it, and what it does to the word `emulated`."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slicer.errors import ConfigError
from slicer.profiles.device_profile import NATIVE, Profile, Spread, load_device_profile, parse_profile

TIMES = [{"mean": 5.0, "std": 0.5}, {"quantiles": {0.05: 4.0, 0.5: 5.0, 0.95: 9.0}}]


def parse(**changes: Any) -> Profile:
    return parse_profile({"name": "board", "source": "measured", "slices_ms": TIMES, **changes}, "board.yaml")


def test_native_is_this_host_and_nothing_of_it_is_emulated() -> None:
    assert load_device_profile("native") is NATIVE
    assert NATIVE.emulated == ()
    assert NATIVE.draw_ms(4, random.Random(0)) == 0
    NATIVE.check_model("any", 17)


def test_an_emulated_profile_always_says_so_and_whether_it_is_made_up() -> None:
    assert parse().emulated == ("emulated device board",)
    assert parse(source="", hypothetical=True).emulated == ("emulated device board (hypothetical)",)


@pytest.mark.parametrize("name", ["slow-board", "fast-board"])
def test_shipped_profiles_load_and_are_marked_as_made_up(name: str) -> None:
    profile = load_device_profile(name)
    assert profile.hypothetical
    assert profile.draw_ms(4, random.Random(0)) > 0


def test_a_profile_file_beside_the_fleet_is_found(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("{name: mine, hypothetical: true, slices_ms: [{mean: 1, std: 0}]}")
    assert load_device_profile("mine.yaml", tmp_path).name == "mine"


def test_an_unknown_profile_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'jetson'.*native, fast-board, slow-board"):
        load_device_profile("jetson")


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"colour": "red"}, "colour: unknown key"),
        ({"kind": "fast"}, "native or emulated"),
        ({"kind": "native"}, "takes the time it takes"),
        ({"slices_ms": []}, "no slices_ms"),
        ({"source": ""}, "where the times come from"),
        ({"hypothetical": True}, "where the times come from"),
        ({"memory_budget_bytes": 0}, "memory_budget_bytes"),
        ({"slices_ms": [{"mean": 5.0}]}, "no std"),
        ({"slices_ms": [{"mean": -1.0, "std": 0}]}, "slices_ms"),
        ({"slices_ms": [{}]}, "mean and std, or quantiles"),
        ({"slices_ms": [{"mean": 1.0, "std": 0, "quantiles": {0: 1, 1: 2}}]}, "not both"),
        ({"slices_ms": [{"std": 0.5, "quantiles": {0: 1, 1: 2}}]}, "std belongs to mean"),
        ({"slices_ms": [{"quantiles": {0.5: 1}}]}, "at least two"),
        ({"slices_ms": [{"quantiles": {0.1: 2, 1.5: 3}}]}, "between 0 and 1"),
        ({"slices_ms": [{"quantiles": {0.1: 3, 0.9: 2}}]}, "cannot be a shorter time"),
    ],
)
def test_contradictions_are_refused_with_file_and_remedy(changes: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=word) as caught:
        parse(**changes)
    assert "board.yaml" in str(caught.value)


@pytest.mark.parametrize("data", [None, [], "text", {1: 2}])
def test_what_is_no_mapping_of_words_is_refused(data: Any) -> None:
    with pytest.raises(ConfigError, match=r"board\.yaml"):
        parse_profile(data, "board.yaml")


def test_a_profile_of_another_model_or_cut_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'vit_a'.*'vit_b'"):
        parse(model="vit_a").check_model("vit_b", 2, "timm_b")
    with pytest.raises(ConfigError, match="times for 2 slices, but 'vit' has 4"):
        parse().check_model("vit", 4)


def test_a_profile_may_name_the_model_as_the_server_does_or_as_headtail_slice_did() -> None:
    parse(model="vit").check_model("vit", 2, "my_model:build")
    parse(model="my_model:build").check_model("vit", 2, "my_model:build")


def test_a_head_takes_the_sum_of_its_slices() -> None:
    profile = parse(slices_ms=[{"mean": mean, "std": 0.0} for mean in (1.0, 10.0, 100.0)])
    assert [profile.draw_ms(cut, random.Random(0)) for cut in range(4)] == pytest.approx([0.0, 1.0, 11.0, 111.0])


def test_drawn_quantiles_are_the_given_ones() -> None:
    rng = random.Random(0)
    spread = Spread(quantiles={0.0: 2.0, 0.5: 4.0, 1.0: 10.0})
    draws = [spread.draw_ms(rng) for _ in range(20_000)]
    assert np.quantile(draws, [0.25, 0.5, 0.75]) == pytest.approx([3.0, 4.0, 7.0], rel=0.02)


@given(
    st.lists(st.floats(0.01, 1e4), min_size=2, max_size=6).map(sorted),
    st.lists(st.floats(0, 1), min_size=2, max_size=6, unique=True).map(sorted),
    st.integers(0, 2**32),
)
def test_no_draw_leaves_the_given_quantiles(times: list[float], quantiles: list[float], seed: int) -> None:
    points = dict(zip(quantiles, times, strict=False))
    if len(points) < 2:
        return
    drawn = Spread(quantiles=points).draw_ms(random.Random(seed))
    low, high = min(points.values()), max(points.values())
    assert low * (1 - 1e-9) <= drawn <= high * (1 + 1e-9)
