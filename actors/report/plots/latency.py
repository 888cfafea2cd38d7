"""How are the times distributed? The share of all offered requests that were answered within a time."""

from __future__ import annotations

from typing import Any

import numpy as np

from actors.report import statistics as stats
from actors.report.page import label_decades
from actors.report.palette import strategy_colour, strategy_line
from actors.report.result import Result

#: Points of a line; more make the page large, and nobody sees them.
_POINTS = 300


def fill(figure: Any, result: Result) -> str:
    """Draw it; returns the caption."""
    axes = figure.add_subplot()
    for name in result.strategies:
        own = result.of(name)
        offered = [record for run in own for record in run.measured]
        latencies = np.sort([r.inference_ms for r in offered if r.outcome == "answered" and r.inference_ms is not None])
        if latencies.size == 0:
            continue
        # Over all offered requests: a strategy that refuses or loses some never reaches 1.
        heights = np.arange(1, latencies.size + 1) / len(offered)
        kept = np.unique(np.linspace(0, latencies.size - 1, _POINTS).astype(int))
        label = f"{name} (unstable)" if any(map(stats.is_unstable, own)) else name
        axes.step(
            latencies[kept],
            heights[kept],
            where="post",
            label=label,
            color=strategy_colour(name),
            linestyle=strategy_line(name),
        )
    axes.set_xscale("log")
    label_decades(axes)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("inference time in ms, from the intended capture on")
    axes.set_ylabel("share of all offered requests")
    axes.set_title("Distribution of the inference time")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return "Share of all offered requests that were answered within a time; what was not answered never adds to it."
