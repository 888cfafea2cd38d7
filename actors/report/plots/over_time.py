"""Was it steady? Answers per second and the median inference time, over the time of a run."""

from __future__ import annotations

from typing import Any

import numpy as np

from actors.report import statistics as stats
from actors.report.page import WIDTH_IN
from actors.report.palette import strategy_colour, strategy_line
from actors.report.result import Result

#: A piece of time holds at least so many answers of a run on average, and a run has so many pieces.
_LEAST, _FEWEST, _MOST = 12, 4, 20


def fill(figure: Any, result: Result) -> str:
    """Draw it; returns the caption, empty where there are too few answers for it."""
    runs = [run for run in result.runs if any(record.outcome == "answered" for record in run.measured)]
    answers = [sum(record.outcome == "answered" for record in run.measured) for run in runs]
    pieces = min(_MOST, sum(answers) // (len(runs) * _LEAST))
    if pieces < _FEWEST:
        return ""
    warmup_s = min(run.warmup_s for run in runs)
    end_s = max(run.warmup_s + (run.window_s or stats.elapsed_s(run) or 0.0) for run in runs)
    edges = np.linspace(warmup_s, end_s, pieces + 1)
    middles, width_s = (edges[1:] + edges[:-1]) / 2, edges[1] - edges[0]
    figure.set_size_inches(WIDTH_IN, 4.4)
    upper, lower = figure.subplots(2, 1, sharex=True)
    for name in result.strategies:
        own = [run for run in runs if run.strategy == name]
        done = [r for run in own for r in run.measured if r.outcome == "answered" and r.finished_s is not None]
        if not done:
            continue
        rates = np.histogram(np.array([r.finished_s for r in done], dtype=float), edges)[0] / (width_s * len(own))
        place = np.clip(np.digitize([r.scheduled_s for r in done], edges) - 1, 0, pieces - 1)
        times = np.array([r.inference_ms for r in done], dtype=float)
        medians = [np.median(times[place == piece]) if (place == piece).any() else np.nan for piece in range(pieces)]
        style = {"color": strategy_colour(name), "linestyle": strategy_line(name), "linewidth": 1.5}
        upper.plot(middles, rates, label=name, **style)
        lower.plot(middles, medians, **style)
    for axes in (upper, lower):
        axes.set_ylim(0, 1.08 * axes.get_ylim()[1])
    upper.set_ylabel("answers per s")
    lower.set_ylabel("median ms")
    lower.set_xlabel("seconds of the run")
    upper.set_title("Throughput and inference time over a run")
    figure.legend(*upper.get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return (
        f"Answers per second, and the median inference time of what was due then, in pieces of {width_s:.2g} s; all "
        "seeds together."
    )
