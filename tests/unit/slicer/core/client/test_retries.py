"""What a client sends again, under which key and with which deadline; and what it does not."""

from __future__ import annotations

import asyncio
import itertools
import pickle
from collections.abc import Callable

import numpy as np
import pytest

from headtail import AsyncClient, Client
from slicer.core.client import retries
from slicer.core.client.connection import ComeAgain
from slicer.core.client.retries import patiently
from slicer.core.protocol.messages import RETRYABLE
from slicer.core.protocol.oip.status import STATUS
from slicer.errors import RefusedError, ServerError
from tests.unit.tiny_server import TinyServer

PICTURE = np.full((8, 8, 3), 200, np.uint8)
ROW = np.zeros((16, 96), np.float32)


@pytest.mark.parametrize("code", sorted(RETRYABLE))
def test_what_may_work_soon_is_sent_again_under_its_key_with_what_is_left(
    client: Client, server: TinyServer, code: str
) -> None:
    server.refusals.extend([[code], [code]])  # type: ignore[list-item]
    client.predict(PICTURE, timeout_s=20)
    client.predict(PICTURE)
    first, second, third, other = (row for call in server.calls for row in call)
    assert first.key and first.key == second.key == third.key != other.key
    assert first.key.rpartition("-")[0] == other.key.rpartition("-")[0]  # one client's
    left = [row.deadline_ms for row in (first, second, third)]
    assert None not in left and 20_000 >= left[0] > left[1] > left[2] > 10_000  # type: ignore[operator]
    assert 30_000 >= (other.deadline_ms or 0) > 20_000  # the client's own time-out


def test_two_clients_share_no_key(url: str, server: TinyServer) -> None:
    for _ in range(2):
        with Client(url, "secret") as client:
            client.predict(PICTURE)
    (first,), (second,) = server.calls
    assert first.key != second.key


@pytest.mark.parametrize("code", sorted(set(STATUS) - RETRYABLE))
def test_what_will_not_work_is_said_at_once_by_its_code(client: Client, server: TinyServer, code: str) -> None:
    server.refusals.append([code])  # type: ignore[list-item]
    with pytest.raises(RefusedError, match=f"told to say {code}") as caught:
        client.predict(PICTURE)
    assert (caught.value.code, caught.value.server, len(server.calls)) == (code, "tiny", 1)
    assert isinstance(caught.value, ServerError)


def test_of_many_only_those_that_were_refused_go_again(client: Client, server: TinyServer) -> None:
    pictures = [np.full((8, 8), grey, np.uint8) for grey in (0, 80, 160, 240)]
    want = client.predict_many(pictures)
    server.calls.clear()
    server.refusals.extend([[None, "overloaded", "stopped", None], ["overloaded", None]])
    assert client.predict_many(pictures) == want
    keys = [[row.key for row in call] for call in server.calls]
    assert keys[1:] == [keys[0][1:3], keys[0][1:2]] and len(set(keys[0])) == 4

    server.refusals.append([None, "overloaded", "failed", None])
    with pytest.raises(RefusedError, match="number 2 of 4: told to say failed") as caught:
        client.predict_many(pictures)
    assert caught.value.code == "failed"


def test_attempts_end_with_the_time_and_the_last_reason(client: Client, server: TinyServer) -> None:
    server.refusals.extend([["overloaded"]] * 1000)
    with pytest.raises(RefusedError, match=r"told to say overloaded; gave up after 1 s, \d+ attempts") as caught:
        client.predict(PICTURE, model="digits", timeout_s=1.0)
    assert caught.value.code == "overloaded" and len(server.calls) > 2


def test_a_stale_head_is_named_and_the_description_forgotten(client: Client, server: TinyServer) -> None:
    client.infer(ROW, cut=1)
    known = client._client._described["digits"]
    server.refusals.append(["stale"])
    with pytest.raises(RefusedError, match=r"told to say stale.*load the head of describe") as caught:
        client.infer(ROW, cut=1)
    assert caught.value.code == "stale" and "digits" not in client._client._described
    client.infer(ROW, cut=1)
    assert client._client._described["digits"].served == known.served
    with pytest.raises(RefusedError) as caught:  # what the head was loaded from, where the caller knows
        client.infer(ROW, cut=1, manifest="f" * 64)
    assert caught.value.code == "stale"


