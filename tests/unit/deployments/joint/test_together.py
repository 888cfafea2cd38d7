"""A core and its fronts together: who gets which answer, and what becomes of rows when one of them goes."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from deployments.executors.base import Floats
from deployments.joint import rendezvous, words
from deployments.joint.front_side import CORE_ENDED, NO_CORE
from deployments.scheduling.scheduler import Row
from deployments.testing.fakes import FakeExecutor, rows_at
from tests.unit.deployments.joint.bench import Bench, Gate, Stranger, answers, arena_descriptors, bench, until


@pytest.fixture
def host() -> Iterator[Bench]:
    with bench() as made:
        yield made


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


@pytest.mark.parametrize("count", [1, words.MOST_ROWS, words.MOST_ROWS + 1, 5 * words.MOST_ROWS + 3])
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
        b = second.submit(1, keys=[b"key"], again=True)  # at work
        gate.open.set()
        assert await second.ended(b) == await first.ended(a) == answers(1)
        assert await second.ended(second.submit(1, keys=[b"key"], again=True)) == answers(1)  # ended
        assert core.ran == 1

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
        assert all(len(front.outcomes[ticket].message.encode()) <= words.MOST_TEXT for ticket in tickets)

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
        again = stays.submit(*range(10, 20), keys=[b"%d" % number for number in range(10, 20)], again=True)
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


# ------------------------------------------------------------------------------------------------------------- nonsense

_GOOD: list[Any] = [words.SUBMIT, "m", 0, "<f4", 0, 0, 64, [0.0], [None], [b"key"], [False]]


def _but(place: int, value: Any) -> bytes:
    return bytes(words.pack([*_GOOD[:place], value, *_GOOD[place + 1 :]]))


NONSENSE: dict[str, bytes] = {
    "no message": b"\xc1",
    "no list": b"\x01",
    "an empty list": b"\x90",
    "an unknown kind": words.pack((99,)),
    "hello twice": words.pack((words.HELLO, words.VERSION)),
    "too few parts": words.pack(_GOOD[:-1]),
    "an unknown model": _but(1, "unknown"),
    "no entry": _but(2, 4),
    "no type": _but(3, "nothing"),
    "objects": _but(3, "|O"),
    "rows outside": _but(5, 1 << 20),
    "rows before": _but(5, -8),
    "answers outside": _but(6, (1 << 20) - 63),
    "no offset": _but(5, None),
    "two deadlines": _but(8, [None, None]),
    "no key": _but(9, []),
    "two marks": _but(10, [True, False]),
}


def _at_its_end(stranger: Stranger) -> bool:
    try:
        return stranger.socket.recv(words.MOST_BYTES) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("message", NONSENSE.values(), ids=NONSENSE)
def test_a_front_that_speaks_nonsense_is_disconnected_alone(message: bytes, host: Bench) -> None:
    async def work() -> None:
        gate = Gate()
        core = host.core(gate=gate)
        front, stranger = host.front(), host.stranger(core)
        tickets = front.submit(1)
        await until(gate.reached.is_set)
        stranger.submit(5, 9)
        stranger.say_bytes(message)
        gate.open.set()
        assert _at_its_end(stranger)
        assert await front.ended(tickets) == answers(1)
        # Nobody waits for what never began.
        assert await front.ended(front.submit(1, keys=[b"key"], again=True)) == answers(1)
        await until(lambda: core.empty and core.intake.fronts == 1)

    host.run(work)


@pytest.mark.parametrize(
    ("message", "descriptor"),
    [
        (words.pack((words.HELLO, words.VERSION)), False),
        (words.pack((words.HELLO, words.VERSION + 1)), True),
        (words.pack((words.HELLO,)), True),
        (words.pack(_GOOD), True),
        (b"\xc1", True),
        (b"\x90", True),
    ],
    ids=["no descriptor", "another version", "no version", "no hello", "no message", "an empty list"],
)
def test_who_introduces_itself_wrongly_is_disconnected_and_leaves_no_descriptor(
    message: bytes, descriptor: bool, host: Bench
) -> None:
    async def work() -> None:
        core = host.core()
        front = host.front()
        assert await front.ended(front.submit(1)) == answers(1)
        stranger = host.stranger(core, hello=False)
        await until(lambda: core.intake.fronts == 2)
        before = arena_descriptors()
        stranger.say_bytes(message, descriptor=descriptor)
        assert _at_its_end(stranger)
        await until(lambda: core.intake.fronts == 1)
        assert arena_descriptors() == before
        assert await front.ended(front.submit(1)) == answers(1)

    host.run(work)


def test_what_is_no_memory_is_refused(host: Bench) -> None:
    async def work() -> None:
        core = host.core()
        stranger = host.stranger(core, hello=False)
        there, here = socket.socketpair()
        with there, here:
            hello = words.pack((words.HELLO, words.VERSION))
            socket.send_fds(stranger.socket, [hello], [here.fileno()])
            assert _at_its_end(stranger)

    host.run(work)


def test_a_front_that_was_disconnected_comes_back(host: Bench) -> None:
    async def work() -> None:
        gate = Gate()
        core = host.core(gate=gate)
        front = host.front()
        tickets = front.submit(1)
        await until(gate.reached.is_set)
        (first,) = front.sink._cores
        first.socket.send(b"\xc1")
        gate.open.set()
        assert (await front.ended(tickets))[0] in ("stopped", *answers(1))
        await until(lambda: front.sink.cores == 1 and front.sink._cores[0] is not first)
        assert await front.ended(front.submit(2)) == answers(2)
        assert core.intake.fronts == 1

    host.run(work)


def test_a_core_that_speaks_nonsense_is_left(host: Bench) -> None:
    async def work() -> None:
        gate = Gate()
        core = host.core(gate=gate)
        front = host.front()
        tickets = front.submit(1, 2)
        await until(gate.reached.is_set)
        (there,) = core.intake._fronts.values()
        there.socket.send(words.pack((words.ENDED, 0, [(tickets[0], "failed", "", 0.0, 0.0, [], [])])))
        there.socket.send(words.pack((words.HELLO, 0, [])))
        assert await front.ended(tickets) == ["failed", "stopped"]

    host.run(work)


# --------------------------------------------------------------------------------------------------- memory, many cores


def test_where_the_arena_is_full_rows_are_overloaded_until_there_is_room(host: Bench) -> None:
    async def work() -> None:
        gate = Gate()
        host.core(gate=gate)
        front = host.front(4096)
        sent: list[int] = []
        while front.arena.used_bytes < 4096:
            sent += front.submit(len(sent))
        late = front.submit(77)
        assert await front.ended(late) == ["overloaded"]
        assert "shared memory now (ingress.shared_memory_bytes); try again later" in front.outcomes[late[0]].message
        gate.open.set()
        assert await front.ended(sent) == answers(*range(len(sent)))
        front.forget()
        assert front.arena.used_bytes == 0
        assert await front.ended(front.submit(77)) == answers(77)

    host.run(work)


def test_where_only_the_answers_do_not_fit_the_rows_memory_comes_back(host: Bench) -> None:
    async def work() -> None:
        host.core()
        front = host.front(4096)
        assert await front.ended(front.submit(*range(100))) == ["overloaded"] * 100  # 832 bytes, and 6400
        assert front.arena.used_bytes == 0

    host.run(work)


def test_rows_go_to_the_core_with_the_least_expected_wait(host: Bench) -> None:
    async def work() -> None:
        gates = [Gate(opened=True), Gate(opened=True)]
        slow = host.core(FakeExecutor(before=gates[0], seconds=lambda step: 10.0), gate=gates[0])
        fast = host.core(FakeExecutor(before=gates[1], seconds=lambda step: 3.0), gate=gates[1])
        front = host.front()
        assert front.sink.cores == 2
        for number in range(2):  # the first of each: nobody has measured them
            await front.ended(front.submit(number))
        assert (slow.ran, fast.ran) == (1, 1)
        for gate in gates:
            gate.open.clear()
        sent = [front.submit(number) for number in range(8)]
        rows = {core.folder: len(core.rows) for core in front.sink._cores}
        # A row takes 10 s there and 3 s here. The 4th would be here after 12 s, so it goes there; the 8th likewise.
        assert rows == {slow.folder: 2, fast.folder: 6}
        for gate in gates:
            gate.open.set()
        assert await front.ended([ticket for tickets in sent for ticket in tickets]) == answers(*range(8))

    host.run(work)


def test_rows_go_only_to_cores_that_serve_their_model(host: Bench) -> None:
    async def work() -> None:
        one, other = host.core(names=["m", "n"]), host.core(names=["n"])
        front = host.front()
        assert set(front.sink.models) == {"m", "n"}
        for number in range(4):
            assert await front.ended(front.submit(number)) == answers(number)
        assert (one.ran, other.ran) == (4, 0)
        assert await front.ended(front.submit(1, model="n")) == answers(1)
        assert await front.ended(front.submit(1, model="unknown")) == ["stopped"]

    host.run(work)


def test_the_end_of_one_core_is_told_to_its_rows_alone_and_the_other_takes_what_comes(host: Bench) -> None:
    async def work() -> None:
        gates = [Gate(opened=True), Gate(opened=True)]
        cores = [host.core(gate=gate) for gate in gates]
        front = host.front()
        for number in range(2):  # the first of each: both have been measured then
            await front.ended(front.submit(number))
        front.forget()
        for gate in gates:
            gate.open.clear()
        sent = [front.submit(number)[0] for number in range(6)]
        lost = {ticket: front.sink._where[ticket].folder == cores[0].folder for ticket in sent}
        assert {*lost.values()} == {True, False}
        cores[0].die()
        await until(lambda: front.sink.cores == 1)
        late = front.submit(9)[0]
        assert {ticket: outcome.code for ticket, outcome in front.outcomes.items()} == {
            ticket: "stopped" for ticket in sent if lost[ticket]
        }
        for gate in gates:
            gate.open.set()
        assert await front.ended([late]) == answers(9)
        want = ["stopped" if lost[ticket] else answers(number)[0] for number, ticket in enumerate(sent)]
        assert await front.ended(sent) == want

    host.run(work)


def test_a_new_core_is_found_and_what_the_dead_one_left_is_removed(host: Bench) -> None:
    async def work() -> None:
        front = host.front()
        assert not front.sink.facts
        assert await front.ended(front.submit(1)) == ["stopped"]
        for number in range(3):
            core = host.core()
            await until(lambda: front.sink.cores == 1)
            assert front.sink.facts
            assert await front.ended(front.submit(number)) == answers(number)
            core.die()
            await until(lambda: front.sink.cores == 0)
            assert set(front.sink.models) == {"m"}  # a request may still be checked
            await until(lambda folder=core.folder: not folder.exists())  # type: ignore[misc]

    host.run(work)


@pytest.mark.parametrize("left", ["no socket", "no facts", "wrong facts", "no shards"])
def test_what_cannot_be_used_of_a_core_is_passed_over(left: str, host: Bench) -> None:
    async def work() -> None:
        stale = rendezvous.new_core(host.place)
        model = host.model("gone").facts()
        if left == "no shards":
            model["directory"] += "/nowhere"
        facts: Callable[[], dict[str, Any]] = lambda: {} if left == "wrong facts" else {"models": [model]}  # noqa: E731
        if left != "no facts":
            rendezvous.publish(stale, facts())
        host.core()
        front = host.front()
        assert front.sink.cores == 1
        assert set(front.sink.models) == {"m"}
        assert stale.exists() == (left != "no socket")

    host.run(work)
