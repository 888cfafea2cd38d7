"""The engine on its own thread: starting, stopping, dying. Every wait is for an event, none for a time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from deployments.engine.engine import Engine, Outcome
from deployments.executors.base import AcceleratorLost
from deployments.scheduling.registry import make_policy
from deployments.scheduling.scheduler import Scheduler, Step
from deployments.scheduling.simple import PerTail
from deployments.testing.fakes import FakeExecutor, answer_of, rows_at

TIMEOUT_S = 60.0  # of waits that end at once unless the engine hangs


class Inbox:
    """Collects outcomes; `wait` blocks until so many are there."""

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []
        self.threads: set[str] = set()
        self._changed = threading.Condition()

    def __call__(self, outcomes: list[Outcome]) -> None:
        with self._changed:
            self.outcomes += outcomes
            self.threads.add(threading.current_thread().name)
            self._changed.notify_all()

    def wait(self, count: int) -> dict[int, Outcome]:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.outcomes) >= count, TIMEOUT_S), self.outcomes
            return {outcome.key: outcome for outcome in self.outcomes}


class Gate:
    """Holds the accelerator inside a step until it is opened."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.open = threading.Event()

    def __call__(self, step: Step) -> None:
        self.reached.set()
        assert self.open.wait(TIMEOUT_S)


class Bench:
    def __init__(self, *, policy: Any = None, max_rows: int = 10_000, **executor: Any) -> None:
        self.inbox = Inbox()
        self.executor = FakeExecutor(**executor)
        policy = policy or make_policy("per_slice", model="a", num_slices=4, max_batch=8)
        self.engine = Engine(Scheduler({"a": policy}), self.executor, self.inbox, max_rows=max_rows)

    def submit(self, *names: float, entry: int = 0) -> list[int]:
        return self.engine.submit("a", entry, rows_at(*names), [0.0] * len(names), [None] * len(names))


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open.set()


def codes(outcomes: dict[int, Outcome]) -> dict[int, str | None]:
    return {key: outcome.code for key, outcome in sorted(outcomes.items())}


def test_it_answers_on_its_own_thread_and_sleeps_when_there_is_nothing_to_do() -> None:
    bench = Bench()
    assert not bench.engine.alive
    bench.engine.start()
    assert bench.engine.alive
    for name in (1.0, 2.0):  # the second one wakes it up again
        (key,) = bench.submit(name)
        logits = bench.inbox.wait(int(name))[key].logits
        assert logits is not None and logits.tolist() == answer_of(name, 0, 4)
    assert bench.inbox.threads == {"headtail-engine"}
    bench.engine.stop()
    assert not bench.engine.alive


def test_submit_and_cancel_do_not_wait_for_the_accelerator(gate: Gate) -> None:
    bench = Bench(before=gate, max_rows=2)
    bench.engine.start()
    bench.submit(1)
    assert gate.reached.wait(TIMEOUT_S)
    assert bench.submit(2, 3) == [1, 2]  # these would hang if they waited for the step
    bench.engine.cancel(1)
    assert codes(bench.inbox.wait(1)) == {2: "overloaded"}  # refused while the accelerator is busy
    assert bench.engine.stats().waiting == {"a": 2}
    gate.open.set()
    assert codes(bench.inbox.wait(3)) == {0: None, 1: "cancelled", 2: "overloaded"}
    bench.engine.stop()


def test_many_threads_submit_at_once_and_each_row_gets_its_own_answer() -> None:
    bench = Bench()
    bench.engine.start()
    names: dict[int, float] = {}
    lock = threading.Lock()

    def client(number: int) -> None:
        for turn in range(25):
            name = float(number * 1000 + turn)
            keys = bench.submit(name, name + 0.5, entry=turn % 4)
            with lock:
                names.update(zip(keys, (name, name + 0.5), strict=True))

    clients = [threading.Thread(target=client, args=(number,)) for number in range(8)]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join()
    outcomes = bench.inbox.wait(400)
    bench.engine.stop()
    assert len(bench.inbox.outcomes) == 400
    assert {key: float(outcome.logits[0]) for key, outcome in outcomes.items()} == names  # type: ignore[index]


def test_stop_lets_the_running_step_end_and_refuses_the_others() -> None:
    def while_it_runs(step: Step) -> None:
        bench.submit(2, entry=0)
        bench.engine.stop()  # on the engine's thread it returns at once
        assert bench.submit(3) == [2]  # refused at once

    bench = Bench(before=while_it_runs)
    bench.submit(1, entry=3)
    bench.engine.start()
    assert codes(bench.inbox.wait(3)) == {0: None, 1: "stopped", 2: "stopped"}
    bench.engine.stop()  # again: harmless
    assert not bench.engine.alive
    assert len(bench.inbox.outcomes) == 3


