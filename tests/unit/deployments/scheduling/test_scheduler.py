"""The scheduler: several models on one accelerator, deadlines, and books that catch a policy with a mistake in it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from deployments.scheduling.registry import PerSlice, PerTailShared, QueuePolicy
from deployments.scheduling.scheduler import SHARED, PolicyError, Row, Scheduler, Step


def two_models(max_wait_s: float = 1.0) -> Scheduler:
    return Scheduler(
        {
            "vit": PerSlice("vit", num_slices=4, max_batch=2, max_wait_s=max_wait_s),
            "swin": PerTailShared("swin", num_slices=2, max_batch=2, max_wait_s=1.0),
        }
    )


def next_keys(scheduler: Scheduler, now_s: float = 0.0) -> tuple[str, list[int]] | None:
    step = scheduler.next(now_s)
    if step is None:
        return None
    scheduler.finish(step, now_s)
    return step.model, [row.key for row in step.rows]


def test_nothing_waits_nothing_runs() -> None:
    assert two_models().next(0.0) is None


def test_the_model_with_the_most_urgent_row_goes_first() -> None:
    scheduler = two_models()
    scheduler.add(Row(0, "swin", 0, arrival_s=0.0))  # due at 1.0
    scheduler.add(Row(1, "vit", 3, arrival_s=0.5, deadline_s=0.9))
    scheduler.add(Row(2, "vit", 3, arrival_s=0.6))
    assert next_keys(scheduler) == ("vit", [1, 2])  # 0.9 is before 1.0; row 2 waits at the same slice
    assert next_keys(scheduler) == ("swin", [0])
    assert next_keys(scheduler) is None


def test_a_step_never_mixes_models() -> None:
    scheduler = two_models()
    for key in range(4):
        scheduler.add(Row(key, ("vit", "swin")[key % 2], 1, arrival_s=0.0))
    while (step := scheduler.next(0.0)) is not None:
        assert {row.model for row in step.rows} == {step.model}
        scheduler.finish(step, 0.0)
    assert scheduler.waiting == 0


def test_a_longer_wait_lets_the_other_model_go_first() -> None:
    scheduler = two_models(max_wait_s=9.0)
    scheduler.add(Row(0, "vit", 3, arrival_s=0.0))  # due at 9.0
    scheduler.add(Row(1, "swin", 0, arrival_s=0.5))  # due at 1.5
    assert next_keys(scheduler) == ("swin", [1])


def test_rows_whose_deadline_has_passed_leave_earliest_first() -> None:
    scheduler = two_models()
    scheduler.add(Row(0, "vit", 0, 0.0, deadline_s=0.4))
    scheduler.add(Row(1, "swin", 0, 0.0, deadline_s=0.2))
    scheduler.add(Row(2, "vit", 0, 0.0, deadline_s=0.5))
    scheduler.add(Row(3, "vit", 0, 0.0))
    assert [row.key for row in scheduler.expired(0.1)] == []
    assert [row.key for row in scheduler.expired(0.4)] == [1, 0]  # a deadline is over when it is reached
    assert scheduler.expired(0.4) == []
    assert scheduler.waiting == 2


def test_a_running_row_expires_when_it_waits_again() -> None:
    scheduler = two_models()
    scheduler.add(Row(0, "vit", 0, 0.0, deadline_s=0.2))
    step = scheduler.next(0.1)
    assert step is not None
    assert scheduler.expired(0.3) == []  # it runs
    scheduler.finish(step, 0.3)
    assert [row.key for row in scheduler.expired(0.3)] == [0]  # between slices 0 and 1


def test_an_answered_row_does_not_expire() -> None:
    scheduler = two_models()
    scheduler.add(Row(0, "swin", 0, 0.0, deadline_s=0.2))
    assert next_keys(scheduler, 0.1) == ("swin", [0])
    assert scheduler.expired(9.0) == []


def test_a_row_removed_while_it_runs_does_not_come_back() -> None:
    scheduler = two_models()
    for key in (0, 1):
        scheduler.add(Row(key, "vit", 0, arrival_s=0.0))
    step = scheduler.next(0.0)
    assert step is not None and len(step.rows) == 2
    assert scheduler.remove(0) is step.rows[0]
    assert scheduler.finish(step, 0.1) == []
    assert next_keys(scheduler) == ("vit", [1])


def test_steps_may_be_finished_in_another_order() -> None:
    scheduler = two_models()
    for key in range(4):
        scheduler.add(Row(key, "swin", 0, arrival_s=float(key)))
    first, second = scheduler.next(0.0), scheduler.next(0.0)
    assert first is not None and second is not None
    assert [row.key for row in scheduler.finish(second, 1.0)] == [2, 3]
    assert [row.key for row in scheduler.finish(first, 1.0)] == [0, 1]


def test_a_row_that_cannot_be_is_refused() -> None:
    scheduler = two_models()
    scheduler.add(Row(0, "vit", 0, 0.0))
    with pytest.raises(ValueError, match="already"):
        scheduler.add(Row(0, "vit", 0, 0.0))
    with pytest.raises(ValueError, match="4 of 4 slices"):
        scheduler.add(Row(1, "vit", 4, 0.0))
    with pytest.raises(KeyError):
        scheduler.add(Row(1, "deit", 0, 0.0))


@dataclass
class Wrong(QueuePolicy):
    """Breaks the contract in one way."""

    how: str = ""

    def next(self, now_s: float) -> Step | None:
        if not self.waiting:
            return None
        # "twice": the row runs and stays in the queue as well.
        rows = tuple(self.queues[0]) if self.how == "twice" else self.take(0)
        step = Step(self.model, SHARED, 0, 1, rows)
        changes = {
            "other model": {"model": "swin"},
            "empty": {"rows": ()},
            "span": {"end": 3},
            "start": {"start": 1, "end": 2},
            "foreign row": {"rows": (Row(99, self.model, 0, 0.0),)},
            "too many": {"rows": rows * 3},
        }
        return replace(step, **changes.get(self.how, {}))  # type: ignore[arg-type]

    def finish(self, step: Step) -> list[Row]:
        if self.how == "stays":
            return []
        if self.how == "loses":
            step.rows[0].boundary = step.end
            return []
        if self.how == "too early":
            step.rows[0].boundary = step.end
            return list(step.rows)
        return QueuePolicy.finish(self, step)


@pytest.mark.parametrize("how", ["twice", "other model", "empty", "span", "start", "foreign row", "too many"])
def test_a_forbidden_step_is_found_out(how: str) -> None:
    scheduler = Scheduler({"vit": Wrong("vit", 2, max_batch=2, how=how)})
    scheduler.add(Row(0, "vit", 0, 0.0))
    with pytest.raises(PolicyError, match="Wrong"):
        scheduler.next(0.0)


@pytest.mark.parametrize("how", ["stays", "loses", "too early"])
def test_a_policy_that_loses_rows_is_found_out(how: str) -> None:
    scheduler = Scheduler({"vit": Wrong("vit", 2, max_batch=2, how=how)})
    scheduler.add(Row(0, "vit", 0, 0.0))
    step = scheduler.next(0.0)
    assert step is not None
    with pytest.raises(PolicyError, match="Wrong"):
        scheduler.finish(step, 0.0)


def test_the_same_policy_without_a_mistake_passes() -> None:
    scheduler = Scheduler({"vit": Wrong("vit", 1, max_batch=2)})
    scheduler.add(Row(0, "vit", 0, 0.0))
    assert next_keys(scheduler) == ("vit", [0])


@dataclass
class Returns(QueuePolicy):
    """Runs whole tails, and returns other rows at the end than those of the step."""

    how: str = ""

    def next(self, now_s: float) -> Step | None:
        if not self.waiting:
            return None
        rows = self.take(0)
        copied = tuple(replace(row) for row in rows)
        return Step(self.model, SHARED, 0, 1, copied if self.how == "copy runs" else rows)

    def finish(self, step: Step) -> list[Row]:
        rows = QueuePolicy.finish(self, step)
        if self.how == "twice":
            return [rows[0], rows[0]]
        if self.how == "copy":
            return [replace(row) for row in rows]
        return rows[:-1] if self.how == "one less" else [*reversed(rows)]


@pytest.mark.parametrize("how", ["twice", "copy", "copy runs", "one less"])
def test_rows_that_are_not_those_of_the_step_are_found_out(how: str) -> None:
    scheduler = Scheduler({"vit": Returns("vit", 1, max_batch=2, how=how)})
    for key in range(2):
        scheduler.add(Row(key, "vit", 0, 0.0))
    with pytest.raises(PolicyError, match="Returns"):
        next_keys(scheduler)


def test_the_order_in_which_a_policy_returns_rows_is_its_own() -> None:
    scheduler = Scheduler({"vit": Returns("vit", 1, max_batch=2)})
    for key in range(2):
        scheduler.add(Row(key, "vit", 0, 0.0))
    step = scheduler.next(0.0)
    assert step is not None
    assert [row.key for row in scheduler.finish(step, 0.0)] == [1, 0]
    assert scheduler.waiting == 0 and scheduler.remove(0) is None


def test_a_step_that_is_finished_twice_moves_nothing() -> None:
    scheduler = two_models()
    scheduler.add(Row(0, "vit", 0, 0.0))
    step = scheduler.next(0.0)
    assert step is not None
    scheduler.finish(step, 0.0)
    assert scheduler.finish(step, 0.0) == []
    assert scheduler.waiting == 1
