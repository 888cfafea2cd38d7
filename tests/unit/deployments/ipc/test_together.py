"""A core and its fronts together: who gets which answer, and what becomes of rows when one of them goes."""

from __future__ import annotations

import select
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from deployments.executors.base import Floats
from deployments.ipc import messages, rendezvous
from deployments.ipc.node_cores import CORE_ENDED, NO_CORE
from deployments.scheduling.scheduler import Row
from deployments.testing.fakes import FakeExecutor, rows_at
from tests.unit.deployments.ipc.bench import Bench, Gate, answers, until

# ----------------------------------------------------------------------------------------------------------- answers


def test_each_front_gets_the_answers_of_its_own_rows_at_every_cut(host: Bench) -> None:
    async def work() -> None:
        core = host.core()
        fronts = [host.front() for _ in range(3)]
        sent = {
            (number, entry): front.submit(*range(100 * number, 100 * number + 5), entry=entry)
            for number, front in enumerate(fronts)
            for entry in range(4)
        }
        for (number, entry), tickets in sent.items():
            want = answers(*range(100 * number, 100 * number + 5), entry=entry)
            assert await fronts[number].ended(tickets) == want
        assert core.intake.fronts == 3
        for front in fronts:
            assert front.arena.used_bytes > 0  # the answers
            front.forget()
            assert front.arena.used_bytes == 0
        assert core.empty

    host.run(work)


@pytest.mark.parametrize("count", [1, messages.MOST_ROWS, messages.MOST_ROWS + 1, 5 * messages.MOST_ROWS + 3])
def test_rows_that_come_together_end_each_for_itself_however_many_they_are(count: int, host: Bench) -> None:
    async def work() -> None:
        host.core(max_batch=100)
        front = host.front()
        assert await front.ended(front.submit(*range(count))) == answers(*range(count))

    host.run(work)


@pytest.mark.parametrize(
    "rows",
    [rows_at(1, 2, 3), rows_at(1, 9, 2, 9, 3)[::2], rows_at(1, 2, 3).astype(np.float16)],
    ids=["elsewhere", "with gaps", "float16"],
)
def test_rows_that_do_not_lie_in_the_arena_are_copied_there(rows: Any, host: Bench) -> None:
    async def work() -> None:
        host.core()
        front = host.front()
        assert await front.ended(front.submit(rows=rows)) == answers(1, 2, 3)

    host.run(work)


def test_an_answer_keeps_its_memory_when_other_rows_come(host: Bench) -> None:
    async def work() -> None:
        host.core()
        front = host.front()
        kept = front.submit(1, 2, 3)
        await front.ended(kept)
        for number in range(50):
            await front.ended(tickets := front.submit(number + 10, number + 20))
            for ticket in tickets:
                del front.outcomes[ticket]
        assert await front.ended(kept) == answers(1, 2, 3)

    host.run(work)


def test_who_sends_again_by_another_front_gets_the_answer_of_the_first_row(host: Bench) -> None:
    async def work() -> None:
        gate = Gate()
        core = host.core(gate=gate)
        first, second = host.front(), host.front()
        a = first.submit(1, keys=[b"key"])
        await until(gate.reached.is_set)
        b = second.submit(1, keys=[b"key"])  # at work
        gate.open.set()
        assert await second.ended(b) == await first.ended(a) == answers(1)
        assert await second.ended(second.submit(1, keys=[b"key"])) == answers(1)  # ended
        assert core.ran == 1

    host.run(work)


def test_a_level_that_a_front_says_counts_among_the_rows_of_all_fronts(host: Bench) -> None:
    async def work() -> None:
        gate = Gate()
        core = host.core(gate=gate)
        first, second = host.front(), host.front()
        running = first.submit(0)
        await until(gate.reached.is_set)
        # One entry each, so that each is a step of its own.
        sent = [
            (front, front.submit(name, entry=entry, priority=level))
            for front, name, entry, level in ((first, 1, 0, 9), (second, 2, 1, 8), (second, 3, 2, 1), (first, 4, 3, 2))
        ]
        gate.open.set()  # the core reads the sockets when the step has ended
        await first.ended(running)
        for front, tickets in sent:
            await front.ended(tickets)
        assert [step.rows[0].entry for step in core.executor.steps] == [0, 2, 3, 1, 0]

    host.run(work)


