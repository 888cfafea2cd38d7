"""Steps of the server beside the records of the devices: on one clock, as well as that can be known."""

from __future__ import annotations

import pytest

from actors.records.step import StepSeen, on_run_clock
from slicer.core.records.record import Record


def answered(finished_s: float, **more: object) -> Record:
    made = Record("r", "d", "g", 1, 0, None, scheduled_s=0.0, outcome="answered", rows_per_step=(1,))
    made.finished_s = finished_s
    for name, value in more.items():
        setattr(made, name, value)
    return made


def test_the_last_step_ends_where_the_last_answer_of_the_server_was_there() -> None:
    steps = [StepSeen("m", 0, 4, 100.0, 100.5, {0: 1}), StepSeen("m", 0, 4, 101.0, 101.25, {0: 2})]
    moved = on_run_clock(steps, [answered(1.0), answered(2.25)])
    assert [(step.began_s, step.ended_s) for step in moved] == [(1.0, 1.5), (2.0, 2.25)]
    assert [step.rows for step in moved] == [1, 2]


@pytest.mark.parametrize("alone", [{"alone": "vit"}, {"rows_per_step": ()}])
def test_answers_that_devices_gave_by_themselves_say_nothing_of_the_server(alone: dict[str, object]) -> None:
    steps = [StepSeen("m", 0, 4, 100.0, 100.5, {0: 1})]
    (step,) = on_run_clock(steps, [answered(1.0), answered(9.0, **alone)])
    assert step.ended_s == 1.0
    assert on_run_clock(steps, [answered(9.0, **alone)]) == ()


def test_no_steps_no_times() -> None:
    assert on_run_clock([], [answered(1.0)]) == ()
