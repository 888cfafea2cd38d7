"""The engine turn by turn, with a clock that stands still and an executor whose answers tell what happened to a row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from deployments.engine.engine import Engine, Outcome
from deployments.executors.base import AcceleratorLost, Floats, OutOfMemory
from deployments.scheduling.registry import make_policy
from deployments.scheduling.scheduler import Row, Scheduler, Step
from deployments.testing.fakes import FakeClock, FakeExecutor, answer_of, rows_at


class Bench:
    """An engine on a fake accelerator: every slice of a step takes 1 s and rows cost nothing."""

    def __init__(self, strategy: str = "per_slice", max_batch: int = 8, max_rows: int = 100, **executor: Any) -> None:
        self.clock = FakeClock()
        self.calls: list[list[Outcome]] = []
        self.executor = executor.pop("executor", FakeExecutor)(self.clock, lambda s: float(s.end - s.start), **executor)
        policies = {model: make_policy(strategy, model=model, num_slices=4, max_batch=max_batch) for model in "ab"}
        self.engine = Engine(Scheduler(policies), self.executor, self.calls.append, clock=self.clock, max_rows=max_rows)

    def submit(self, entry: int, *names: float, model: str = "a", deadline_s: float | None = None) -> list[int]:
        rows = len(names)
        return self.engine.submit(model, entry, rows_at(*names), [self.clock.now_s] * rows, [deadline_s] * rows)

    def run(self) -> None:
        while self.engine.step_once():
            pass

    @property
    def outcomes(self) -> dict[int, Outcome]:
        outcomes = [outcome for call in self.calls for outcome in call]
        assert len({outcome.key for outcome in outcomes}) == len(outcomes), "a row was answered twice"
        return {outcome.key: outcome for outcome in outcomes}

    def answers(self) -> dict[int, list[float] | str | None]:
        """Per row its logits, or the code of its refusal."""
        return {
            key: outcome.code if outcome.logits is None else outcome.logits.tolist()
            for key, outcome in self.outcomes.items()
        }


def when(step_number: int, act: Callable[[Step], None]) -> Callable[[Step], None]:
    """Do something while the accelerator runs its n-th step, counted from 0."""
    count = -1

    def before(step: Step) -> None:
        nonlocal count
        count += 1
        if count == step_number:
            act(step)

    return before


# ------------------------------------------------------------------------------------------------------- the normal way


def test_each_row_gets_its_own_answer_and_the_batches_are_those_of_the_strategy() -> None:
    bench = Bench("per_slice")
    bench.submit(0, 10, 11)
    bench.submit(2, 20)
    bench.run()
    assert bench.answers() == {0: answer_of(10, 0, 4), 1: answer_of(11, 0, 4), 2: answer_of(20, 2, 4)}
    # Rows 0 and 1 are the oldest; in slice 2 they meet row 2, which entered there, and go on with it.
    assert bench.executor.batches == [(0, 1, 2), (1, 2, 2), (2, 3, 3), (3, 4, 3)]
    assert bench.executor.activations == {}


def test_rows_that_arrive_while_the_accelerator_is_busy_form_the_next_batch() -> None:
    bench: Bench

    def arrive(step: Step) -> None:
        for name in (2, 3, 4):
            bench.submit(0, name)

    bench = Bench("per_tail", before=when(0, arrive))
    bench.submit(0, 1)
    bench.run()
    # One row when the accelerator was free; the three that came one by one meanwhile go together, not one by one.
    assert bench.executor.batches == [(0, 4, 1), (0, 4, 3)]


def test_rows_that_end_together_are_delivered_together() -> None:
    bench = Bench("per_tail", max_batch=2)
    bench.submit(0, 1, 2, 3)
    bench.run()
    assert [[outcome.key for outcome in call] for call in bench.calls] == [[0, 1], [2]]


def test_an_outcome_says_where_its_time_went() -> None:
    bench = Bench("per_slice", max_batch=2)
    bench.clock.now_s = 100.0
    bench.submit(2, 1, 2, 3)
    bench.run()
    first, last = bench.outcomes[0], bench.outcomes[2]
    assert bench.executor.batches == [(2, 3, 2), (3, 4, 2), (2, 3, 1), (3, 4, 1)]
    assert (first.queue_s, first.execution_s, first.rows_per_step) == (0.0, 2.0, (2, 2))
    assert (last.queue_s, last.execution_s, last.rows_per_step) == (2.0, 2.0, (1, 1))  # it waited for the two others


def test_two_models_share_the_accelerator_but_no_step() -> None:
    bench = Bench("per_slice")
    bench.submit(3, 1, model="a")
    bench.submit(3, 2, model="b")
    bench.run()
    assert [(step.model, len(step.rows)) for step in bench.executor.steps] == [("a", 1), ("b", 1)]
    assert bench.answers() == {0: answer_of(1, 3, 4), 1: answer_of(2, 3, 4)}


def test_counters() -> None:
    bench = Bench("per_slice", max_rows=3)
    bench.submit(2, 1, 2)
    bench.submit(3, 3, 4, model="b")
    assert bench.engine.stats().waiting == {"a": 2, "b": 1}
    bench.run()
    bench.clock.now_s = 6.0
    stats = bench.engine.stats()
    assert (stats.steps, stats.rows, stats.busy_s, stats.started_s) == (3, 5, 3.0, 0.0)
    assert stats.rows_per_step == {2: 2, 1: 1}
    assert stats.outcomes == {"answered": 3, "overloaded": 1}
    assert stats.waiting == {}
    bench.engine.reset_stats()
    stats = bench.engine.stats()
    assert (stats.steps, stats.rows, stats.busy_s, stats.started_s, stats.outcomes) == (0, 0, 0.0, 6.0, {})


# ------------------------------------------------------------------------------------------------- too many, too late


def test_rows_beyond_the_limit_are_refused_at_once() -> None:
    bench = Bench(max_rows=3)
    assert bench.submit(0, 1, 2) == [0, 1]
    assert bench.submit(0, 3, 4, 5) == [2, 3, 4]
    assert bench.answers() == {3: "overloaded", 4: "overloaded"}  # before any step
    assert "max_rows" in bench.outcomes[3].message
    bench.run()
    assert bench.answers()[2] == answer_of(3, 0, 4)
    assert bench.submit(3, 6) == [5]  # there is room again
    bench.run()
    assert bench.answers()[5] == answer_of(6, 3, 4)


def test_a_row_whose_deadline_has_passed_never_runs() -> None:
    bench = Bench("per_tail")
    bench.submit(0, 1, deadline_s=4.5)
    bench.submit(1, 2, deadline_s=4.0)
    bench.submit(1, 3, deadline_s=4.1)
    bench.run()
    # The first batch holds the accelerator until 4.0, and then row 1 is too late.
    assert bench.answers() == {0: answer_of(1, 0, 4), 1: "too_late", 2: answer_of(3, 1, 4)}
    assert bench.executor.batches == [(0, 4, 1), (1, 4, 1)]
    assert bench.executor.activations == {}


def test_a_deadline_counts_between_two_slices() -> None:
    bench = Bench("per_slice")
    bench.submit(0, 1, deadline_s=1.5)
    bench.run()
    assert bench.answers() == {0: "too_late"}
    assert bench.executor.batches == [(0, 1, 1), (1, 2, 1)]
    assert bench.outcomes[0].rows_per_step == (1, 1)
    assert bench.executor.activations == {}


# ------------------------------------------------------------------------------------------------------- cancellation


def test_cancelled_before_it_ran() -> None:
    bench = Bench("per_tail")
    bench.submit(0, 1, 2)
    bench.engine.cancel(0)
    bench.run()
    assert bench.answers() == {0: "cancelled", 1: answer_of(2, 0, 4)}
    assert bench.executor.batches == [(0, 4, 1)]
    assert bench.executor.activations == {}


def test_cancelled_between_two_slices() -> None:
    bench: Bench
    bench = Bench("per_slice", before=when(1, lambda step: bench.engine.cancel(0)))
    bench.submit(0, 1, 2)
    bench.run()
    # The step that runs is not interrupted; the row leaves before the one after it.
    assert bench.executor.batches == [(0, 1, 2), (1, 2, 2), (2, 3, 1), (3, 4, 1)]
    assert bench.answers() == {0: "cancelled", 1: answer_of(2, 0, 4)}


def test_cancelled_during_its_last_step_it_is_answered() -> None:
    bench: Bench
    bench = Bench("per_tail", before=when(0, lambda step: bench.engine.cancel(0)))
    bench.submit(0, 1)
    bench.run()
    assert bench.answers() == {0: answer_of(1, 0, 4)}


def test_cancelled_twice_after_the_answer_or_unknown_is_harmless() -> None:
    bench = Bench("per_tail")
    bench.submit(0, 1)
    bench.run()
    bench.submit(0, 2)
    for key in (0, 1, 1, 77):
        bench.engine.cancel(key)
    bench.run()
    assert bench.answers() == {0: answer_of(1, 0, 4), 1: "cancelled"}


# ----------------------------------------------------------------------------------------------------------- failures


def guilty(*keys: int) -> Callable[[Step], None]:
    """Steps with one of these rows in them raise."""

    def before(step: Step) -> None:
        if any(row.key in keys for row in step.rows):
            raise ValueError("this activation breaks the kernel")

    return before


@pytest.mark.parametrize("strategy", ["unbatched", "per_tail", "per_tail_shared", "per_slice"])
def test_only_the_guilty_row_fails(strategy: str) -> None:
    bench = Bench(strategy, before=guilty(1))
    bench.submit(3, 1, 2, 3)
    bench.run()
    assert bench.answers() == {0: answer_of(1, 3, 4), 1: "failed", 2: answer_of(3, 3, 4)}
    assert "ValueError: this activation breaks the kernel" in bench.outcomes[1].message
    assert bench.executor.activations == {}


def test_the_others_run_alone_and_go_on_together() -> None:
    bench = Bench("per_slice", before=guilty(1))
    bench.submit(2, 1, 2, 3)
    bench.run()
    assert [len(step.rows) for step in bench.executor.tried] == [3, 1, 1, 1, 2]  # three fail, each alone, then two
    assert bench.outcomes[0].rows_per_step == (1, 2)
    assert bench.engine.stats().retried == 1


def test_a_batch_that_does_not_fit_is_halved_until_it_does() -> None:
    def small_memory(step: Step) -> None:
        if len(step.rows) > 2:
            raise OutOfMemory("2 rows fit")

    bench = Bench("per_tail", before=small_memory)
    bench.submit(0, 1, 2, 3, 4, 5)
    bench.run()
    assert [len(step.rows) for step in bench.executor.tried] == [5, 3, 2, 1, 2]  # 5 -> 3 + 2, 3 -> 2 + 1
    assert bench.executor.batches == [(0, 4, 2), (0, 4, 1), (0, 4, 2)]
    assert bench.answers() == {key: answer_of(key + 1, 0, 4) for key in range(5)}


def test_a_single_row_that_does_not_fit_may_be_sent_again() -> None:
    def no_memory(step: Step) -> None:
        raise OutOfMemory("0 bytes free")

    bench = Bench("per_tail", before=no_memory)
    bench.submit(0, 1)
    bench.run()
    assert bench.answers() == {0: "overloaded"}


class PutFails(FakeExecutor):
    """Refuses to take a row of a certain name, or more than two rows at once."""

    def put(self, model: str, rows: Sequence[Row], batch: Floats) -> None:
        if len(rows) > 2:
            raise OutOfMemory("2 rows fit")
        if 666.0 in batch[:, 0]:
            raise ValueError("no such activation")
        super().put(model, rows, batch)


def test_only_the_row_that_cannot_be_moved_to_the_accelerator_fails() -> None:
    bench = Bench("per_tail", executor=PutFails)
    bench.submit(0, 1, 2, 666, 4, 5)
    bench.run()
    assert bench.answers() == {
        0: answer_of(1, 0, 4),
        1: answer_of(2, 0, 4),
        2: "failed",
        3: answer_of(4, 0, 4),
        4: answer_of(5, 0, 4),
    }
    assert bench.executor.batches == [(0, 4, 4)]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_answer_that_is_no_number_is_a_failure_of_its_row(value: float) -> None:
    bench = Bench("per_tail")
    bench.submit(0, 1, value, 3)
    bench.run()
    assert bench.answers() == {0: answer_of(1, 0, 4), 1: "failed", 2: answer_of(3, 0, 4)}
    assert "NaN or infinity" in bench.outcomes[1].message


class TakeFails(FakeExecutor):
    """Cannot hand over the row with key 1."""

    def take(self, rows: Sequence[Row]) -> Floats:
        if any(row.key == 1 for row in rows):
            raise RuntimeError("lost in transfer")
        return super().take(rows)


def test_only_the_row_whose_answer_cannot_be_fetched_fails() -> None:
    bench = Bench("per_tail", executor=TakeFails)
    bench.submit(0, 1, 2, 3)
    bench.run()
    assert bench.answers() == {0: answer_of(1, 0, 4), 1: "failed", 2: answer_of(3, 0, 4)}
    assert bench.executor.activations == {}


def test_rows_that_were_closed_before_the_accelerator_was_lost_are_delivered() -> None:
    def lost(step: Step) -> None:
        if len(step.rows) > 1:
            raise ValueError("try them alone")
        if step.rows[0].key == 0:
            raise ValueError("guilty")
        raise AcceleratorLost("gone")

    bench = Bench("per_tail", before=lost)
    bench.submit(0, 1, 2)
    with pytest.raises(AcceleratorLost):
        bench.engine.step_once()
    assert bench.answers() == {0: "failed"}
    bench.engine.stop()
    assert bench.answers() == {0: "failed", 1: "stopped"}


def test_what_the_caller_gets_wrong_is_told_to_the_caller() -> None:
    bench = Bench()
    with pytest.raises(ValueError, match="'c', entry 0"):
        bench.submit(0, 1, model="c")
    for entry in (-1, 4):
        with pytest.raises(ValueError, match=f"entry {entry}"):
            bench.submit(entry, 1)
    with pytest.raises(ValueError, match="2 rows, 1 arrivals, 2 deadlines"):
        bench.engine.submit("a", 0, rows_at(1, 2), [0.0], [None, None])
    with pytest.raises(ValueError, match="2 rows, 1 priorities"):
        bench.engine.submit("a", 0, rows_at(1, 2), [0.0] * 2, [None] * 2, [8])
    with pytest.raises(ValueError, match="max_rows 0"):
        Bench(max_rows=0)
    assert bench.submit(0) == []  # no rows, no harm
    assert bench.engine.step_once() is None
    assert bench.calls == []