class Wide(FakeExecutor):
    """What comes out of a row of name 2 is longer than the model says."""

    def take(self, rows: Sequence[Row]) -> Floats:
        taken = super().take(rows)
        return np.tile(taken, (1, 20)) if 2 in taken[:, 0] else taken


def test_an_output_that_is_larger_than_its_place_fails_alone(host: Bench) -> None:
    async def work() -> None:
        host.core(Wide(), max_batch=1)
        front = host.front()
        tickets = front.submit(1, 2, 3)
        assert await front.ended(tickets) == [*answers(1), "failed", *answers(3)]
        assert front.outcomes[tickets[1]].message == (
            "the model's output of 160 bytes is more than the 64 of its shape"
        )

    host.run(work)


def test_long_refusals_of_many_rows_all_arrive(host: Bench) -> None:
    """Sixty-four of these would be more than a socket takes, if they were not cut by their bytes."""

    def fail(step: Any) -> None:
        raise RuntimeError("\U0001f600" * 3000)

    async def work() -> None:
        host.core(FakeExecutor(before=fail))
        front = host.front()
        tickets = front.submit(*range(64))
        assert await front.ended(tickets) == ["failed"] * 64
        assert all(len(front.outcomes[ticket].message.encode()) <= messages.MOST_TEXT for ticket in tickets)

    host.run(work)


def test_rows_beyond_what_the_core_holds_are_overloaded(host: Bench) -> None:
    async def work() -> None:
        gate = Gate()
        core = host.core(gate=gate, max_rows=3)
        front = host.front()
        tickets = front.submit(1, 2, 3, 4, 5)
        assert await front.ended(tickets[3:]) == ["overloaded"] * 2
        gate.open.set()
        assert await front.ended(tickets[:3]) == answers(1, 2, 3)
        assert core.empty

    host.run(work)


# ------------------------------------------------------------------------------------------------------ who goes away


def test_a_row_that_is_cancelled_leaves_and_its_neighbours_do_not(host: Bench) -> None:
    async def work() -> None:
        gate = Gate()
        core = host.core(gate=gate, max_batch=1)
        front = host.front()
        tickets = front.submit(1, 2, 3)
        await until(gate.reached.is_set)
        front.sink.cancel(tickets[1])
        front.sink.cancel(12345)
        gate.open.set()
        assert await front.ended(tickets) == [*answers(1), "cancelled", *answers(3)]
        front.sink.cancel(tickets[0])
        assert core.ran == 2
        front.forget()
        assert front.arena.used_bytes == 0

    host.run(work)


def test_the_end_of_a_core_is_told_at_once_to_every_row_in_it(host: Bench) -> None:
    async def work() -> None:
        gate = Gate()
        core = host.core(gate=gate)
        fronts = [host.front() for _ in range(2)]
        sent = [front.submit(*range(100)) for front in fronts]
        await until(gate.reached.is_set)
        core.die()  # and the accelerator stands still until the end
        for front, tickets in zip(fronts, sent, strict=True):
            assert await front.ended(tickets) == ["stopped"] * 100
            assert {outcome.message for outcome in front.outcomes.values()} == {CORE_ENDED}
            front.forget()
            assert front.arena.used_bytes == 0
            assert front.sink.cores == 0
            assert await front.ended(late := front.submit(1)) == ["stopped"]
            assert front.outcomes[late[0]].message == NO_CORE
        assert not gate.open.is_set()

    host.run(work)


def test_a_core_that_stops_lets_the_running_step_end_and_refuses_the_others(host: Bench) -> None:
    async def work() -> None:
        gate = Gate()
        core = host.core(gate=gate, max_batch=2)
        front = host.front()
        tickets = front.submit(1, 2, 3, 4)
        await until(gate.reached.is_set)
        stopping = threading.Thread(target=core.engine.stop)
        stopping.start()
        await until(lambda: not core.engine.alive)
        gate.open.set()
        assert await front.ended(tickets) == [*answers(1, 2), "stopped", "stopped"]
        await until(lambda: not front.sink.cores)
        stopping.join()
        assert not (core.folder / rendezvous.ROWS).exists()

    host.run(work)


