"""The emulated accelerator on a clock of its own: its times are the profile's, its answers tell whose they are."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from deployments.costs.cost_model import Cell, CostModel, Source
from deployments.costs.profile_files import save_cost_profile
from deployments.executors.emulated import EmulatedExecutor, chain
from deployments.executors.registry import make_executor
from deployments.scheduling.scheduler import Resident, Row, Step
from slicer import slice_model
from slicer.errors import ConfigError

#: Reading the clock takes this long here, so that a loop that waits for it comes to an end.
TICK_S = 1e-6


class Time:
    """A clock that moves when it is read or slept on; a sleep takes `late_s` longer than asked."""

    def __init__(self, late_s: float = 0.0) -> None:
        self.now_s, self.late_s = 1000.0, late_s
        self.slept_s: list[float] = []

    def clock(self) -> float:
        self.now_s += TICK_S
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds + (self.late_s if seconds else 1e-5)
        self.slept_s.append(seconds)


class Cut:
    """As much of a sliced model as an executor needs that computes nothing."""

    def __init__(self, num_slices: int) -> None:
        self.num_slices = num_slices

    def span(self, start: int, end: int) -> nn.Module:
        return nn.Identity()


def executor(num_slices: int = 4, late_s: float = 0.0, **options: Any) -> tuple[EmulatedExecutor, Time]:
    time = Time(late_s)
    made = EmulatedExecutor(**{"profile": "launch-bound", **options}, clock=time.clock, sleep=time.sleep)
    made.load("m", Cut(num_slices), {"shared": Resident(0, num_slices, own_copy=False)})
    return made, time


def rows_at(made: EmulatedExecutor, entry: int, *firsts: float) -> tuple[Row, ...]:
    rows = tuple(Row(int(first), "m", entry, 1.5) for first in firsts)
    made.put("m", rows, np.array([[first, -1.0] for first in firsts], np.float32))
    return rows


@pytest.mark.parametrize(
    ("start", "end", "rows", "blocks_ms"),
    [
        (0, 1, 1, 3 * 1.2),  # slice 0 of 4 stands for blocks 0, 1, 2 of 12, at the floor
        (0, 4, 4, 12 * 1.2),  # four rows are still at the floor
        (2, 4, 10, 6 * 2.22),  # 0.35 * 1.2 + 0.18 * 10 ms per block
        (3, 4, 32, 3 * 6.18),
    ],
)
def test_a_step_takes_the_time_that_the_profile_says_for_its_span_and_batch(
    start: int, end: int, rows: int, blocks_ms: float
) -> None:
    made, time = executor()
    step = Step("m", "shared", start, end, rows_at(made, start, *map(float, range(rows))))
    began_s = time.now_s
    taken_s = made.run(step)
    assert taken_s == pytest.approx(blocks_ms / 1e3, abs=3e-5)
    assert time.now_s - began_s == pytest.approx(taken_s, abs=1e-4)
    assert made.punctuality.overruns == 0


def test_most_of_the_time_is_slept_and_the_last_stretch_is_not() -> None:
    made, time = executor(spin_ms=0.5)
    made.run(Step("m", "shared", 0, 1, rows_at(made, 0, 1.0)))
    assert time.slept_s[0] == pytest.approx(3.1e-3, abs=2e-5), "3.6 ms less 0.5 ms"
    assert set(time.slept_s[1:]) == {0.0}, "then it gives way, but does not sleep"


def test_a_sleep_that_ends_too_late_is_counted_and_measured() -> None:
    made, _ = executor(late_s=2e-3)
    taken_s = made.run(Step("m", "shared", 0, 1, rows_at(made, 0, 1.0)))
    assert taken_s == pytest.approx(5.3e-3, abs=3e-5), "3.3 ms of sleep end 2 ms late"
    assert made.punctuality.overruns == made.punctuality.steps == 1
    assert made.punctuality.worst_s == pytest.approx(1.7e-3, abs=3e-5)
    late_but_within, _ = executor(late_s=0.4e-3)
    late_but_within.run(Step("m", "shared", 0, 1, rows_at(late_but_within, 0, 1.0)))
    assert late_but_within.punctuality.overruns == 0, "0.1 ms of 3.6 ms is within 5 %"


def test_the_launch_part_is_burnt_and_not_slept() -> None:
    made, time = executor(burn_launch_ms=1.0)
    taken_s = made.run(Step("m", "shared", 0, 1, rows_at(made, 0, 1.0)))
    assert taken_s == pytest.approx(3.6e-3, abs=3e-5), "the burnt time is part of the step's"
    assert time.slept_s[0] == pytest.approx(0.3e-3, abs=2e-5), "3.6 ms less 3 blocks of 1 ms less 0.3 ms"


def test_without_answers_a_row_says_who_it_is_where_it_entered_and_how_far_it_came() -> None:
    made, _ = executor()
    first, late = rows_at(made, 0, 17.0, 18.0), rows_at(made, 2, 19.0)
    made.run(Step("m", "shared", 0, 2, first))
    made.run(Step("m", "shared", 2, 4, (*late, *first)))
    assert made.take((*late, *first)).tolist() == [[19, 2, 4], [17, 0, 4], [18, 0, 4]]
    made.drop(late[0])  # forgotten already: no error


def test_a_row_that_would_pass_a_slice_twice_or_never_is_found_out() -> None:
    made, _ = executor()
    rows = rows_at(made, 0, 1.0)
    made.run(Step("m", "shared", 0, 2, rows))
    for start, end in ((0, 1), (3, 4)):
        with pytest.raises(RuntimeError, match=f"has passed 2 slices and cannot run {start}:{end}"):
            made.run(Step("m", "shared", start, end, rows))


def test_true_answers_are_those_of_the_model() -> None:
    sliced = slice_model("deployments.executors.emulated:chain", 4, img_size=8, in_chans=1)
    time = Time()
    made = EmulatedExecutor(profile="launch-bound", answers="true", clock=time.clock, sleep=time.sleep)
    made.load("m", sliced, {"shared": Resident(0, 4, own_copy=False)})
    batch = np.random.default_rng(0).normal(size=(3, 1, 8, 8)).astype(np.float32)
    rows = tuple(Row(key, "m", 2, 0.0) for key in range(3))
    made.put("m", rows, batch)
    made.run(Step("m", "shared", 2, 4, rows))
    with torch.inference_mode():
        expected = sliced.tail(2)(torch.from_numpy(batch)).numpy()
    assert np.array_equal(made.take(rows), expected)


@pytest.fixture
def spread(tmp_path: Path) -> str:
    """Two slices of 2 ms, with a standard deviation of a quarter of that."""
    cell = Cell(2e-3, 0.5e-3, 100)
    path = tmp_path / "spread.yaml"
    save_cost_profile(CostModel((1, 2), [[cell, cell]] * 2, source=Source(hypothetical=True), name="spread"), path)
    return str(path)


def durations(profile: str, count: int = 400, **options: Any) -> list[float]:
    made, _ = executor(2, profile=profile, **options)
    return [made.run(Step("m", "shared", 0, 2, rows_at(made, 0, float(key)))) for key in range(count)]


def test_times_are_drawn_from_the_spread_of_the_profile_and_repeat_with_the_seed(spread: str) -> None:
    first = durations(spread, seed=1)
    assert first == durations(spread, seed=1) != durations(spread, seed=2)
    assert statistics.fmean(first) == pytest.approx(4e-3, rel=0.04)
    assert statistics.stdev(first) == pytest.approx(1e-3, rel=0.15)
    assert statistics.stdev(durations(spread, seed=1, spread=False)) < 2e-5, "switched off: always the mean"


def test_what_happened_is_recorded_for_a_replay(tmp_path: Path) -> None:
    record = tmp_path / "record"
    made, time = executor(record=str(record))
    began_s = time.now_s
    made.run(Step("m", "shared", 1, 4, rows_at(made, 1, 5.0, 6.0)))
    lines = [line.split() for line in record.read_text().splitlines()]
    assert lines[:2] == [["row", "1.5", "1"]] * 2
    kind, began, planned, taken, *rest = lines[2]
    assert (kind, rest) == ("step", ["1", "4", "2"])
    assert float(began) == pytest.approx(began_s, abs=1e-4)
    assert float(planned) == pytest.approx(9 * 1.2e-3) and float(taken) == pytest.approx(9 * 1.2e-3, abs=3e-5)


def test_it_always_says_that_it_is_emulated_and_whether_anybody_measured_the_profile() -> None:
    made = make_executor("emulated", device="cpu", options={"profile": "edge-gpu"})
    assert made.name == "emulated"
    assert made.emulated == "accelerator: edge-gpu, hypothetical profile"


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({}, "profile"),
        ({"profile": "no-such"}, "no-such"),
        ({"profile": "launch-bound", "answers": "wrong"}, "known are none and true"),
        ({"profile": "launch-bound", "spin_ms": -1.0}, "0 or more"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        make_executor("emulated", device="cpu", options=options)


def test_a_model_whose_slices_do_not_divide_the_profiles_is_refused() -> None:
    with pytest.raises(ConfigError, match="12 slices, model 'm' 5"):
        executor(5)


def test_the_chain_is_cut_after_any_of_its_units() -> None:
    sliced = slice_model("deployments.executors.emulated:chain", "all", units=12, img_size=8, in_chans=1)
    assert sliced.num_slices == 12
    assert {sliced.shape_at(cut) for cut in range(13)} == {(1, 8, 8)}
    with pytest.raises(ValueError, match="units 0"):
        chain(units=0)