def against(
    answers: list[bytes], use: Callable[[AsyncClient], object], *, silent: bool = False
) -> tuple[object, list[bytes]]:
    """What `use` gives with a server that answers so, request by request, and the heads of what came."""

    async def run() -> tuple[object, list[bytes]]:
        came: list[bytes] = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                head = await reader.readuntil(b"\r\n\r\n")
                length = head.lower().partition(b"content-length:")[2].split(b"\r\n")[0]
                came.append(await reader.readexactly(int(length or 0)))
                if silent:
                    await reader.read(-1)
                writer.write(answers[min(len(came), len(answers)) - 1])
                await writer.drain()
            except (asyncio.IncompleteReadError, ConnectionError):
                pass
            writer.close()

        there = await asyncio.start_server(serve, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{there.sockets[0].getsockname()[1]}/headtail"
        try:
            async with AsyncClient(url, "") as client:
                result = use(client)
                assert asyncio.iscoroutine(result)
                return await result, came
        finally:
            there.close()

    return asyncio.run(run())


def http(status: int, body: bytes, *headers: bytes) -> bytes:
    lines = [b"HTTP/1.1 %d X" % status, b"Content-Length: %d" % len(body), b"Connection: close", *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


FINE = http(
    200,
    b'{"model_name":"m","outputs":[{"name":"top_k","datatype":"BYTES","shape":[1,1],"data":["0.5:3:three"]}],'
    b'"parameters":{"admission_ms":1,"queue_ms":1,"execution_ms":1,"total_ms":3,"rows_per_step":"1"}}',
    b"headtail: 1",
)
PROXY = http(404, b"Path '/headtail' not found. Ping http://.../-/routes for available routes.")


def test_a_proxy_without_a_replica_and_a_broken_connection_are_tried_again_under_one_key() -> None:
    found, came = against([PROXY, b"", FINE[:60], FINE], lambda client: client.predict(PICTURE, model="m", top_k=1))
    assert (found.label, found.score, found.class_index) == ("three", 0.5, 3)  # type: ignore[attr-defined]
    keys = {body.partition(b'"idempotency_key":"')[2].partition(b'"')[0] for body in came}
    assert len(came) == 4 and len(keys) == 1 and b"" not in keys


@pytest.mark.parametrize(
    "answer",
    [
        http(200, b"<html>Please log in</html>"),
        http(302, b"", b"Location: http://portal.example/login"),
        http(401, b'{"error": "a missing or wrong token"}', b"headtail: 1"),
        http(413, b'{"error": "too long", "code": 5}', b"headtail: 1"),
        http(400, b'{"error": "why", "code": ["failed"]}', b"headtail: 1"),
        http(200, b"{}", b"headtail: 1"),
        http(200, FINE.partition(b"\r\n\r\n")[2].replace(b"0.5:3", b"x"), b"headtail: 1"),
        http(200, FINE.partition(b"\r\n\r\n")[2].replace(b"[1,1]", b"[1,2]"), b"headtail: 1"),
        http(200, FINE.partition(b"\r\n\r\n")[2].replace(b"[1,1]", b"[]"), b"headtail: 1"),
        http(200, FINE.partition(b"\r\n\r\n")[2].replace(b"queue_ms", b"q"), b"headtail: 1"),
    ],
    ids=range(10),
)
def test_what_another_attempt_would_not_change_is_said_at_once(answer: bytes) -> None:
    asked = []

    async def use(client: AsyncClient) -> None:
        with pytest.raises(ServerError) as caught:
            await client.predict(PICTURE, model="m", top_k=1)
        assert not isinstance(caught.value, (ComeAgain, RefusedError)), caught.value
        asked.append(str(caught.value))

    _, came = against([answer], use)
    assert len(came) == len(asked) == 1


def test_no_answer_in_time_is_too_late() -> None:
    async def use(client: AsyncClient) -> None:
        for call in (client.predict(PICTURE, model="m", timeout_s=0.05), client.models(timeout_s=0.05)):
            with pytest.raises(RefusedError, match=r"did not answer within 0\.05 s") as caught:
                await call
            assert (caught.value.code, caught.value.server) == ("too_late", "")

    against([b""], use, silent=True)


def test_an_address_where_nobody_ever_answered_is_said_at_once_and_one_that_is_gone_is_waited_for() -> None:
    async def nowhere() -> None:
        async with AsyncClient("http://127.0.0.1:1/headtail", timeout_s=1000) as client:
            with pytest.raises(ServerError, match="cannot be reached"):
                await client.predict(PICTURE, model="m")
            client._connection.answered = True
            with pytest.raises(ServerError, match=r"cannot be reached.*gave up after 0\.1 s"):
                await client.predict(PICTURE, model="m", timeout_s=0.1)

    asyncio.run(nowhere())


def test_pauses_grow_differ_and_leave_room_for_a_last_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock of its own: what sleeps moves it on."""
    now, pauses, left = 0.0, [], []

    async def run() -> None:
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(loop, "time", lambda: now)

        async def sleep(seconds: float) -> None:
            nonlocal now
            now += seconds
            pauses.append(seconds)

        async def attempt(left_s: float) -> None:
            left.append(left_s)
            raise ComeAgain("none")

        monkeypatch.setattr(retries.asyncio, "sleep", sleep)
        monkeypatch.setattr(retries.asyncio, "wait_for", lambda awaitable, timeout: awaitable)
        with pytest.raises(ServerError, match=r"none; gave up after 30 s, \d+ attempts"):
            await patiently(attempt, within_s=30.0, again=lambda error: True, who="x")

    monkeypatch.setattr(retries, "PAUSE_S", 0.25)
    asyncio.run(run())
    bounds = itertools.chain([0.25, 0.5, 1.0], itertools.repeat(2.0))
    assert all(0.5 * bound <= pause <= 1.5 * bound for pause, bound in zip(pauses[:-1], bounds, strict=False))
    assert len(set(pauses)) == len(pauses)
    assert left[0] == 30.0 and left == sorted(left, reverse=True) and left[-1] > 0
    assert pauses[-1] == pytest.approx(left[-1])  # half of what was left


def test_an_attempt_after_the_time_is_none() -> None:
    async def run() -> None:
        async def never(left_s: float) -> None:
            await asyncio.Event().wait()

        now_s = asyncio.get_running_loop().time()
        with pytest.raises(RefusedError, match="did not answer within 5 s"):
            await patiently(never, within_s=5.0, until_s=now_s - 1, again=lambda error: True, who="x")

    asyncio.run(run())


def test_refused_errors_travel_between_processes() -> None:

    again = pickle.loads(pickle.dumps(RefusedError("stale", "why", "s")))
    assert (type(again), str(again), again.code, again.server) == (RefusedError, "why", "stale", "s")
