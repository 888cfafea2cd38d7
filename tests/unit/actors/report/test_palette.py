"""Colours that can be told apart and read, on a light page and on a dark one."""

from __future__ import annotations

import re

import pytest

from actors.load.applications import ALL_STRATEGIES
from actors.report.palette import COLOURS, css, entry_colour, strategy_colour, strategy_line


def luminance(colour: str) -> float:
    """Relative luminance as WCAG 2 defines it."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_a_light_colour_means_one_variable_only() -> None:
    light = [value for value, _ in COLOURS.values()]
    assert len(set(light)) == len(light), "or a picture could not be told which variable replaces it"
    assert all(re.fullmatch("#[0-9a-f]{6}", value) for pair in COLOURS.values() for value in pair)
    assert css(COLOURS["c2"][0]) == "var(--c2)" and css("#010203") == "#010203"


@pytest.mark.parametrize("mode", [0, 1])
@pytest.mark.parametrize(("names", "least"), [(("ink",), 10), (("faint",), 4.5), (("c1", "c2", "c3", "c5", "c6"), 3)])
def test_text_and_lines_stand_out_from_the_page(mode: int, names: tuple[str, ...], least: float) -> None:
    for name in names:
        assert contrast(COLOURS[name][mode], COLOURS["paper"][mode]) >= least, name


def test_every_strategy_has_a_colour_of_its_own() -> None:
    colours = {name: strategy_colour(name) for name in ALL_STRATEGIES}
    assert len(set(colours.values())) == len(ALL_STRATEGIES), colours


def test_an_own_strategy_has_one_too_the_same_each_time() -> None:
    own = "my.package:Policy"
    assert strategy_colour(own) == strategy_colour(own) in [light for light, _ in COLOURS.values()]
    assert strategy_line(own)


def test_entries_beyond_the_last_colour_have_one() -> None:
    assert len({entry_colour(entry) for entry in range(6)}) == 6 and entry_colour(6) == entry_colour(0)
