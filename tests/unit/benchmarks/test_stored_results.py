"""Stored results against the one arithmetic: what their seeds give today is what they say.

Some are older than `slicer.common.comparison`: their t-distribution was a table of three digits, so that the width of
an interval differs by up to 0.2 %. Ratios and medians differ in nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.common.results import RESULTS
from slicer.common.comparison import interval, paired_ratio

TABLE_OF_THREE_DIGITS = 0.002
ROUNDING = 0.02  # of seeds that are stored with two digits


def widths(document: dict[str, Any]) -> Iterator[tuple[str, float, list[float]]]:
    """(what, stored width of an interval of a mean, the values by seed)."""
    rows = document.get("results", [])
    if document.get("benchmark") == "goodput":
        for row in rows:
            if row["ci95"] is not None:
                yield f"{row['strategy']} {row['slo_x']}x", row["ci95"][1] - row["ci95"][0], row["by_seed_rps"]
    elif document.get("benchmark") == "gpu":
        for model, found in document["models"].items():
            for strategy, at in found["strategies"].items():
                for slo, one in at.items():
                    if one.get("ci95"):
                        yield f"{model} {strategy} {slo}", one["ci95"][1] - one["ci95"][0], one["by_seed_rps"]
    elif document.get("manifest", {}).get("simulated"):
        for row in rows:
            for slo, values in row.get("by_seed_rps", {}).items():
                yield f"{row['profile']} {row['strategy']} {slo}x", 2 * row["ci95_rps"][slo], values


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_intervals_are_those_of_the_one_arithmetic(path: Path) -> None:
    for what, stored, values in widths(json.loads(path.read_text(encoding="utf-8"))):
        low, high = interval(values) or (0.0, 0.0)
        assert stored == pytest.approx(high - low, rel=TABLE_OF_THREE_DIGITS, abs=2 * ROUNDING), what


@pytest.mark.parametrize("path", sorted(RESULTS.glob("goodput*.json")), ids=lambda path: path.stem)
def test_ratios_are_those_of_the_one_arithmetic(path: Path) -> None:
    document = json.loads(path.read_text(encoding="utf-8"))
    seeds = {(row["strategy"], row["slo_x"]): row["by_seed_rps"] for row in document["results"]}
    for one in document["comparisons"]:
        ours, theirs = seeds["continuous", one["slo_x"]], seeds[one["continuous_over"], one["slo_x"]]
        found = paired_ratio(ours, theirs)
        assert one["ratio"] == pytest.approx(found.ratio, abs=1e-3), one["continuous_over"]