def test_stop_does_not_wait_for_ever_for_a_step_that_hangs(gate: Gate) -> None:
    bench = Bench(before=gate)
    bench.engine.start()
    bench.submit(1, entry=3)
    assert gate.reached.wait(TIMEOUT_S)
    bench.engine.stop(timeout_s=0.0)
    assert codes(bench.inbox.wait(1)) == {0: "stopped"}
    gate.open.set()  # and when the step ends after all, the row is not answered a second time
    bench.engine.stop()
    assert len(bench.inbox.outcomes) == 1


def test_stop_without_start_and_stop_from_deliver() -> None:
    bench = Bench()
    bench.submit(1)
    bench.engine.stop()
    assert codes(bench.inbox.wait(1)) == {0: "stopped"}

    ended: list[Outcome] = []

    def deliver(outcomes: list[Outcome]) -> None:
        ended.extend(outcomes)
        engine.stop()
        if len(ended) == 3:
            all_here.set()

    all_here = threading.Event()
    policy = make_policy("unbatched", model="a", num_slices=4)
    engine = Engine(Scheduler({"a": policy}), FakeExecutor(), deliver)
    engine.submit("a", 0, rows_at(1, 2, 3), [0.0] * 3, [None] * 3)
    engine.start()
    assert all_here.wait(TIMEOUT_S)
    assert [outcome.code for outcome in ended] == [None, "stopped", "stopped"]


def test_an_engine_starts_once() -> None:
    bench = Bench()
    bench.engine.start()
    with pytest.raises(RuntimeError, match="already started"):
        bench.engine.start()
    bench.engine.stop()


class Buggy(PerTail):
    """Fails when it is asked for its second step."""

    asked = 0

    def next(self, now_s: float) -> Step | None:
        self.asked += 1
        if self.asked == 2:
            raise IndexError("a mistake in a policy")
        return super().next(now_s)


def test_an_engine_that_dies_refuses_every_row_and_says_so(gate: Gate) -> None:
    bench = Bench(policy=Buggy("a", num_slices=4, max_batch=1), before=gate)
    bench.engine.start()
    bench.submit(1)
    assert gate.reached.wait(TIMEOUT_S)
    bench.submit(2, 3)
    gate.open.set()
    outcomes = bench.inbox.wait(3)
    assert codes(outcomes) == {0: None, 1: "stopped", 2: "stopped"}
    assert "IndexError: a mistake in a policy" in outcomes[1].message
    assert not bench.engine.alive
    assert bench.submit(4) == [3]
    outcomes = bench.inbox.wait(4)
    assert outcomes[3].code == "stopped" and "a mistake in a policy" in outcomes[3].message
    bench.engine.stop()
    assert len(bench.inbox.outcomes) == 4


def test_a_lost_accelerator_ends_the_engine() -> None:
    def lost(step: Step) -> None:
        raise AcceleratorLost("device-side assert")

    bench = Bench(before=lost)
    bench.engine.start()
    bench.submit(1, 2)
    outcomes = bench.inbox.wait(2)
    assert codes(outcomes) == {0: "stopped", 1: "stopped"}  # not their fault: they may be sent again
    bench.engine.stop()


def test_a_deliver_that_raises_does_not_end_the_engine() -> None:
    inbox = Inbox()

    def deliver(outcomes: list[Outcome]) -> None:
        if outcomes[0].key == 0:
            raise RuntimeError("the event loop is closed")
        inbox(outcomes)

    policy = make_policy("unbatched", model="a", num_slices=4)
    engine = Engine(Scheduler({"a": policy}), FakeExecutor(), deliver)
    engine.submit("a", 0, rows_at(1, 2), [0.0] * 2, [None] * 2)
    engine.start()
    assert codes(inbox.wait(1)) == {1: None}
    engine.stop()


class Patient(PerTail):
    """An own strategy that lets rows wait although the accelerator is free, as no built-in one does."""

    patience = 3

    def next(self, now_s: float) -> Step | None:
        self.patience -= 1
        return super().next(now_s) if self.patience <= 0 else None


def test_a_policy_that_lets_rows_wait_is_asked_again() -> None:
    bench = Bench(policy=Patient("a", num_slices=4))
    bench.submit(1)
    bench.engine.start()  # nothing else happens that could wake it up
    assert codes(bench.inbox.wait(1)) == {0: None}
    bench.engine.stop()


def test_a_row_that_a_policy_keeps_waiting_is_told_when_it_is_too_late() -> None:
    bench = Bench(policy=Patient("a", num_slices=4))
    bench.engine.start()
    bench.engine.submit("a", 0, rows_at(1), [0.0], [-1.0])
    assert codes(bench.inbox.wait(1)) == {0: "too_late"}
    bench.engine.stop()
