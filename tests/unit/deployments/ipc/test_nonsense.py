"""What is none of this release ends its connection, and touches nobody else's."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from deployments.ipc import messages
from tests.unit.deployments.ipc.bench import Bench, Gate, Stranger, answers, arena_descriptors, until

_GOOD: list[Any] = [messages.SUBMIT, "m", 0, "<f4", 0, 0, 64, [0.0], [None], [b"key"], [8]]


def _but(place: int, value: Any) -> bytes:
    return bytes(messages.pack([*_GOOD[:place], value, *_GOOD[place + 1 :]]))


NONSENSE: dict[str, bytes] = {
    "no message": b"\xc1",
    "no list": b"\x01",
    "an empty list": b"\x90",
    "an unknown kind": messages.pack((99,)),
    "hello twice": messages.pack((messages.HELLO, messages.VERSION)),
    "too few parts": messages.pack(_GOOD[:-1]),
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
    "two priorities": _but(10, [8, 8]),
}


def _at_its_end(stranger: Stranger) -> bool:
    try:
        return stranger.socket.recv(messages.MOST_BYTES) == b""
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
        assert await front.ended(front.submit(1, keys=[b"key"])) == answers(1)
        await until(lambda: core.empty and core.intake.fronts == 1)

    host.run(work)


@pytest.mark.parametrize(
    ("message", "descriptor"),
    [
        (messages.pack((messages.HELLO, messages.VERSION)), False),
        (messages.pack((messages.HELLO, messages.VERSION + 1)), True),
        (messages.pack((messages.HELLO,)), True),
        (messages.pack(_GOOD), True),
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
            hello = messages.pack((messages.HELLO, messages.VERSION))
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
        there.socket.send(messages.pack((messages.ENDED, 0, [(tickets[0], "failed", "", 0.0, 0.0, [], [])])))
        there.socket.send(messages.pack((messages.HELLO, 0, [])))
        assert await front.ended(tickets) == ["failed", "stopped"]

    host.run(work)
