"""Which strategy is faster? Per strategy from the median to p99, and the mean."""

from __future__ import annotations

from typing import Any

from actors.report import statistics as stats
from actors.report.page import WIDTH_IN, label_decades
from actors.report.palette import FAINT, INK, strategy_colour
from actors.report.result import Result, sound
from actors.report.verdict import verdict

#: From this ratio of the largest to the smallest time on, the axis is logarithmic.
_WIDE = 12.0


def fill(figure: Any, result: Result) -> str:
    """Draw it; returns the caption."""
    names = result.strategies
    best = verdict(result).best
    figure.set_size_inches(WIDTH_IN, 1.15 + 0.36 * len(names))
    axes = figure.add_subplot()
    highest: list[float] = []
    lowest: list[float] = []
    for place, name in enumerate(names):
        unstable = stats.mostly_unstable(result.of(name))
        found = stats.summarise_runs(sound(result, name))
        if unstable or found.mean_ms is None or found.p50_ms is None or found.p99_ms is None:
            why = "its queue grew all along" if unstable else "no valid run"
            axes.annotate(why, (0.02, place), xycoords=("axes fraction", "data"), color=FAINT, va="center", fontsize=9)
            continue
        colour = strategy_colour(name)
        axes.plot([found.p50_ms, found.p99_ms], [place, place], color=colour, linewidth=7, alpha=0.45)
        axes.plot(found.mean_ms, place, "o", color=colour, markersize=8)
        axes.annotate(
            f"{found.mean_ms:.3g}",
            (found.mean_ms, place),
            xytext=(0, 7),
            textcoords="offset points",
            ha="center",
            fontsize=9,
            color=INK,
        )
        lowest.append(found.p50_ms)
        highest.append(found.p99_ms)
    axes.set_yticks(range(len(names)), [f"{name} *" if name in best and len(names) > 1 else name for name in names])
    axes.set_ylim(len(names) - 0.5, -0.75)
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")
    if highest and max(highest) > _WIDE * min(lowest):
        axes.set_xscale("log")
        label_decades(axes)
    elif highest:
        axes.set_xlim(0, 1.05 * max(highest))
    axes.set_xlabel("inference time in ms: dot mean, bar p50 to p99")
    axes.set_title("Inference time per strategy")
    starred = "; * best" if len(names) > 1 and best else ""
    return (
        f"Inference time per strategy, all cuts and seeds: the dot is the mean, the bar goes from p50 to p99{starred}."
    )
