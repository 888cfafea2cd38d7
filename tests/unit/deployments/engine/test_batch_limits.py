"""A batch size that did not fit is not tried again in every step, and is tried again after a while."""

from __future__ import annotations

import pytest

from deployments.engine.batch_limits import RETRY_S, BatchLimits
from deployments.engine.engine import Engine
from deployments.engine.ledger import Outcome
from deployments.engine.pipelined import PipelinedEngine
from deployments.executors.base import OutOfMemory
from deployments.scheduling.registry import make_policy
from deployments.scheduling.scheduler import Row, Scheduler, Step
from deployments.testing.fakes import FakeClock, FakeExecutor, FakePipeline, answer_of, rows_at


def step_of(count: int) -> Step:
    return Step("m", "shared", 0, 4, tuple(Row(i, "m", 0, 0.0) for i in range(count)))


def test_parts_are_even_and_no_larger_than_what_fits() -> None:
    fitting = BatchLimits()
    assert not fitting
    fitting.failed(step_of(8), 0.0)
    assert [fitting.part(step_of(count), 1.0) for count in (4, 5, 8, 9)] == [4, 3, 4, 3]
    fitting.failed(step_of(1), 0.0)
    assert fitting.part(step_of(1), 0.0) == 1


def test_it_grows_again_step_by_step() -> None:
    fitting = BatchLimits()
    fitting.failed(step_of(8), 0.0)
    fitting.failed(step_of(4), 0.0)
    assert fitting.part(step_of(8), RETRY_S - 1) == 2
    assert fitting.part(step_of(8), RETRY_S) == 8, "twice two is the size that failed last, so that is tried"
    assert not fitting


class Bench:
    """The accelerator holds `fits` rows; all rows that arrive together want to run together."""

    def __init__(self, pipelined: bool) -> None:
        self.clock, self.fits = FakeClock(), 2
        kinds = (FakePipeline, PipelinedEngine) if pipelined else (FakeExecutor, Engine)
        self.executor = kinds[0](self.clock, lambda step: 1.0, self.before)
        self.outcomes: list[Outcome] = []
        policy = make_policy("per_tail_shared", model="m", num_slices=4, max_batch=8)
        self.engine = kinds[1](Scheduler({"m": policy}), self.executor, self.outcomes.extend, clock=self.clock)

    def before(self, step: Step) -> None:
        if len(step.rows) > self.fits:
            raise OutOfMemory(f"{self.fits} rows fit")

    def serve(self, *names: float) -> list[int]:
        self.executor.tried.clear()
        self.engine.submit("m", 0, rows_at(*names), [self.clock.now_s] * len(names), [None] * len(names))
        if isinstance(self.engine, PipelinedEngine):
            while (sleep_s := self.engine.turn()) is not None:
                self.clock.now_s += sleep_s
        else:
            while self.engine.step_once() is not None:
                pass
        return [len(step.rows) for step in self.executor.tried]


@pytest.mark.parametrize("pipelined", [False, True])
def test_what_did_not_fit_is_remembered_and_tried_again_later(pipelined: bool) -> None:
    bench = Bench(pipelined)
    assert bench.serve(1, 2, 3, 4, 5, 6, 7, 8) == [8, 4, 2, 2, 2, 2], "8 and 4 fail once, and then no more"
    assert bench.serve(11, 12, 13, 14) == [2, 2]
    bench.fits = 8
    bench.clock.now_s += 2 * RETRY_S
    assert bench.serve(21, 22, 23, 24, 25) == [5]
    assert sorted(o.logits.tolist() for o in bench.outcomes if o.logits is not None) == sorted(
        answer_of(name, 0, 4) for name in (*range(1, 9), *range(11, 15), *range(21, 26))
    )
    assert bench.engine.stats().retried == 2
