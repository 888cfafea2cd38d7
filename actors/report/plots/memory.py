"""What does a strategy take? The server's memory, part by part."""

from __future__ import annotations

from typing import Any

from actors.report import statistics as stats
from actors.report.page import WIDTH_IN
from actors.report.palette import strategy_colour
from actors.report.result import Result

#: The parts that are shown, where a server tells them.
_PARTS = {"weights": "weights", "peak": "accelerator, peak", "process": "whole process"}


def fill(figure: Any, result: Result) -> str:
    """Draw it; returns the caption, empty where no server told its memory."""
    names = result.strategies
    found = {name: stats.largest_memory(result.of(name)) for name in names}
    parts = [part for part in _PARTS if any(memory.get(part) for memory in found.values())][:2]
    if not parts:
        return ""
    figure.set_size_inches(WIDTH_IN, 1.2 + 0.32 * len(names))
    grid = figure.subplots(1, len(parts), sharey=True, squeeze=False)[0]
    for axes, part in zip(grid, parts, strict=True):
        values = [(found[name].get(part) or 0) / 2**20 for name in names]
        axes.barh(range(len(names)), values, color=[strategy_colour(name) for name in names], height=0.65)
        for place, value in enumerate(values):
            axes.annotate(
                f"{value:.3g}" if value else "not told",
                (value, place),
                xytext=(3, 0),
                textcoords="offset points",
                va="center",
                fontsize=9,
            )
        axes.set_xlim(0, max(values) * 1.3)
        axes.set_title(_PARTS[part], fontsize=10)
        axes.set_xlabel("MiB")
        axes.grid(False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.xaxis.get_major_locator().set_params(nbins=3)
    grid[0].set_yticks(range(len(names)), names)
    grid[0].set_ylim(len(names) - 0.5, -0.5)
    return "The server's memory: the largest that a run saw at its end."
