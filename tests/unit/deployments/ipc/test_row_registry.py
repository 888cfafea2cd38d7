"""Who waits for which row: callers that send the same again, leave, cancel, or are refused within `submit`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from deployments.engine.engine import Engine
from deployments.engine.ledger import Outcome
from deployments.ipc.row_registry import RowRegistry
from deployments.ipc.row_sink import RowBatch
from deployments.scheduling.registry import make_policy
from deployments.scheduling.scheduler import Scheduler, Step
from deployments.testing.fakes import FakeExecutor, answer_of, rows_at


@dataclass
class Caller:
    """Keeps what it is told; `calls`: how many outcomes each `tell` closed."""

    gone: bool = False
    keys: dict[int, int] = field(default_factory=dict)
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    calls: list[int] = field(default_factory=list)
    _new: int = 0

    def told(self, ticket: int, outcome: Outcome) -> None:
        assert ticket not in self.outcomes, "a row ends once"
        self.outcomes[ticket] = outcome
        self._new += 1

    def tell(self) -> None:
        self.calls.append(self._new)
        self._new = 0

    @property
    def answers(self) -> dict[int, Any]:
        """By ticket: the answer, or why there is none."""
        return {
            ticket: outcome.code if outcome.logits is None else outcome.logits.tolist()
            for ticket, outcome in sorted(self.outcomes.items())
        }


class Office:
    """A registry before an engine that runs one turn when it is told to."""

    def __init__(self, max_rows: int = 1000) -> None:
        self.registry = RowRegistry()
        self.executor = FakeExecutor()
        policy = make_policy("per_tail", model="m", num_slices=4, max_batch=8)
        self.engine = Engine(Scheduler({"m": policy}), self.executor, self.registry.deliver, max_rows=max_rows)
        self.registry.engine = self.engine

    def submit(self, caller: Caller, first: int, *names: float, key: bytes | None = None) -> None:
        """Rows of these names, keyed by their name if `key` is None."""
        keys = [b"%d" % name if key is None else key for name in names]
        count = len(names)
        columns = [0.0] * count, [None] * count, keys, [8] * count
        self.registry.submit(caller, first, RowBatch("m", "", 0, rows_at(*names), *columns))

    def run(self) -> None:
        """Until nothing is left to do."""
        while self.engine.step_once() is not None or self.engine._busy():
            pass

    @property
    def ran(self) -> int:
        """Rows that passed the accelerator."""
        return sum(len(step.rows) for step in self.executor.steps)

    def empty(self) -> bool:
        return not len(self.registry) and not self.engine.stats().waiting and not self.executor.activations


ONE = answer_of(1, 0, 4)


def test_each_caller_is_told_of_its_own_rows_in_one_go() -> None:
    office, a, b = Office(), Caller(), Caller()
    office.submit(a, 10, 1, 2)
    office.submit(b, 10, 3)
    assert len(office.registry) == 3
    office.run()
    assert a.answers == {10: answer_of(1, 0, 4), 11: answer_of(2, 0, 4)}
    assert b.answers == {10: answer_of(3, 0, 4)}
    assert (a.calls, b.calls, a.keys, b.keys) == ([2], [1], {}, {})
    assert office.empty()


def test_who_sends_again_by_another_caller_waits_for_the_row_that_is_at_work() -> None:
    office, a, b, c = Office(), Caller(), Caller(), Caller()
    office.submit(a, 0, 1)
    office.submit(b, 7, 1)
    office.submit(c, 8, 1)
    office.run()
    assert (a.answers, b.answers, c.answers) == ({0: ONE}, {7: ONE}, {8: ONE})
    assert office.ran == 1
    assert b.calls[-1] == c.calls[-1] == 1
    assert office.empty()


def test_who_sends_again_what_has_ended_is_told_at_once() -> None:
    office, a, b = Office(), Caller(), Caller()
    office.submit(a, 0, 1)
    office.run()
    office.submit(b, 7, 1)
    assert (b.answers, b.calls, office.ran) == ({7: ONE}, [1], 1)


def test_a_batch_of_which_some_came_before_runs_only_the_others() -> None:
    office, a, b = Office(), Caller(), Caller()
    office.submit(a, 0, 1)
    office.run()
    office.submit(b, 0, 1, 2, 3)
    assert b.answers == {0: ONE}
    office.run()
    assert b.answers == {number: answer_of(number + 1, 0, 4) for number in range(3)}
    assert office.ran == 3


def test_rows_without_a_key_have_nothing_to_do_with_each_other() -> None:
    office, a = Office(), Caller()
    office.submit(a, 0, 1, key=b"")
    office.submit(a, 1, 1, key=b"")
    office.run()
    assert a.answers == {0: ONE, 1: ONE}
    assert office.ran == 2


def test_a_caller_that_leaves_is_told_nothing_and_its_rows_leave_the_engine() -> None:
    office, a, b = Office(), Caller(), Caller()
    office.submit(a, 0, 1, 2)
    office.submit(b, 0, 3)
    office.registry.leave(a)
    office.run()
    assert (a.outcomes, a.calls) == ({}, [])
    assert b.answers == {0: answer_of(3, 0, 4)}
    assert office.ran == 1
    assert office.empty()


@pytest.mark.parametrize("how", ["cancels", "leaves"])
def test_when_the_first_sending_is_cancelled_the_one_that_waits_runs_and_others_wait_for_it(how: str) -> None:
    office, a, b, c, gone = Office(), Caller(), Caller(), Caller(), Caller()
    office.submit(a, 0, 1)
    for caller in (gone, b, c):
        office.submit(caller, 5, 1)
    office.registry.leave(gone)
    if how == "leaves":
        office.registry.leave(a)
    else:
        office.registry.cancel(a, 0)
    office.run()
    assert a.answers == ({0: "cancelled"} if how == "cancels" else {})
    assert (b.answers, c.answers, gone.answers) == ({5: ONE}, {5: ONE}, {})
    assert office.ran == 1
    assert office.empty()


def test_nothing_runs_instead_of_a_cancelled_row_for_those_who_have_left() -> None:
    office, a, gone = Office(), Caller(), Caller()
    office.submit(a, 0, 1)
    office.submit(gone, 5, 1)
    office.registry.leave(gone)
    office.registry.cancel(a, 0)
    office.run()
    assert (a.answers, gone.answers, office.ran) == ({0: "cancelled"}, {}, 0)
    assert office.empty() and not office.registry._answered._running


def test_a_ticket_that_is_cancelled_late_or_by_another_is_left_alone() -> None:
    office, a, b = Office(), Caller(), Caller()
    office.submit(a, 0, 1)
    office.registry.cancel(b, 0)
    office.run()
    office.registry.cancel(a, 0)
    office.run()
    assert a.answers == {0: ONE}


def test_rows_that_are_refused_within_submit_are_told_of_when_their_keys_are_known() -> None:
    office, a = Office(max_rows=2), Caller()
    office.submit(a, 0, 1, 2, 3, 4)
    assert a.answers == {2: "overloaded", 3: "overloaded"}
    assert a.calls == [2]
    assert sorted(a.keys) == [0, 1]
    office.run()
    assert a.answers == {0: ONE, 1: answer_of(2, 0, 4), 2: "overloaded", 3: "overloaded"}
    assert office.empty() and not office.registry._early


def test_what_was_refused_may_be_sent_again_and_runs_then() -> None:
    office, a = Office(max_rows=1), Caller()
    office.submit(a, 0, 9)
    office.submit(a, 1, 1)
    office.run()
    office.submit(a, 2, 1)
    office.run()
    assert a.answers == {0: answer_of(9, 0, 4), 1: "overloaded", 2: ONE}


def test_the_first_sending_is_refused_and_the_engine_is_full_for_those_that_waited_too() -> None:
    """A row ends without an answer while the engine stops: each that waited is told, none is forgotten."""
    office, a, others = Office(), Caller(), [Caller() for _ in range(4)]
    office.submit(a, 0, 1)
    for caller in others:
        office.submit(caller, 3, 1)
    office.engine.stop()
    assert a.answers == {0: "stopped"}
    assert [caller.answers for caller in others] == [{3: "stopped"}] * 4
    assert office.empty() and not office.registry._early and not office.registry._answered._running


def test_the_same_row_twice_in_one_batch_runs_once() -> None:
    office, a, b = Office(), Caller(), Caller()
    office.submit(a, 0, 1, 1, 2)
    office.submit(b, 0, 1, 1)
    office.run()
    assert a.answers == {0: ONE, 1: ONE, 2: answer_of(2, 0, 4)}
    assert b.answers == {0: ONE, 1: ONE}
    assert office.ran == 2
    assert office.empty() and not office.registry._answered._running


def test_a_row_that_fails_over_and_over_ends_for_each_that_sent_it_and_none_is_forgotten() -> None:
    """Nobody gets another's failure: each that waits is run instead, until one has an answer or all have failed."""

    def failing(step: Step) -> float:
        raise RuntimeError("no")

    office, callers = Office(), [Caller() for _ in range(4)]
    office.executor.run = failing  # type: ignore[method-assign]
    for caller in callers:
        office.submit(caller, 0, 1)
    office.run()
    assert [caller.answers for caller in callers] == [{0: "failed"}] * 4
    assert office.empty() and not office.registry._answered._running and not office.registry._answered._kept


def test_a_batch_that_does_not_fit_together_leaves_nothing_behind() -> None:
    """What a front says wrongly must not make those wait for ever who send the same again."""
    office, a, b = Office(), Caller(), Caller()
    two: list[Any] = [[0.0, 0.0], [None, None], [b"1", b"2"], [8, 8]]
    for wrong in range(len(two)):
        for wrongly in (two[wrong][:1], two[wrong] * 2):
            columns = [*two]
            columns[wrong] = wrongly
            with pytest.raises(ValueError, match="2 rows"):
                office.registry.submit(a, 0, RowBatch("m", "", 0, rows_at(1, 2), *columns))
    office.submit(b, 0, 1, 2)
    office.run()
    assert b.answers == {0: ONE, 1: answer_of(2, 0, 4)}
