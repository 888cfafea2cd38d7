"""The time line of the accelerator: the same piece of time for all, where rows of different entries met most."""

from __future__ import annotations

import pytest

from actors.records.step import StepSeen
from actors.report.page import drawing
from actors.report.palette import entry_colour
from actors.report.plots import steps
from actors.report.statistics import StrategyRun
from tests.unit.actors.report.test_result import result, steady


def step(began_s: float, took_s: float = 0.1, **entries: int) -> StepSeen:
    return StepSeen("m", 0, 4, began_s, began_s + took_s, {int(name[1:]): rows for name, rows in entries.items()})


def run(strategy: str, *seen: StepSeen, seed: int = 0) -> StrategyRun:
    return StrategyRun(strategy, seed, "open", 0.0, 10.0, steady(1, seed), steps=seen)


def test_the_window_lies_where_rows_of_different_entries_met() -> None:
    alone = [step(n * 0.2, e0=1) for n in range(500)]
    merging = [*alone[:300], *(step(60 + n * 0.2, e0=1, e1=2) for n in range(40)), *alone[340:]]
    window = steps.window_of({"unbatched": alone, "per_slice": merging})
    assert window is not None
    begin_s, end_s = window
    assert begin_s < 62 and end_s > 66, "the most of 60 to 68"
    assert end_s - begin_s == pytest.approx(45 * 0.2, rel=0.02), "as many steps as can be told apart"


def test_it_lies_where_all_strategies_have_steps() -> None:
    early, late = [step(n, e0=1) for n in range(100)], [step(n, e0=1) for n in range(80, 180)]
    window = steps.window_of({"unbatched": early, "per_slice": late})
    assert window is not None and 80 <= window[0] < window[1] <= 99.2


def test_strategies_that_never_ran_at_the_same_time_of_a_run_have_a_window_all_the_same() -> None:
    assert steps.window_of({"a": [step(1, e0=1)], "b": [step(5, e0=1)]}) is not None


def test_no_steps_no_picture() -> None:
    assert steps.window_of({}) is None
    with drawing() as figure:
        assert steps.fill(figure, result(run("unbatched"))) == ""


def test_a_bar_is_as_high_as_its_rows_and_has_a_colour_for_each_entry() -> None:
    with drawing() as figure:
        caption = steps.fill(figure, result(run("unbatched"), run("per_slice", step(1.0, 0.5, e0=2, e3=1))))
    (axes,) = figure.axes
    found = [(bar.get_y(), bar.get_height(), bar.get_width(), bar.get_facecolor()) for bar in axes.patches]
    from matplotlib.colors import to_rgba

    assert found == [
        (0, 2, pytest.approx(500), to_rgba(entry_colour(0))),
        (2, 1, pytest.approx(500), to_rgba(entry_colour(3))),
    ]
    assert caption.endswith("No steps were kept of unbatched.")


def test_the_seed_is_one_for_which_most_strategies_have_steps() -> None:
    job = result(
        run("unbatched"),
        run("per_slice", step(1, e0=1)),
        run("unbatched", step(2, e1=1), seed=1),
        run("per_slice", step(2, e0=1), seed=1),
    )
    with drawing() as figure:
        steps.fill(figure, job)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["unbatched", "per_slice"]
