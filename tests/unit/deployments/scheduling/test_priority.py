"""Levels: every strategy of the engine serves a lower one first, and rows of one level as if there were no levels.

What is promised, of a step of one model and of all rows of that model that wait when it is chosen:

* all strategies: the step has a row of the lowest level that waits, wherever that waits;
* all strategies: no row is in it whose level is above that of a row which stays behind at the same boundary;
* `unbatched` and `lazy`: all its rows are of the lowest level;
* `continuous`: where rows catch up with a front that waits further ahead, all of them are of the lowest level.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.costs.cost_model import Cell, CostModel
from deployments.scheduling.registry import make_policy
from deployments.scheduling.scheduler import Row, Scheduler, Step
from deployments.simulation.simulator import Arrival, Setup, Simulation
from slicer.core.protocol.messages import DEFAULT_PRIORITY, MAX_PRIORITY

SLICES = 4

STRATEGIES: dict[str, tuple[str, Mapping[str, Any]]] = {
    **{name: (name, {}) for name in ("unbatched", "per_tail", "per_tail_shared", "continuous", "lazy")},
    **{
        f"per_slice {order}": ("per_slice", {"order": order})
        for order in ("oldest", "deepest", "shallowest", "fullest")
    },
}

#: Seconds of a slice at 1, 2, 3, ... rows: merging costs nothing, gains nothing, gains up to steps of 2 and of 4.
TIMES = {"flat": [1.0] * 6, "linear": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], "padded": [1.0, 1.0, 1.6, 1.6, 2.2, 2.2]}


@dataclass(frozen=True)
class Came:
    """A row, after so many more steps; it leaves again after `leaves` steps, if it still waits."""

    entry: int
    level: int
    steps: int
    patience: float | None
    leaves: int | None


CAME = st.builds(
    Came,
    entry=st.integers(0, SLICES - 1),
    level=st.sampled_from([1, DEFAULT_PRIORITY, DEFAULT_PRIORITY + 1, MAX_PRIORITY]),
    steps=st.sampled_from([0, 0, 0, 1, 2]),
    patience=st.sampled_from([None, None, 5.0, 20.5, 40.0]),
    leaves=st.sampled_from([None, None, None, 0, 1, 3]),
)


class Play:
    """One model's policy; `overlaps`: a step is chosen while the one before it runs, as the pipelined engine does."""

    def __init__(self, strategy: str, times: str, max_batch: int, overlaps: bool) -> None:
        name, options = STRATEGIES[strategy]
        cells = [Cell(time_s) for time_s in TIMES[times]]
        costs = CostModel(tuple(range(1, len(cells) + 1)), [list(cells) for _ in range(SLICES)], merge_s=0.01)
        costs.overlapped = overlaps
        policy = make_policy(
            name, model="m", num_slices=SLICES, max_batch=max_batch, max_wait_s=30.0, options=options, costs=costs
        )
        self.scheduler = Scheduler({"m": policy})
        self.overlaps = overlaps
        self.now_s, self.count = 0.0, 0
        self.waiting: dict[int, Row] = {}
        self.running: Step | None = None
        self.chosen: list[tuple[int, int, list[int]]] = []

    def add(self, came: Came, level: int) -> None:
        deadline_s = None if came.patience is None else self.now_s + came.patience
        row = Row(self.count, "m", came.entry, self.now_s, deadline_s, level)
        self.scheduler.add(row)
        self.waiting[row.key] = row
        self.count += 1

    def leave(self, key: int) -> None:
        if self.waiting.pop(key, None) is not None:
            self.scheduler.remove(key)

    def step(self) -> tuple[Step, list[Row]] | None:
        """The next step, and what waits beside it when it is chosen; None: nothing waits or runs."""
        for row in self.scheduler.expired(self.now_s):
            del self.waiting[row.key]
        step = self.scheduler.next(self.now_s)
        if step is None and self.running is None:
            return None
        before, self.running = self.running, step
        if step is None:
            self.finish(before)
            return self.step()
        self.chosen.append((step.start, step.end, [row.key for row in step.rows]))
        for row in step.rows:
            del self.waiting[row.key]
        beside = list(self.waiting.values())
        boundaries = {row.key: row.boundary for row in beside}
        self.finish(before)
        if not self.overlaps:
            self.finish(step)
            self.running = None
        self.now_s += 0.5
        assert all(row.boundary == boundaries[row.key] for row in beside), "these did not run"
        return step, beside

    def finish(self, step: Step | None) -> None:
        if step is not None:
            self.scheduler.finish(step, self.now_s)
            if step.end < SLICES:
                self.waiting.update((row.key, row) for row in step.rows)


def played(play: Play, rows: list[Came], levels: list[int], check: Any = lambda step, beside: None) -> None:
    """Until nothing is left."""
    leaving: dict[int, list[int]] = {}
    number = 0

    def turn() -> bool:
        nonlocal number
        for key in leaving.pop(number, ()):
            play.leave(key)
        number += 1
        if (found := play.step()) is None:
            return False
        check(*found)
        return True

    for came, level in zip(rows, levels, strict=True):
        for _ in range(came.steps):
            turn()
        play.add(came, level)
        if came.leaves is not None:
            leaving.setdefault(number + came.leaves, []).append(play.count - 1)
    while turn():
        pass
    assert not play.waiting and not play.scheduler.waiting


