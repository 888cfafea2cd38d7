"""`continuous` on hand-worked cases: which rows run next, over which span, and why.

Costs are in whole seconds per slice, four slices, so T(p, L, n) is easily worked out by hand:

* FLAT: a slice takes 1 s whatever the batch. T(p,L,n) = 4 - p. Every merge saves whole executions.
* LINEAR: a slice takes 1 s per row, as on a processor that gains nothing by batching. T(p,L,n) = n * (4 - p).
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.costs.cost_model import Cell, CostModel
from deployments.engine.engine import Engine
from deployments.scheduling.continuous import Continuous
from deployments.scheduling.registry import make_policy
from deployments.scheduling.scheduler import Resident, Row, Scheduler, Step
from deployments.simulation.simulator import Arrival, Setup, Simulation
from deployments.testing.fakes import FakeClock, FakeExecutor, rows_at
from slicer.errors import ConfigError

FLAT = [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
LINEAR = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]


def costs_of(times_s: list[float], num_slices: int = 4, **more: float) -> CostModel:
    """Seconds of every slice at 1, 2, 3, ... rows."""
    cells = [Cell(time_s) for time_s in times_s]
    return CostModel(tuple(range(1, len(cells) + 1)), [list(cells) for _ in range(num_slices)], **more)


class Play:
    """A scheduler with this one policy; rows are written as (entry, arrival_s) or (entry, arrival_s, deadline_s)."""

    def __init__(self, times_s: list[float], max_batch: int = 8, **costs: float) -> None:
        self.policy = Continuous("vit", 4, max_batch, costs=costs_of(times_s, **costs))
        self.scheduler = Scheduler({"vit": self.policy})
        self.keys = 0

    def add(self, *rows: tuple[float, ...]) -> None:
        for entry, arrival_s, *deadline_s in rows:
            self.scheduler.add(Row(self.keys, "vit", int(entry), arrival_s, *deadline_s))
            self.keys += 1

    def begin(self, now_s: float = 0.0) -> Step:
        step = self.scheduler.next(now_s)
        assert step is not None, "rows wait, and nothing runs"
        return step

    def step(self, now_s: float = 0.0) -> tuple[int, int, list[int]]:
        """(start, end, keys) of the next step, which runs at once."""
        step = self.begin(now_s)
        self.scheduler.finish(step, now_s)
        return step.start, step.end, [row.key for row in step.rows]

    def all_steps(self) -> list[tuple[int, int, list[int]]]:
        steps = []
        while self.scheduler.waiting:
            steps.append(self.step())
        return steps


# -------------------------------------------------------------------------------------------------------------- grow


def test_rows_at_one_entry_run_together_where_batching_is_free() -> None:
    play = Play(FLAT)
    play.add((2, 0.1), (2, 0.2), (2, 0.3))
    assert play.step() == (2, 3, [0, 1, 2])
    # Each joins: T(2,L,n) + T(2,L,1) - T(2,L,n+1) = 2 + 2 - 2 = 2 s saved, more than 0.1 * 2 s. One slice only: at
    # boundary 3 another row may join.


def test_no_row_joins_where_batching_gains_nothing_and_tails_are_not_interrupted() -> None:
    play = Play(LINEAR)
    play.add((0, 0.1), (0, 0.2), (1, 0.3))
    assert play.all_steps() == [(0, 4, [0]), (0, 4, [1]), (1, 4, [2])]
    # T(0,L,1) + T(0,L,1) - T(0,L,2) = 4 + 4 - 8 = 0 s saved: alone, oldest first, whole tails.


def test_a_row_joins_only_if_it_saves_a_tenth_of_its_own_time() -> None:
    for second_s, together in ((1.92, False), (1.88, True)):
        play = Play([1.0, second_s])
        play.add((3, 0.1), (3, 0.2))
        assert len(play.begin().rows) == (2 if together else 1)
        # One slice is left: 1 + 1 - 1.92 = 0.08 s is less than 0.1 * 1 s, 1 + 1 - 1.88 = 0.12 s is more.


def test_a_merge_that_costs_more_than_it_saves_is_left_out() -> None:
    play = Play(FLAT, merge_s=0.95)
    play.add((3, 0.1), (3, 0.2))
    assert play.step() == (3, 4, [0])  # 1 s saved, 0.95 s for the merge: 0.05 s is below a tenth


def test_the_batch_limit_holds_and_the_oldest_go_first() -> None:
    play = Play(FLAT, max_batch=2)
    play.add((3, 0.3), (3, 0.1), (3, 0.2))
    assert play.all_steps() == [(3, 4, [1, 2]), (3, 4, [0])]


def test_a_full_batch_is_not_interrupted() -> None:
    play = Play(FLAT, max_batch=2)
    play.add((0, 0.1), (0, 0.2))
    assert play.step() == (0, 4, [0, 1])  # nobody could join on the way


def test_rows_that_wait_on_the_way_are_absorbed() -> None:
    play = Play(FLAT)
    play.add((1, 0.1), (2, 0.2), (3, 0.3))
    assert play.all_steps() == [(1, 2, [0]), (2, 3, [0, 1]), (3, 4, [0, 1, 2])]


def test_several_join_at_once_where_one_alone_would_not_pay() -> None:
    play = Play([1.0, 2.0, 2.0, 2.0], max_batch=4)
    play.add((3, 0.1), (3, 0.2))
    assert play.step() == (3, 4, [0])  # two rows are padded to 4: 1 + 1 - 2 = 0 s saved
    play.add((3, 0.3), (3, 0.4), (3, 0.5))
    assert play.step() == (3, 4, [1, 2, 3, 4])
    # Three joining row 1 save 1 + 3 * 1 - 2 = 2 s, more than 0.1 * 3 s; and 1 + T(3) - 2 = 1 s against two steps.


# ---------------------------------------------------------------------------------------------------------- catch up


def in_front_at_2(play: Play) -> None:
    """Row 0 enters at 1 and runs slice 1: the front group is row 0, at boundary 2."""
    play.add((1, 0.1))
    assert play.step() == (1, 2, [0])


def test_one_row_close_behind_catches_up_where_that_pays() -> None:
    play = Play(FLAT)
    in_front_at_2(play)
    play.add((1, 0.2))
    assert play.all_steps() == [(1, 2, [1]), (2, 3, [0, 1]), (3, 4, [0, 1])]
    # Left:  1 * (T(1,2,1) + T(2,L,2) - T(2,L,1)) = 1 * (1 + 2 - 2) = 1: row 0 ends 1 s later.
    # Right: 1 * (T(2,L,1) + T(2,L,1) - T(2,L,2)) = 1 * (2 + 2 - 2) = 2: row 1 ends 2 s earlier. 1 < 2.


def test_one_row_far_behind_does_not_catch_up_but_two_do() -> None:
    alone, two = Play(FLAT), Play(FLAT)
    in_front_at_2(alone)
    alone.add((0, 0.2))
    assert alone.step() == (2, 3, [0])
    # Left: 1 * (2 + 2 - 2) = 2, right: 1 * (2 + 2 - 2) = 2; 2 < 2 is false, so the front group goes on.
    in_front_at_2(two)
    two.add((0, 0.2), (0, 0.3))
    assert two.step() == (0, 1, [1, 2])
    # Left: 2 as above, right: 2 * 2 = 4. They stop at boundary 1, where another row might join them.


def test_nobody_catches_up_where_merging_saves_nothing() -> None:
    play = Play(LINEAR)
    play.add((1, 0.1))
    running = play.begin()
    play.add((0, 0.2), (0, 0.3))
    play.scheduler.finish(running, 3.0)
    assert running.end == 4
    assert play.step() == (0, 4, [1])


def test_nobody_catches_up_who_would_not_fit() -> None:
    play = Play(FLAT, max_batch=2)
    in_front_at_2(play)
    play.add((1, 0.2), (1, 0.3))
    assert play.step() == (1, 2, [1])  # 1 + 2 > 2; the older of the two fits, and catches up
    assert play.all_steps() == [(2, 4, [0, 1]), (1, 2, [2]), (2, 3, [2]), (3, 4, [2])]


def test_the_group_that_gains_most_catches_up() -> None:
    play = Play(FLAT)
    in_front_at_2(play)
    play.add((1, 0.5), (0, 0.2), (0, 0.3), (0, 0.4))
    assert play.step() == (0, 1, [2, 3, 4])
    # From 0: 3 * 2 - 1 * 2 = 4 s gained by three rows; from 1: 1 * 2 - 1 * 1 = 1 s by one. They take row 1 along.
    assert play.step() == (1, 2, [2, 3, 4, 1])


def test_rows_that_ran_together_stay_together() -> None:
    play = Play(FLAT, max_batch=2)
    play.add((1, 0.1), (1, 0.5))
    first = play.begin()
    play.add((0, 0.2), (1, 0.3))
    play.scheduler.finish(first, 1.0)
    assert [row.key for row in first.rows] == [0, 1] and first.end == 4
    assert play.step() == (0, 1, [2])  # the oldest that is left
    assert play.step() == (1, 4, [2, 3])


# ---------------------------------------------------------------------------------------------------------- deadlines


def test_the_earliest_deadline_goes_first_and_pre_empts_at_a_boundary() -> None:
    play = Play(FLAT, max_batch=2)
    play.add((0, 0.0, 50.0))
    assert play.step(0.0) == (0, 1, [0])
    play.add((0, 1.0, 20.0), (0, 1.0, 30.0))
    assert play.step(1.0) == (0, 4, [1, 2])  # due before row 0, which is younger in nothing but its deadline
    assert play.step(5.0) == (1, 2, [0])


def test_rows_without_a_deadline_are_due_after_the_longest_wait() -> None:
    policy = Continuous("vit", 4, costs=costs_of(LINEAR), max_wait_s=10.0)
    scheduler = Scheduler({"vit": policy})
    scheduler.add(Row(0, "vit", 0, 0.0))  # due at 10
    scheduler.add(Row(1, "vit", 0, 1.0, deadline_s=10.5))
    scheduler.add(Row(2, "vit", 0, 2.0, deadline_s=9.5))
    order = []
    while (step := scheduler.next(2.0)) is not None:
        order += [row.key for row in step.rows]
        scheduler.finish(step, 2.0)
    assert order == [2, 0, 1]


def test_no_row_joins_that_would_make_the_front_group_late() -> None:
    play = Play([1.0, 1.5, 2.0])
    play.add((2, 0.0, 2.5), (2, 0.0, 9.0))
    assert play.step(0.0) == (2, 3, [0])
    # Alone it ends at T(2,L,1) = 2 s, with row 1 at T(2,L,2) = 3 s, after its deadline of 2.5 s; the merge saves 1 s.


def test_nobody_catches_up_who_would_make_the_front_group_late() -> None:
    for deadline_s, first in ((4.0, (1, 2, [1])), (3.9, (2, 3, [0]))):
        play = Play(FLAT)
        play.add((1, 0.0, deadline_s))
        assert play.step(0.0) == (1, 2, [0])
        play.add((1, 0.0, 9.0))
        assert play.step(1.0) == first
        # At 1 s: row 1 needs 1 s to catch up and both need 2 s more, so the front group ends at 4 s.


def test_a_row_that_cannot_be_met_any_more_leaves_at_the_next_boundary() -> None:
    play = Play(FLAT)
    play.add((0, 0.0, 5.2), (1, 0.0, 3.0))
    assert [row.key for row in play.scheduler.expired(0.0)] == [1]  # it needs 3 s, and at 3 s it is too late
    assert play.scheduler.expired(1.0) == []  # row 0 needs 4 s and has 4.2
    running = play.begin(1.0)
    assert play.scheduler.expired(1.5) == []  # a running row is left alone
    play.scheduler.finish(running, 2.5)  # slice 0 took 1.5 s instead of 1 s
    assert [row.key for row in play.scheduler.expired(2.5)] == [0]  # 3 s to go, 2.7 s left
    assert play.scheduler.waiting == 0


def test_a_row_that_moves_on_is_not_given_up_by_what_it_needed_before() -> None:
    play = Play(FLAT)
    play.add((0, 0.0, 5.0))
    play.step(0.5)
    assert play.scheduler.expired(1.5) == []  # when it entered, it had to start before 1 s; now it needs only 3 s
    assert [row.key for row in play.scheduler.expired(2.1)] == [0]


def test_nobody_is_given_up_by_a_guess() -> None:
    policy = Continuous("vit", 4)  # nothing is known of its costs
    scheduler = Scheduler({"vit": policy})
    scheduler.add(Row(0, "vit", 0, 0.0, deadline_s=1e-6))
    assert scheduler.expired(0.0) == []
    assert [row.key for row in scheduler.expired(1e-6)] == [0]


# ------------------------------------------------------------------------------------------------- boundaries and costs


def test_a_boundary_whose_expected_saving_is_below_the_time_of_a_decision_is_not_offered() -> None:
    for decision_s, end in ((0.0, 1), (1.0, 2), (100.0, 4)):
        play = Play(FLAT, decision_s=decision_s)
        play.add((0, 0.0), (2, 9.0))
        assert play.begin(10.0).end == end
        # Two rows came within 10 s, 0.2 per second. At boundary 1, 0.2 rows are expected, and would save 3 s each: 0.6.
        # At boundary 2 there is one already, and 0.4 more are expected: 1.4 * 2 s = 2.8 s.


def test_where_steps_are_launched_while_one_runs_they_take_half_of_what_the_host_needs_for_one_or_more() -> None:
    for decision_s, end in ((0.0, 1), (2.0, 1), (2.1, 2), (100.0, 4)):
        play = Play(FLAT, decision_s=decision_s, overlapped=True)
        play.add((0, 0.0))
        assert play.begin().end == end


def test_what_is_not_known_is_learned_from_the_steps() -> None:
    """Nothing is known, so batches are tried; the accelerator turns out to gain nothing by them."""
    policy = Continuous("vit", 4, 8)
    scheduler = Scheduler({"vit": policy})
    sizes = []
    for key in range(0, 400, 4):
        for row in range(4):
            scheduler.add(Row(key + row, "vit", 0, float(key)))
        while (step := scheduler.next(float(key))) is not None:
            scheduler.finish(step, float(key))
            scheduler.observe(step, 0.01 * len(step.rows) * (step.end - step.start))
            sizes.append(len(step.rows))
    assert sizes[0] == 4
    assert set(sizes[-4:]) == {1}


def test_the_policy_observes_costs_of_its_own() -> None:
    costs = costs_of(FLAT)
    policy = make_policy("continuous", model="vit", num_slices=4, costs=costs)
    scheduler = Scheduler({"vit": policy})
    scheduler.add(Row(0, "vit", 0, 0.0))
    step = scheduler.next(0.0)
    assert step is not None
    scheduler.observe(step, 2.0, 0.5)
    assert costs.slice_s(0, 1) > 1.0 and costs.decision_s > 0


def test_the_engine_tells_what_steps_cost_but_not_what_failed_ones_did() -> None:
    clock = FakeClock()
    costs = costs_of(FLAT)
    policy = Continuous("vit", 4, costs=costs)
    bad = True

    def break_once(step: Step) -> None:
        nonlocal bad
        bad, broken = False, bad
        if broken:
            raise ValueError("a bad batch")

    executor = FakeExecutor(clock, lambda step: 2.0 * (step.end - step.start), break_once)
    engine = Engine(Scheduler({"vit": policy}), executor, lambda outcomes: None, clock=clock)
    engine.submit("vit", 3, rows_at(1.0, 2.0), [0.0, 0.0], [None, None])
    engine.step_once()
    assert costs.span_s(3, 4, 1) == costs.span_s(3, 4, 2) == 1.0  # it ran in parts, each row alone: nothing is booked
    engine.submit("vit", 3, rows_at(3.0), [clock.now_s], [None])
    engine.step_once()
    assert costs.span_s(3, 4, 1) > 1.0 and costs.span_s(3, 4, 2) == 1.0


def test_wrong_values_are_refused_with_the_remedy() -> None:
    with pytest.raises(ConfigError, match="costs of vit are those of 3 slices, the model has 4"):
        Continuous("vit", 4, costs=costs_of(FLAT, num_slices=3))
    with pytest.raises(ConfigError, match=r"gate 1.0 of vit"):
        make_policy("continuous", model="vit", num_slices=4, options={"gate": 1.0})
    with pytest.raises(ConfigError, match="max_batch 0 of vit"):
        Continuous("vit", 4, 0)
    with pytest.raises(ConfigError, match="max_wait_s 0 of vit"):
        Continuous("vit", 4, max_wait_s=0)


def test_one_copy_of_the_weights_whatever_the_entries() -> None:
    for entries in ((0,), (0, 1, 2, 3), (2, 3)):
        assert Continuous("vit", 4).residents(entries) == {"shared": Resident(min(entries), 4, own_copy=False)}


# ---------------------------------------------------------------------------------------------------------- properties


def tables() -> st.SearchStrategy[list[float]]:
    """Seconds of a slice at 1 to 4 rows: ascending, from free batches to useless ones, with steps."""
    return st.lists(st.integers(0, 4), min_size=4, max_size=4).map(
        lambda rises: [1.0 + sum(rises[: n + 1]) / 4 for n in range(4)]
    )


def histories(deadlines: bool = False) -> st.SearchStrategy[list[Arrival]]:
    gap = st.sampled_from([0.0, 0.0, 0.3, 1.0, 4.0])
    slack = st.floats(0.5, 30.0) if deadlines else st.none()
    return st.lists(st.tuples(gap, st.integers(0, 3), slack), min_size=1, max_size=40).map(_arrivals)


def _arrivals(items: list[tuple[float, int, float | None]]) -> list[Arrival]:
    now_s, arrivals = 0.0, []
    for gap_s, entry, slack_s in items:
        now_s += gap_s
        arrivals.append(Arrival(now_s, entry, None if slack_s is None else now_s + slack_s))
    return arrivals


def played(arrivals: list[Arrival], times_s: list[float]) -> tuple[list[tuple[float, Step, list[int]]], list[float]]:
    """(when, step, keys of its rows) of every step, and the latencies."""
    steps: list[tuple[float, Step, list[int]]] = []
    simulation = Simulation(
        Setup(costs_of(times_s), "continuous", max_batch=4),
        lambda now_s, step: steps.append((now_s, step, [row.key for row in step.rows])),
    )
    return steps, simulation.run(arrivals).latency_s.tolist()


@settings(max_examples=150, deadline=None, derandomize=True)
@given(arrivals=histories(), times_s=tables())
def test_no_row_is_lost_doubled_or_reordered_on_its_own_path(arrivals: list[Arrival], times_s: list[float]) -> None:
    steps, latency_s = played(arrivals, times_s)
    assert all(latency < 1e9 for latency in latency_s), "lost"
    passed: dict[int, list[int]] = {key: [] for key in range(len(arrivals))}
    at_slice: dict[tuple[int, int], list[int]] = {}
    for _, step, keys in steps:
        assert step.weights == "shared", "another copy of the weights"
        assert 1 <= len(keys) == len(set(keys)) <= 4
        for key in keys:
            passed[key] += range(step.start, step.end)
            for index in range(step.start, step.end):
                at_slice.setdefault((arrivals[key].entry, index), []).append(key)
    for key, slices in passed.items():
        assert slices == list(range(arrivals[key].entry, 4)), "skipped, doubled or out of order"
    for keys in at_slice.values():
        assert keys == sorted(keys), "a younger row of the same entry was there first"


@settings(max_examples=150, deadline=None, derandomize=True)
@given(arrivals=histories(), times_s=tables())
def test_the_wait_of_the_oldest_row_is_bounded(arrivals: list[Arrival], times_s: list[float]) -> None:
    """From when a row is the oldest it waits for the running step, then for B * L steps at most, and its own."""
    _, latency_s = played(arrivals, times_s)
    longest_step_s = 4 * max(times_s)
    bound_s = longest_step_s + (4 * 4 + 4) * max(times_s)
    oldest_from_s = 0.0
    for arrival, latency in zip(arrivals, latency_s, strict=True):
        end_s = arrival.arrival_s + latency
        assert end_s <= max(oldest_from_s, arrival.arrival_s) + bound_s + 1e-9
        oldest_from_s = max(oldest_from_s, end_s)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(arrivals=histories(deadlines=True), times_s=tables())
def test_deadlines_decide_the_order_and_nobody_runs_who_cannot_be_met(
    arrivals: list[Arrival], times_s: list[float]
) -> None:
    costs = costs_of(times_s)
    at = {key: arrival.entry for key, arrival in enumerate(arrivals)}
    steps, latency_s = played(arrivals, times_s)
    for now_s, step, keys in steps:
        for key in keys:
            deadline_s = arrivals[key].deadline_s
            assert deadline_s is not None and now_s + costs.tails(1)[step.start] < deadline_s + 1e-9
        ran_s = now_s + costs.span_s(step.start, step.end, len(keys))
        waiting = [
            key
            for key, arrival in enumerate(arrivals)
            if key not in keys and at[key] < 4 and arrival.arrival_s <= now_s and latency_s[key] < 1e9
        ]
        first = min((*waiting, *keys), key=lambda key: (arrivals[key].deadline_s, arrivals[key].arrival_s, key))
        # Either the most urgent row that will be answered runs, or rows that catch up with the front group.
        assert first in keys or step.end <= max(at[key] for key in waiting)
        assert ran_s > now_s
        at.update(dict.fromkeys(keys, step.end))
