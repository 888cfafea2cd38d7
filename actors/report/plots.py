"""Plots of a load job: the latency distribution per strategy, and where the time goes per cut."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from actors.report import statistics as stats
from actors.report.statistics import PHASES, StrategyRun

#: Device phases in greens, the network in grey, server phases in warm colours, in the order of the path.
_COLOURS = dict(zip(PHASES, ("#b7d7a8", "#6aa84f", "#38761d", "#999999", "#ffe599", "#f6b26b", "#cc4125"), strict=True))
_LINES = ("-", "--", "-.", ":")


def draw(runs: Sequence[StrategyRun], strategies: Sequence[str], emulated: str) -> dict[str, bytes]:
    """PNGs by file name. No display is needed; nothing to plot: no file."""
    if not any(record.outcome == "answered" for run in runs for record in run.measured):
        return {}
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = {}
    for name, fill in (("latency_cdf.png", _latency_cdf), ("phases.png", _phases)):
        figure = Figure(layout="constrained")
        FigureCanvasAgg(figure)
        fill(figure, runs, strategies)
        if emulated:
            figure.supxlabel(f"emulated: {emulated}", fontsize=7, color="#666666")
        image = io.BytesIO()
        figure.savefig(image, format="png", dpi=130)
        made[name] = image.getvalue()
    return made


def _latency_cdf(figure: Any, runs: Sequence[StrategyRun], strategies: Sequence[str]) -> None:
    figure.set_size_inches(8, 4.5)
    axes = figure.add_subplot()
    for index, name in enumerate(strategies):
        own = [run for run in runs if run.strategy == name]
        offered = [record for run in own for record in run.measured]
        latencies = np.sort([r.inference_ms for r in offered if r.outcome == "answered" and r.inference_ms is not None])
        if latencies.size == 0:
            continue
        # Over all offered requests: a strategy that refuses or loses some never reaches 1.
        heights = np.arange(1, latencies.size + 1) / len(offered)
        label = f"{name} (unstable)" if any(map(stats.is_unstable, own)) else name
        axes.step(latencies, heights, where="post", label=label, linestyle=_LINES[index % len(_LINES)], linewidth=1.6)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter(lambda value, _: f"{value:g}" if str(f"{value:e}")[0] in "25" else "")
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("inference time in ms, from the intended capture to the answer")
    axes.set_ylabel("share of all offered requests")
    axes.set_title("Inference time per strategy")
    axes.grid(alpha=0.3, which="both")
    axes.legend(loc="lower right")


def _phases(figure: Any, runs: Sequence[StrategyRun], strategies: Sequence[str]) -> None:
    columns = min(3, len(strategies))
    rows = math.ceil(len(strategies) / columns)
    figure.set_size_inches(1.5 + 3.4 * columns, 0.8 + 2.8 * rows)
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
    cuts = sorted({record.cut for run in runs for record in run.measured})
    for index, axes in enumerate(grid.flat):
        if index >= len(strategies):
            axes.set_axis_off()
            continue
        own = [run for run in runs if run.strategy == strategies[index]]
        base = np.zeros(len(cuts))
        for phase in PHASES:
            means = [stats.summarise_runs(own, cut).phases_ms[phase] or 0.0 for cut in cuts]
            axes.bar(range(len(cuts)), means, bottom=base, color=_COLOURS[phase], label=phase, width=0.75)
            base += means
        axes.set_title(strategies[index] + (" (unstable)" if any(map(stats.is_unstable, own)) else ""), fontsize=10)
        axes.set_xticks(range(len(cuts)), [str(cut) for cut in cuts])
        axes.set_xlabel("cut")
        axes.grid(axis="y", alpha=0.3)
        axes.set_axisbelow(True)
    for axes in grid[:, 0]:
        axes.set_ylabel("mean ms")
    handles, labels = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside right upper", fontsize=9)
    figure.suptitle("Where the inference time goes")