def test_rows_of_a_front_that_has_gone_leave_the_engine_and_others_run(host: Bench) -> None:
    async def work() -> None:
        gate = Gate()
        core = host.core(gate=gate, max_batch=4)
        gone, stays = host.front(), host.front()
        first = gone.submit(1, 2, 3, 4)
        await until(gate.reached.is_set)
        gone.submit(*range(10, 40), keys=[b"%d" % number for number in range(10, 40)])
        gone.sink.close()
        assert await gone.ended(first) == ["stopped"] * 4
        kept = stays.submit(*range(50, 60))
        again = stays.submit(*range(10, 20), keys=[b"%d" % number for number in range(10, 20)])
        gate.open.set()
        assert await stays.ended(kept) == answers(*range(50, 60))
        assert await stays.ended(again) == answers(*range(10, 20))
        await until(lambda: core.empty and core.intake.fronts == 1)
        assert core.ran == 4 + 10 + 10

    host.run(work)


def test_a_front_that_leaves_takes_nothing_from_those_that_come_after_it(host: Bench) -> None:
    """Only a core removes what it has in the file system, or whoever finds that nobody listens there."""

    async def work() -> None:
        core = host.core()
        first = host.front()
        assert await first.ended(first.submit(1)) == answers(1)
        first.sink.close()
        await until(lambda: core.intake.fronts == 0)
        assert list(rendezvous.published(host.place)) == [core.folder]
        second = host.front()
        assert await second.ended(second.submit(2)) == answers(2)

    host.run(work)


def test_a_front_that_is_closed_looks_for_no_core_any_more(host: Bench) -> None:
    async def work() -> None:
        core = host.core()
        front = host.front()
        front.sink.close()
        front.sink.close()
        assert set(front.sink.models) == {"m"}  # which looks, where a front is open
        assert await front.ended(front.submit(1)) == ["stopped"]
        assert front.sink.cores == 0 and front.sink._look_at is None
        assert list(rendezvous.published(host.place)) == [core.folder]

    host.run(work)


def test_a_front_that_does_not_read_holds_up_nobody_and_gets_all_when_it_does(host: Bench) -> None:
    async def work() -> None:
        core = host.core(max_batch=1)
        stranger, front = host.stranger(core), host.front()
        count = 2000
        for start in range(0, count, 50):
            stranger.submit(start, *range(start, start + 50))
        await until(lambda: core.ran == count)
        (slow,) = [there for there in core.intake._fronts.values() if there.backlog]
        held = len(slow.backlog)
        assert 0 < held < count
        assert await front.ended(front.submit(1, 2)) == answers(1, 2)
        assert len(slow.backlog) == held
        ended: list[int] = []
        while len(ended) < count:
            ended += [row[0] for row in stranger.read()]
        assert sorted(ended) == list(range(count))
        await until(lambda: not slow.backlog and not select.select([core.intake._epoll], [], [], 0)[0])
        stranger.submit(count, 7)  # and it goes on as before
        assert [row[0] for row in stranger.read()] == [count]
        stranger.submit(count + 1, 8)
        assert [row[:2] for row in stranger.read()] == [[count + 1, None]]

    host.run(work)


def test_a_front_that_does_not_read_may_leave(host: Bench) -> None:
    async def work() -> None:
        core = host.core(max_batch=1)
        stranger, front = host.stranger(core), host.front()
        stranger.submit(0, *range(2000))
        await until(lambda: any(there.backlog for there in core.intake._fronts.values()))
        stranger.close()
        await until(lambda: core.intake.fronts == 1 and core.empty)
        assert await front.ended(front.submit(1, 2)) == answers(1, 2)

    host.run(work)


def test_a_core_that_does_not_read_holds_up_no_front(host: Bench) -> None:
    """The front's event loop goes on; what did not fit into the socket goes when there is room."""

    async def work() -> None:
        gate = Gate()
        core = host.core(gate=gate)
        front = host.front(8 << 20)
        first = front.submit(1)
        await until(gate.reached.is_set)
        sent = [front.submit(number) for number in range(2000)]
        assert front.sink._cores[0].backlog
        gate.open.set()
        assert await front.ended(first) == answers(1)
        assert await front.ended([ticket for tickets in sent for ticket in tickets]) == answers(*range(2000))
        assert not front.sink._cores[0].backlog
        assert core.empty

    host.run(work)
