"""The engine that enqueues the next step behind the running one. That no row is lost there is in
test_engine_properties.py; here is when it chooses, and what happens to rows while their step runs."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from deployments.engine.engine import Engine
from deployments.engine.ledger import Outcome
from deployments.engine.pipelined import PipelinedEngine
from deployments.executors.base import AcceleratorLost
from deployments.scheduling.registry import make_policy
from deployments.scheduling.scheduler import Scheduler, Step
from deployments.testing.fakes import FakeClock, FakeExecutor, FakePipeline, answer_of, rows_at


class Bench:
    """An engine on a fake accelerator whose steps take a second per slice."""

    def __init__(self, strategy: str = "per_slice", before: Callable[[Step], None] = lambda step: None) -> None:
        self.clock = FakeClock()
        self.executor = FakePipeline(self.clock, lambda step: float(step.end - step.start), before)
        self.outcomes: list[Outcome] = []
        policy = make_policy(strategy, model="m", num_slices=4, max_batch=8)
        self.engine = PipelinedEngine(
            Scheduler({"m": policy}), self.executor, self.outcomes.extend, clock=self.clock, max_rows=100
        )

    def arrive(self, entry: int, *names: float, deadline_s: float | None = None) -> list[int]:
        count = len(names)
        return self.engine.submit("m", entry, rows_at(*names), [self.clock.now_s] * count, [deadline_s] * count)

    def run_until_idle(self) -> None:
        while (sleep_s := self.engine.turn()) is not None:
            self.clock.now_s += sleep_s

    def learn(self) -> None:
        """Let every span be seen once with one and with two rows."""
        for names in ((1.0,), (1.0, 2.0)):
            self.arrive(0, *names)
            self.run_until_idle()
        self.outcomes.clear()
        self.executor.steps.clear()
        self.executor.idle_s = 0.0


def test_once_it_knows_its_steps_the_accelerator_never_idles_between_them() -> None:
    bench = Bench()
    bench.learn()
    self_began_s = bench.clock.now_s
    bench.arrive(0, 7.0)
    bench.run_until_idle()
    assert bench.executor.batches == [(0, 1, 1), (1, 2, 1), (2, 3, 1), (3, 4, 1)]
    assert bench.executor.idle_s == 0.0
    assert bench.clock.now_s - self_began_s == pytest.approx(4.0)
    assert [outcome.logits.tolist() for outcome in bench.outcomes if outcome.logits is not None] == [
        answer_of(7.0, 0, 4)
    ]


def test_the_next_step_is_chosen_late_so_that_rows_which_arrive_meanwhile_join_it() -> None:
    bench = Bench()
    bench.learn()
    bench.arrive(0, 7.0)
    assert bench.engine.turn() == 0.0
    sleep_s = bench.engine.turn()
    assert sleep_s is not None and 0.99 < sleep_s < 1.0, "most of the running second passes first"
    bench.clock.now_s += sleep_s * 0.99
    bench.arrive(1, 8.0)
    bench.run_until_idle()
    assert bench.executor.batches == [(0, 1, 1), (1, 2, 2), (2, 3, 2), (3, 4, 2)]


def test_a_step_of_unknown_length_is_waited_for() -> None:
    bench = Bench()
    bench.arrive(0, 7.0)
    assert [bench.engine.turn() for _ in range(3)] == [0.0] * 3
    assert len(bench.executor.tried) - len(bench.executor.steps) <= 1, "nothing was enqueued behind it"


def test_a_batch_size_that_nobody_has_seen_takes_at_least_as_long_as_a_smaller_one() -> None:
    bench = Bench()
    bench.learn()  # one and two rows
    bench.arrive(0, 7.0, 8.0, 9.0, 10.0)
    assert bench.engine.turn() == 0.0
    sleep_s = bench.engine.turn()
    assert sleep_s is not None and 0.99 < sleep_s < 1.0, "as long as with two rows, less the lead"


def test_a_batch_size_below_all_seen_takes_in_proportion() -> None:
    bench = Bench()
    bench.arrive(0, 7.0, 8.0)
    bench.run_until_idle()
    bench.arrive(0, 9.0)
    assert bench.engine.turn() == 0.0
    sleep_s = bench.engine.turn()
    assert sleep_s is not None and 0.49 < sleep_s < 0.5


def test_a_launch_that_took_very_long_says_little_about_the_next_one() -> None:
    stands_still_s = 0.0

    def launch(step: Step) -> None:
        bench.clock.now_s += stands_still_s

    bench = Bench(before=launch)
    bench.learn()
    stands_still_s = 0.5
    bench.arrive(3, 7.0)
    bench.run_until_idle()
    stands_still_s = 0.0
    bench.arrive(0, 7.0)
    assert bench.engine.turn() == 0.0
    sleep_s = bench.engine.turn()
    assert sleep_s is not None and 0.99 < sleep_s < 1.0


def test_the_policy_is_told_what_the_host_did_for_a_step_and_not_how_long_it_waited(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def launch(step: Step) -> None:
        bench.clock.now_s += 0.01

    bench = Bench(before=launch)
    told: list[tuple[float, float]] = []
    monkeypatch.setattr(
        bench.engine._scheduler, "observe", lambda step, execution_s, host_s: told.append((execution_s, host_s))
    )
    bench.learn()
    told.clear()
    bench.arrive(0, 7.0)
    bench.run_until_idle()
    assert [execution_s for execution_s, _ in told] == [1.0] * 4
    # The first step's turn launched the second one, too, and so on; the last one had nothing to launch.
    assert [host_s for _, host_s in told] == pytest.approx([0.02, 0.01, 0.01, 0.0])


def test_rows_at_the_end_are_answered_when_their_step_has_ended_not_when_it_is_launched() -> None:
    bench = Bench("per_tail_shared")
    bench.learn()
    began_s = bench.clock.now_s
    bench.arrive(2, 7.0)
    assert bench.engine.turn() == 0.0
    assert bench.outcomes == []
    bench.run_until_idle()
    (outcome,) = bench.outcomes
    assert bench.clock.now_s == pytest.approx(began_s + 2.0)
    assert outcome.execution_s == pytest.approx(2.0)
    assert outcome.queue_s == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("entry", [0, 3])
def test_a_row_that_is_cancelled_while_its_step_runs_leaves_and_the_others_stay(entry: int) -> None:
    bench = Bench()
    bench.learn()
    first, second = bench.arrive(entry, 7.0, 8.0)
    assert bench.engine.turn() == 0.0
    bench.engine.cancel(first)
    bench.run_until_idle()
    codes = {outcome.key: outcome.code for outcome in bench.outcomes}
    assert codes == {first: "cancelled", second: None}
    assert bench.executor.activations == {}
    assert bench.engine.stats().retried == 0
    assert all(len(step.rows) == 1 for step in bench.executor.steps[1:]), "it takes part in no further step"


def test_a_deadline_that_passes_while_a_step_runs_is_told_at_the_boundary() -> None:
    bench = Bench()
    bench.learn()
    (key,) = bench.arrive(0, 7.0, deadline_s=bench.clock.now_s + 1.5)
    bench.run_until_idle()
    (outcome,) = bench.outcomes
    assert (outcome.key, outcome.code) == (key, "too_late")
    assert bench.executor.activations == {}


def test_an_accelerator_that_is_lost_ends_the_engine_and_every_row_is_told() -> None:
    def lost(step: Step) -> None:
        raise AcceleratorLost("the card fell off")

    bench = Bench(before=lost)
    done = threading.Event()
    bench.engine._deliver_to = lambda outcomes: (bench.outcomes.extend(outcomes), done.set())[0]  # type: ignore[func-returns-value]
    bench.engine.start()
    bench.arrive(0, 7.0)
    assert done.wait(10)
    assert [outcome.code for outcome in bench.outcomes] == ["stopped"]
    assert not bench.engine.alive


def test_stop_answers_what_runs_and_refuses_what_waits() -> None:
    gate, entered = threading.Event(), threading.Event()

    class Gated(FakePipeline):
        def wait(self, ticket: int) -> float:
            entered.set()
            assert gate.wait(10)
            return super().wait(ticket)

    outcomes: list[Outcome] = []
    executor = Gated(FakeClock())
    policy = make_policy("unbatched", model="m", num_slices=4, max_batch=1)
    engine = PipelinedEngine(Scheduler({"m": policy}), executor, outcomes.extend)
    engine.start()
    keys = engine.submit("m", 3, rows_at(1.0, 2.0, 3.0), [0.0] * 3, [None] * 3)
    assert entered.wait(10)
    stopping = threading.Thread(target=engine.stop)
    stopping.start()
    gate.set()
    stopping.join(10)
    codes = {outcome.key: outcome.code for outcome in outcomes}
    assert sorted(codes) == keys, "each has one outcome"
    assert codes[keys[0]] is None
    assert codes[keys[2]] == "stopped"


def test_an_executor_that_cannot_enqueue_is_refused() -> None:
    policy = make_policy("unbatched", model="m", num_slices=4, max_batch=1)
    with pytest.raises(TypeError, match="executor 'fake' has no launch and wait; use Engine"):
        PipelinedEngine(Scheduler({"m": policy}), FakeExecutor(), lambda outcomes: None)
    assert issubclass(PipelinedEngine, Engine)
