"""What does the accelerator do? Its steps over time; a bar of several colours holds rows of several cuts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from actors.records.step import StepSeen
from actors.report.page import WIDTH_IN
from actors.report.palette import PAPER, entry_colour
from actors.report.result import Result

#: So many steps of the strategy with the most fit into a window.
_STEPS = 45

Steps = Mapping[str, Sequence[StepSeen]]


def fill(figure: Any, result: Result) -> str:
    """Draw it; returns the caption, empty where no server kept its steps."""
    by_strategy = _of_one_seed(result)
    window = window_of(by_strategy)
    if window is None:
        return ""
    begin_s, end_s = window
    names = list(by_strategy)
    figure.set_size_inches(WIDTH_IN, 1.1 + 0.95 * len(names))
    grid = figure.subplots(len(names), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    entries: set[int] = set()
    for axes, name in zip(grid, names, strict=True):
        shown = [step for step in by_strategy[name] if step.ended_s > begin_s and step.began_s < end_s]
        for step in shown:
            bottom = 0
            for entry, rows in sorted(step.entries.items()):
                axes.bar(
                    (step.began_s - begin_s) * 1e3,
                    rows,
                    (step.ended_s - step.began_s) * 1e3,
                    bottom,
                    align="edge",
                    color=entry_colour(entry),
                    edgecolor=PAPER,
                    linewidth=0.35,
                )
                bottom += rows
                entries.add(entry)
        axes.set_title(name, fontsize=10, loc="left", pad=3)
        axes.grid(False, axis="x")
        axes.yaxis.get_major_locator().set_params(integer=True, nbins=3)
    grid[0].set_xlim(0, (end_s - begin_s) * 1e3)
    grid[-1].set_xlabel(f"ms, from {begin_s:.2f} s of the run on")
    figure.supylabel("rows of a step", fontsize=10)
    from matplotlib.patches import Patch

    handles = [Patch(color=entry_colour(entry), label=f"cut {entry}") for entry in sorted(entries)]
    figure.legend(handles=handles, loc="outside upper center", ncols=min(5, len(handles)), handlelength=1.2)
    lacking = [name for name in result.strategies if name not in by_strategy]
    return (
        "The accelerator over time: a bar is a step, its width the time, its height the rows, coloured by the cut "
        "at which they entered. More than one colour: rows of different cuts ran together. Shown is where they did so "
        "most; same arrivals in each, moments exact to about a reply's way."
        + (f" No steps were kept of {', '.join(lacking)}." if lacking else "")
    )


def _of_one_seed(result: Result) -> dict[str, tuple[StepSeen, ...]]:
    """The steps of every strategy, under the seed for which most strategies have some."""
    seeds = list(dict.fromkeys(run.seed for run in result.runs))
    traced = {
        seed: {run.strategy: run.steps for run in result.runs if run.seed == seed and run.steps} for seed in seeds
    }
    found = max(traced.values(), key=len, default={})
    return {name: found[name] for name in result.strategies if name in found}


def window_of(by_strategy: Steps) -> tuple[float, float] | None:
    """The piece of time, in seconds of the run, in which most rows of different entries met; None: there are no steps.

    It lies where all strategies have steps, if there is such a time, and is as long as the one with the most steps
    allows.
    """
    if not any(by_strategy.values()):
        return None
    began = [min(step.began_s for step in steps) for steps in by_strategy.values()]
    ended = [max(step.ended_s for step in steps) for steps in by_strategy.values()]
    first_s, last_s = max(0.0, *began), min(ended)
    if last_s <= first_s:
        first_s, last_s = max(0.0, min(began)), max(ended)
    inside = {
        name: [step for step in steps if first_s <= step.began_s and step.ended_s <= last_s]
        for name, steps in by_strategy.items()
    }
    most = max(len(steps) for steps in inside.values())
    length_s = (last_s - first_s) * min(1.0, _STEPS / max(most, 1))
    starts = [first_s + n * length_s / 2 for n in range(max(1, int((last_s - first_s) / length_s * 2) - 1))]
    all_inside = [step for steps in inside.values() for step in steps]

    def met(start_s: float) -> tuple[int, int]:
        here = [step for step in all_inside if start_s <= step.began_s and step.ended_s <= start_s + length_s]
        return sum(step.rows for step in here if len(step.entries) > 1), sum(step.rows for step in here)

    start_s = max(starts, key=met)
    return start_s, start_s + length_s
