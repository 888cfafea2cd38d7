"""The other pictures of a report: what they show, and when there is nothing to show."""

from __future__ import annotations

from collections import Counter

import pytest

from actors.report.page import drawing
from actors.report.plots import groups, latency, memory, over_time, summary
from actors.report.plots.draw import NAMES, draw
from actors.report.statistics import StrategyRun
from tests.unit.actors.report.test_result import SERVER, record, result, steady, two_strategies


def test_pictures_come_in_the_order_of_the_page_and_have_words_for_those_who_cannot_see_them() -> None:
    made = draw(two_strategies())
    assert [one.name for one in made] == [name for name in NAMES if name != "timeline"]
    assert all(one.caption and one.figure.get_label() == one.caption for one in made)


def test_groups_show_what_was_sent_by_share() -> None:
    rows = [record(t / 10, 50.0, cut=1 + (t % 4 == 0), codec="int8", group="camera") for t in range(100)]
    job = result(StrategyRun("unbatched", 0, "open", 0.0, 10.0, tuple(rows)))
    assert groups.choices(job) == {"camera": Counter({(1, "int8"): 75, (2, "int8"): 25})}
    with drawing() as figure:
        groups.fill(figure, job)
    (axes,) = figure.axes
    assert [bar.get_width() for bar in axes.patches] == [0.75, 0.25]
    assert [text.get_text() for text in axes.texts] == ["cut 1, int8", "cut 2"]


def test_what_was_not_answered_keeps_the_curve_below_1() -> None:
    lost = {"outcome": "lost", "inference_ms": None, "finished_s": None}
    rows = tuple(record(t / 10, 50.0, **(lost if t < 50 else {})) for t in range(100))
    with drawing() as figure:
        latency.fill(figure, result(StrategyRun("unbatched", 0, "open", 0.0, 10.0, rows)))
    (line,) = figure.axes[0].lines
    assert max(line.get_ydata()) == 0.5


def test_long_runs_are_drawn_with_few_points_that_hold_both_ends() -> None:
    rows = tuple(record(t / 1000, 10.0 + t / 100) for t in range(5000))
    with drawing() as figure:
        latency.fill(figure, result(StrategyRun("unbatched", 0, "open", 0.0, 5.0, rows)))
    (line,) = figure.axes[0].lines
    times = line.get_xdata()
    assert len(times) == 300 and (times[0], times[-1]) == (10.0, pytest.approx(59.99))


def test_memory_that_no_server_told_is_no_picture() -> None:
    with drawing() as figure:
        assert memory.fill(figure, result(StrategyRun("unbatched", 0, "open", 0.0, 10.0, steady(1, 0)))) == ""
        assert memory.fill(figure, two_strategies())
    assert [bar.get_width() for bar in figure.axes[0].patches] == [2.0, 2.0]


def test_a_few_answers_are_no_course_of_time() -> None:
    with drawing() as figure:
        assert over_time.fill(figure, result(StrategyRun("unbatched", 0, "open", 0.0, 10.0, steady(1, 0)[:40]))) == ""


def test_over_time_gives_the_rate_of_one_run_whatever_the_number_of_seeds() -> None:
    with drawing() as figure:
        assert over_time.fill(figure, two_strategies())
    rates = figure.axes[0].lines[0].get_ydata()
    assert rates.mean() == pytest.approx(10, rel=0.05)


def test_a_strategy_whose_queue_grew_has_words_in_place_of_a_time() -> None:
    growing = tuple(record(t / 10, 20 + 10 * t) for t in range(100))
    job = result(
        StrategyRun("unbatched", 0, "open", 0.0, 10.0, growing),
        StrategyRun("per_slice", 0, "open", 0.0, 10.0, steady(1, 0), SERVER),
    )
    with drawing() as figure:
        summary.fill(figure, job)
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.texts] == ["its queue grew all along", "55.9"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["unbatched", "per_slice *"]
