"""One front and the node around it: memory that is full, several cores, cores that come and go."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from typing import Any

import pytest

from deployments.ipc import messages, rendezvous
from deployments.scheduling.scheduler import Step
from deployments.testing.fakes import FakeExecutor
from tests.unit.deployments.ipc.bench import Bench, Gate, answers, until


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


def test_rows_run_on_the_weights_that_they_are_for_while_two_versions_are_here(host: Bench) -> None:
    async def work() -> None:
        old, digests = host.core(), [host.model("m", version).manifest.digest for version in range(2)]
        front = host.front()
        assert front.sink.models["m"].manifest.digest == digests[0]
        new = host.core(version=1)
        front.sink.look()
        assert front.sink.models["m"].manifest.digest == digests[1], "the one that came last is what is served"
        for number in range(4):
            assert await front.ended(front.submit(number, manifest=digests[0])) == answers(number)
        assert (old.ran, new.ran) == (4, 0)
        assert await front.ended(front.submit(7)) == answers(7)
        assert (old.ran, new.ran) == (4, 1)
        new.die()
        await until(lambda: front.sink.cores == 1)
        assert front.sink.models["m"].manifest.digest == digests[0], "as long as only that is here"
        assert await front.ended(front.submit(8, manifest=digests[1])) == ["stopped"]

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


def test_a_core_that_fails_fast_does_not_draw_all_rows(host: Bench) -> None:
    async def work() -> None:
        def fail(step: Step) -> None:
            raise RuntimeError("broken")

        broken, sound = host.core(FakeExecutor(before=fail)), host.core()
        front = host.front()
        seen = [await front.ended(front.submit(number)) for number in range(20)]
        assert sum(one == ["failed"] for one in seen) < 5
        assert sound.ran > 15
        assert broken.empty

    host.run(work)


def test_of_a_core_that_is_not_understood_rows_are_refused_and_their_memory_is_kept_until_it_has_closed(
    host: Bench,
) -> None:
    async def work() -> None:
        gate = Gate()
        core = host.core(gate=gate)
        front = host.front()
        sent = front.submit(1, 2)
        await until(gate.reached.is_set)
        (connection,) = core.intake._fronts.values()
        connection.socket.send(messages.pack((99, 0, [])))  # as of another release
        assert await front.ended(sent) == ["stopped"] * 2
        assert front.sink.cores == 0
        held = front.arena.used_bytes
        assert held > 0, "the core still writes its answers there"
        front.sink.look()
        assert front.sink.cores == 0, "it is not tried again"
        gate.open.set()
        await until(lambda: front.arena.used_bytes == 0)
        assert core.empty

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
        with contextlib.ExitStack() as stack:
            if left != "no socket":  # it lives, though it cannot be used
                listener = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
                listener.bind(str(stale / rendezvous.ROWS))
                listener.listen()
            host.core()
            front = host.front()
            assert front.sink.cores == 1
            assert set(front.sink.models) == {"m"}
            assert stale.exists() == (left != "no socket")

    host.run(work)
