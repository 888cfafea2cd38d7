"""Measuring a cost table through an executor: a fake one, whose times are known and whose clock is our own."""

from __future__ import annotations

import pytest

from deployments.costs.cost_model import CostModel
from deployments.engine.calibrate import calibrate
from deployments.executors.base import Executor, Floats, OutOfMemory
from deployments.scheduling.scheduler import Step
from deployments.testing.fakes import FakeClock, FakeExecutor, FakePipeline


def measured(executor: Executor, clock: FakeClock, max_batch: int = 8, **arguments: object) -> CostModel:
    costs = CostModel.unknown(3, max_batch)
    return calibrate(costs, executor, model="vit", shape=(2,), clock=clock, **{"entry": 0, **arguments})  # type: ignore[arg-type]


def seconds(step: Step) -> float:
    """Slice i takes i + 1 ms per row."""
    return 1e-3 * (step.start + 1) * len(step.rows)


def test_every_slice_is_measured_at_every_bucket() -> None:
    clock = FakeClock()
    executor = FakeExecutor(clock, seconds)
    costs = measured(executor, clock)
    assert costs.buckets == (1, 2, 4, 8)
    for rows in (1, 2, 3, 8):
        assert costs.tails(rows) == pytest.approx([6e-3 * rows, 5e-3 * rows, 3e-3 * rows, 0.0])
    assert all(cell.seen == 5 and cell.std_s < 1e-12 for cells in costs.table for cell in cells)
    assert executor.activations == {}, "nothing is left on the accelerator"
    assert {step.weights for step in executor.steps} == {"shared"}
    assert costs.source.where == "fake" and costs.source.when and "emulated" in costs.source.what


def test_slices_before_the_first_entry_are_not_resident_and_not_measured() -> None:
    clock = FakeClock()
    executor = FakeExecutor(clock, seconds)
    costs = measured(executor, clock, entry=1)
    assert min(step.start for step in executor.steps) == 1
    assert costs.known_from == 1 and costs.alone_s(1) == pytest.approx(5e-3)


def test_the_first_pass_and_a_disturbed_one_do_not_count() -> None:
    clock = FakeClock()
    seen = 0

    def slow_at_times(step: Step) -> float:
        nonlocal seen
        seen += 1
        # Of 3 steps a pass: the first pass compiles kernels, and something else runs during the fourth.
        return 1.0 if seen <= 3 else 0.5 if 9 < seen <= 12 else 0.01

    costs = measured(FakeExecutor(clock, slow_at_times), clock, max_batch=1, budget_s=60.0)
    assert costs.slice_s(0, 1) == pytest.approx(0.01) and costs.table[0][0].seen == 4


def test_the_budget_ends_it_but_one_row_is_always_measured() -> None:
    for budget_s, buckets in ((0.0, 1), (0.2, 2), (10.0, 4)):
        clock = FakeClock()
        costs = measured(FakeExecutor(clock, seconds), clock, budget_s=budget_s)
        assert [cell.known for cell in costs.table[2]] == [index < buckets for index in range(4)]
        assert clock.now_s <= max(budget_s, 0.04)
        # Six passes of 6 ms per row: 36 ms for one row, 72 for two; four would take 144 more, past 0.2 s.


def test_a_batch_that_the_memory_does_not_hold_ends_it() -> None:
    clock = FakeClock()

    class Small(FakeExecutor):
        def put(self, model: str, rows: object, batch: Floats) -> None:
            if len(batch) > 2:
                raise OutOfMemory("2 rows fit")
            super().put(model, rows, batch)  # type: ignore[arg-type]

    executor = Small(clock, seconds)
    costs = measured(executor, clock)
    assert [cell.known for cell in costs.table[0]] == [True, True, False, False]
    assert executor.activations == {}


def test_what_a_step_costs_beside_its_execution_is_measured_too() -> None:
    clock = FakeClock()

    class Late(FakeExecutor):
        def run(self, step: Step) -> float:
            execution_s = super().run(step)
            clock.now_s += 1e-4
            return execution_s

    assert measured(Late(clock, seconds), clock).decision_s == pytest.approx(1e-4)


def test_where_steps_can_be_enqueued_the_next_pass_is_behind_the_running_one() -> None:
    clock = FakeClock()

    def launch_takes_time(step: Step) -> None:
        clock.now_s += 1e-5

    executor = FakePipeline(clock, seconds, before=launch_takes_time)
    costs = measured(executor, clock, max_batch=4, budget_s=60.0)
    assert costs.tails(4) == pytest.approx([24e-3, 20e-3, 12e-3, 0.0])
    assert costs.decision_s == pytest.approx(1e-5), "what the launch took; the accelerator did not wait for it"
    # It idled once before each batch size, when nothing ran, but in no pass.
    assert executor.idle_s == pytest.approx(3 * 1e-5)
    assert executor.activations == {}
