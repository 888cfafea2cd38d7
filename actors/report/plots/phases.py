"""Where does the time go? The mean of each phase, per strategy and cut."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from actors.report import statistics as stats
from actors.report.page import WIDTH_IN
from actors.report.palette import COLOURS
from actors.report.result import Result
from actors.report.statistics import PHASES

#: The device's phases in greens, the network in grey, the server's in warm colours, in the order of the path.
_COLOURS = {phase: COLOURS[f"p{number}"][0] for number, phase in enumerate(PHASES, start=1)}


def fill(figure: Any, result: Result) -> str:
    """Draw it; returns the caption."""
    strategies = result.strategies
    columns = min(2, len(strategies))
    rows = math.ceil(len(strategies) / columns)
    figure.set_size_inches(WIDTH_IN, 1.2 + 1.6 * rows)
    grid = figure.subplots(rows, columns, sharey=True, sharex=True, squeeze=False)
    cuts = sorted({record.cut for run in result.runs for record in run.measured})
    for index, axes in enumerate(grid.flat):
        if index >= len(strategies):
            axes.set_axis_off()
            continue
        own = result.of(strategies[index])
        base = np.zeros(len(cuts))
        found = [stats.summarise_runs(own, cut).phases_ms for cut in cuts]
        for phase in PHASES:
            means = [phases[phase] or 0.0 for phases in found]
            axes.bar(range(len(cuts)), means, bottom=base, color=_COLOURS[phase], label=phase, width=0.75)
            base += means
        axes.set_title(strategies[index] + (" (unstable)" if any(map(stats.is_unstable, own)) else ""), fontsize=10)
        axes.set_xticks(range(len(cuts)), [str(cut) for cut in cuts])
        axes.grid(False, axis="x")
        if index + columns >= len(strategies):
            axes.set_xlabel("cut")
            axes.tick_params(labelbottom=True)
    for axes in grid[:, 0]:
        axes.set_ylabel("mean ms")
    handles, labels = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, columnspacing=1.2, handlelength=1.2)
    return (
        "Where the inference time goes, per cut. Greens: on the device (wait, head, encode); grey: the network; warm: "
        "on the server (admission, queue, execution)."
    )
