"""The load generator: open loop, the clock starts at the schedule, and only a right answer is one."""

from __future__ import annotations

import asyncio

from benchmarks.peers.client import offer

PAYLOADS = [(b"a", 1.0), (b"b", 2.0)]


def test_requests_are_sent_when_they_are_due_whatever_the_server_does() -> None:
    """The first answer comes only when the last request has been sent."""

    async def run() -> dict[str, object]:
        sent, last = [], asyncio.Event()

        async def send(payload: bytes, entry: int) -> tuple[float, float]:
            sent.append(payload)
            if len(sent) == 4:
                last.set()
            await last.wait()
            return float(payload[0] - ord("a") + 1), float(entry)

        return await offer(send, PAYLOADS, [(0.001 * n, 3) for n in range(1, 5)], patience_s=60.0)

    said = asyncio.run(run())
    assert said["errors"] == {} and said["late"] == 0
    records = said["records"]
    assert isinstance(records, list) and len(records) == 4
    for number, (due_s, sent_s, received_s, entry) in enumerate(records, start=1):
        assert abs(due_s - 0.001 * number) < 1e-6 and due_s <= sent_s <= received_s and entry == 3


def test_a_wrong_answer_and_an_error_are_none() -> None:
    async def run() -> dict[str, object]:
        async def send(payload: bytes, entry: int) -> tuple[float, float]:
            if payload == b"b":
                raise OSError("gone")
            return 1.0, float(entry + 1)

        return await offer(send, PAYLOADS, [(0.001, 0), (0.002, 0)], patience_s=60.0)

    said = asyncio.run(run())
    assert [record[2] for record in said["records"]] == [None, None]  # type: ignore[attr-defined]
    assert sorted(said["errors"]) == ["OSError: gone", "RuntimeError: a wrong answer: (1.0, 1.0) instead of (1.0, 0)"]  # type: ignore[call-overload]


def test_what_is_not_answered_in_time_is_given_up() -> None:
    async def run() -> dict[str, object]:
        async def send(payload: bytes, entry: int) -> tuple[float, float]:
            await asyncio.Event().wait()
            raise AssertionError

        return await offer(send, PAYLOADS, [(0.001, 0), (0.002, 0)], patience_s=0.01)

    said = asyncio.run(run())
    assert said["late"] == 2 and [record[2] for record in said["records"]] == [None, None]  # type: ignore[attr-defined]
