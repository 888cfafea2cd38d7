"""`lazy`, LazyBatching's stack, on hand-worked cases. A slice takes 1 s whatever the batch; four slices."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.costs.cost_model import Cell, CostModel
from deployments.scheduling.lazy import Lazy
from deployments.scheduling.scheduler import Row, Scheduler
from slicer.errors import ConfigError


def scheduler_of(max_batch: int = 8, slo_s: float | None = 100.0) -> Scheduler:
    costs = CostModel((1, 8), [[Cell(1.0), Cell(1.0)] for _ in range(4)])
    return Scheduler({"vit": Lazy("vit", 4, max_batch, costs=costs, slo_s=slo_s)})


def add(scheduler: Scheduler, *rows: tuple[int, float, int]) -> None:
    """Rows as (entry, arrival_s, key)."""
    for entry, arrival_s, key in rows:
        scheduler.add(Row(key, "vit", entry, arrival_s))


def step(scheduler: Scheduler, now_s: float) -> tuple[int, int, list[int]]:
    """(start, end, keys) of the next step, which runs at once."""
    chosen = scheduler.next(now_s)
    assert chosen is not None
    scheduler.finish(chosen, now_s)
    return chosen.start, chosen.end, [row.key for row in chosen.rows]


def test_a_newcomer_pre_empts_catches_up_and_merges() -> None:
    scheduler = scheduler_of()
    add(scheduler, (0, 0.0, 0))
    assert step(scheduler, 0.0) == (0, 1, [0])
    assert step(scheduler, 1.0) == (1, 2, [0])
    add(scheduler, (0, 1.5, 1))
    steps = [step(scheduler, float(now_s)) for now_s in range(2, 6)]
    assert steps == [
        (0, 1, [1]),  # row 1 lies on top of the stack
        (1, 2, [1]),
        (2, 3, [0, 1]),  # it has caught up, and they go on as one
        (3, 4, [0, 1]),
    ]
    assert scheduler.waiting == 0


def test_a_newcomer_that_would_cost_somebody_his_slack_waits_for_the_stack_to_end() -> None:
    for slo_s, starts in ((8.0, [0, 1, 2, 3]), (7.9, [1, 2, 3, 0])):
        scheduler = scheduler_of(slo_s=slo_s)
        add(scheduler, (0, 0.0, 0))
        step(scheduler, 0.0)
        add(scheduler, (0, 0.5, 1))
        assert [step(scheduler, float(now_s))[0] for now_s in range(1, 5)] == starts
        # At 1 s row 0 needs 3 s more, row 1 needs 4 s: 7 s, as if one after the other. Row 0 is due after 8 s, or 7.9.


def test_a_rows_own_deadline_is_its_slack() -> None:
    scheduler = scheduler_of()
    scheduler.add(Row(0, "vit", 0, 0.0, deadline_s=7.9))
    step(scheduler, 0.0)
    add(scheduler, (0, 0.5, 1))
    assert step(scheduler, 1.0) == (1, 2, [0])


def test_a_newcomer_ahead_of_the_top_is_absorbed_when_the_top_comes_by() -> None:
    scheduler = scheduler_of()
    add(scheduler, (0, 0.0, 0))
    step(scheduler, 0.0)
    add(scheduler, (3, 0.5, 1), (2, 0.6, 2))
    assert [step(scheduler, 1.0) for _ in range(3)] == [(1, 2, [0]), (2, 3, [0, 2]), (3, 4, [0, 1, 2])]


def test_when_the_stack_is_empty_everything_that_waits_starts_together() -> None:
    scheduler = scheduler_of(slo_s=0.1)  # nobody has any slack
    add(scheduler, (0, 0.0, 0), (2, 0.0, 1), (0, 0.0, 2))
    assert [step(scheduler, 0.0) for _ in range(4)] == [
        (0, 1, [0, 2]),
        (1, 2, [0, 2]),
        (2, 3, [0, 1, 2]),
        (3, 4, [0, 1, 2]),
    ]


def test_of_a_batch_that_would_be_too_large_the_older_rows_go_first() -> None:
    scheduler = scheduler_of(max_batch=2)
    add(scheduler, (1, 0.0, 0))
    step(scheduler, 0.0)
    add(scheduler, (1, 0.1, 1), (1, 0.2, 2))
    assert [step(scheduler, 1.0) for _ in range(5)] == [
        (1, 2, [1, 2]),
        (2, 3, [0, 1]),  # three are at boundary 2
        (2, 3, [2]),  # which is behind now, and so on top
        (3, 4, [0, 1]),
        (3, 4, [2]),
    ]


@pytest.mark.parametrize("gone", [0, 1])
def test_a_removed_row_leaves_the_stack(gone: int) -> None:
    scheduler = scheduler_of()
    add(scheduler, (0, 0.0, 0), (0, 0.0, 1))
    step(scheduler, 0.0)
    assert scheduler.remove(gone) is not None
    assert step(scheduler, 1.0) == (1, 2, [1 - gone])
    assert scheduler.remove(1 - gone) is not None
    assert scheduler.next(1.0) is None and scheduler.policies["vit"].urgency_s() is None


def test_wrong_values_are_refused_with_the_remedy() -> None:
    with pytest.raises(ConfigError, match="slo_s 0 of vit"):
        Lazy("vit", 4, slo_s=0)
    with pytest.raises(ConfigError, match="costs of vit are those of 3 slices"):
        Lazy("vit", 4, costs=CostModel.unknown(3, 8))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    rows=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=25),
    max_batch=st.integers(1, 4),
    slo_s=st.sampled_from([0.5, 6.0, 50.0]),
)
def test_every_row_passes_each_of_its_slices_once(rows: list[tuple[int, int]], max_batch: int, slo_s: float) -> None:
    """Rows are (entry, steps before the next one arrives)."""
    scheduler = scheduler_of(max_batch, slo_s)
    passed: dict[int, list[int]] = {}
    now_s = 0.0

    def run() -> bool:
        nonlocal now_s
        chosen = scheduler.next(now_s)
        if chosen is None:
            return False
        now_s += 1.0
        for row in chosen.rows:
            passed.setdefault(row.key, []).append(chosen.start)
        scheduler.finish(chosen, now_s)
        return True

    for key, (entry, steps) in enumerate(rows):
        add(scheduler, (entry, now_s, key))
        for _ in range(steps):
            run()
    while run():
        pass
    assert passed == {key: list(range(entry, 4)) for key, (entry, _) in enumerate(rows)}
