"""The pictures: that they can be drawn, and say what is emulated."""

from __future__ import annotations

import numpy as np

from actors.report.page import svg_file
from headtail.demo import pictures
from headtail.demo.batching import LivePoint, Simulated
from headtail.demo.exactness import Heard
from headtail.demo.load_curve import SERIES, Bench, Point
from headtail.demo.splitting import Cell, cells


def test_the_first_shows_each_count_and_is_not_emulated() -> None:
    whole = np.eye(2, dtype=np.float32)
    drawn = svg_file(pictures.same(Heard(whole, [0, 1], whole, {"lazy": {0: whole, 1: whole[::-1]}}))).decode()
    assert ">2/2<" in drawn and ">0/2<" in drawn and "emulated" not in drawn


def test_the_second_has_a_line_per_series_and_says_emulated() -> None:
    points = [Point(rate, 10.0, 30.0, grew=False) for rate in (20, 80)]
    simulated = Simulated(Bench(), dict.fromkeys(SERIES, points), dict.fromkeys(SERIES, 1.0), {}, {})
    live = LivePoint("continuous", 80, 9, 1.0, 2.0, 1.0, 1.0, 1.0, 0.1, valid=True, lost=0)
    drawn = svg_file(pictures.batching(simulated, [live])).decode()
    assert all(f">{series}<" in drawn for series in SERIES)
    assert "emulated" in drawn


def test_an_invalid_point_is_no_dot() -> None:
    simulated = Simulated(Bench(), {series: [Point(20, 10.0, 30.0, grew=False)] for series in SERIES}, {}, {}, {})
    live = LivePoint("continuous", 80, 9, 1.0, 2.0, 1.0, 1.0, 1.0, 0.1, valid=False, lost=0)
    assert svg_file(pictures.batching(simulated, [live])) == svg_file(pictures.batching(simulated, []))


def test_the_third_has_a_field_per_case_and_says_emulated() -> None:
    found: list[Cell] = cells()
    drawn = svg_file(pictures.splitting(found)).decode()
    assert "#101010" in drawn, "words in fields stay dark on a dark page"
    assert drawn.count(">cut ") == sum(
        one is not None and one.choice.cut in (1, 2, 3) for each in found for one in (each.best, each.enough)
    )
    assert "emulated" in drawn