PLAYS = given(
    rows=st.integers(1, 20).flatmap(lambda count: st.lists(CAME, min_size=count, max_size=count)),
    times=st.sampled_from(sorted(TIMES)),
    max_batch=st.integers(1, 6),
    overlaps=st.booleans(),
)


@pytest.mark.parametrize("strategy", STRATEGIES)
@settings(max_examples=150)
@PLAYS
def test_a_lower_level_is_served_first(
    strategy: str, rows: list[Came], times: str, max_batch: int, overlaps: bool
) -> None:
    def check(step: Step, beside: list[Row]) -> None:
        lowest = min(row.priority for row in (*step.rows, *beside))
        levels = [row.priority for row in step.rows]
        assert min(levels) == lowest
        assert all(row.priority >= max(levels) for row in beside if row.boundary == step.start)
        if strategy in ("unbatched", "lazy"):
            assert set(levels) == {lowest}
        if strategy == "continuous" and min((*step.rows, *beside), key=lambda row: row.rank) not in step.rows:
            assert set(levels) == {lowest}  # these catch up with the front

    played(Play(strategy, times, max_batch, overlaps), rows, [came.level for came in rows], check)


@pytest.mark.parametrize("strategy", STRATEGIES)
@settings(max_examples=40)
@PLAYS
def test_rows_of_one_level_are_served_as_if_there_were_none(
    strategy: str, rows: list[Came], times: str, max_batch: int, overlaps: bool
) -> None:
    chosen = []
    for level in (DEFAULT_PRIORITY, 1, MAX_PRIORITY):
        play = Play(strategy, times, max_batch, overlaps)
        played(play, rows, [level] * len(rows))
        chosen.append(play.chosen)
    assert chosen[0] == chosen[1] == chosen[2]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_an_urgent_row_passes_all_that_wait_and_starves_them_if_there_are_enough(strategy: str) -> None:
    play = Play(strategy, "linear", max_batch=1, overlaps=False)
    row = Came(0, DEFAULT_PRIORITY, 0, None, None)
    play.add(row, DEFAULT_PRIORITY)
    play.add(row, DEFAULT_PRIORITY + 1)
    for _ in range(20):  # always one of level 1
        play.add(row, 1)
        while any(waits.priority == 1 for waits in play.waiting.values()):
            play.step()
    assert all(key > 1 for _, _, keys in play.chosen for key in keys)
    while play.step() is not None:
        pass
    ran = [key for _, end, [key] in play.chosen if end == SLICES]
    assert ran == [*range(2, 22), 0, 1]


def test_continuous_lets_the_front_wait_for_rows_of_its_level_only() -> None:
    """One row of the front's level that is a slice behind saves the time of two slices; one of another must not."""
    for level, first in ((8, 1), (9, 2)):
        play = Play("continuous", "flat", max_batch=4, overlaps=False)
        play.scheduler.add(Row(0, "m", 2, 0.0, priority=8))
        play.scheduler.add(Row(1, "m", 1, 1.0, priority=level))
        step = play.scheduler.next(1.0)
        assert step is not None and step.start == first


def test_rows_that_ran_together_give_their_places_to_a_lower_level_that_meets_them() -> None:
    play = Play("continuous", "flat", max_batch=3, overlaps=False)
    play.scheduler.add(Row(0, "m", 0, 0.0, priority=1))
    play.scheduler.add(Row(1, "m", 0, 0.0, priority=9))
    step = play.scheduler.next(0.0)
    assert step is not None and [row.key for row in step.rows] == [0, 1], "a batch is filled up with other levels"
    assert step.end == 1
    play.scheduler.finish(step, 1.0)
    for key in (2, 3):
        play.scheduler.add(Row(key, "m", 1, 1.0, priority=1))
    step = play.scheduler.next(1.0)
    assert step is not None and [row.key for row in step.rows] == [0, 2, 3]


def test_of_two_models_the_one_with_the_lowest_level_goes_first_however_urgent_the_other_is() -> None:
    policies = {name: make_policy("per_tail", model=name, num_slices=SLICES, max_batch=2) for name in ("a", "b")}
    scheduler = Scheduler(policies)
    scheduler.add(Row(0, "a", 0, 0.0, deadline_s=5.0))
    scheduler.add(Row(1, "b", 0, 1.0, deadline_s=90.0))
    scheduler.add(Row(2, "b", 1, 1.0, deadline_s=90.0, priority=DEFAULT_PRIORITY - 1))
    order = []
    while (step := scheduler.next(2.0)) is not None:
        order += [row.key for row in step.rows]
        scheduler.finish(step, 2.0)
    assert order == [2, 0, 1]


def test_the_simulator_serves_levels_too() -> None:
    costs = CostModel((1,), [[Cell(1.0)] for _ in range(SLICES)])
    arrivals = [Arrival(0.0, 0), Arrival(0.1, 0, priority=9), Arrival(0.2, 0), Arrival(0.3, 0, priority=1)]
    run = Simulation(Setup(costs, "unbatched")).run(arrivals)
    assert [round(at_s, 1) for at_s in run.latency_s] == [4.0, 15.9, 11.8, 7.7]
