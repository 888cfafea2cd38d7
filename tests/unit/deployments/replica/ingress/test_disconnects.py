"""Who waits is watched only if it waits long, and takes its work with it when it leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from deployments.replica.ingress import disconnects
from deployments.replica.ingress.disconnects import Connections, Disconnected
from deployments.replica.ingress.http_ingress import Ingress
from slicer.core.protocol import packet
from slicer.core.protocol.messages import Answer, Request

REQUEST = Request("a", "m", "d", 1, "fp32", (2,), b"12345678")


class Client:
    """An ASGI connection whose client leaves when it is told to; `asked`: somebody listens for that."""

    def __init__(self) -> None:
        self.asked, self.leave = asyncio.Event(), asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        self.asked.set()
        await self.leave.wait()
        return {"type": "http.disconnect"}


class Work:
    """Work that lasts until it is told to end; `cancelled`: it was not let."""

    def __init__(self) -> None:
        self.go_on, self.cancelled = asyncio.Event(), False

    async def run(self) -> int:
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        return 7


async def ended(work: Awaitable[None]) -> None:
    """It ends by itself; `wait_for` would cancel it, which is what these tests are about."""
    done, _ = await asyncio.wait({asyncio.ensure_future(work)}, timeout=10)
    assert done, "it waits for ever"
    done.pop().result()


def run(scene: Callable[[Connections, Client, Work], Awaitable[None]]) -> None:
    async def play() -> None:
        await ended(scene(Connections(), Client(), Work()))
        assert len(asyncio.all_tasks()) == 1  # nobody is watched any more

    asyncio.run(play())


def test_who_leaves_takes_its_work_with_it() -> None:
    async def scene(held: Connections, client: Client, work: Work) -> None:
        call = asyncio.ensure_future(held.while_there(client.receive, work.run()))
        await client.asked.wait()
        client.leave.set()
        with pytest.raises(Disconnected):
            await call
        assert work.cancelled

    run(scene)


def test_who_stays_gets_what_it_waited_for_however_long() -> None:
    async def scene(held: Connections, client: Client, work: Work) -> None:
        call = asyncio.ensure_future(held.while_there(client.receive, work.run()))
        await client.asked.wait()
        work.go_on.set()
        assert await call == 7
        await asyncio.sleep(0)

    run(scene)


def test_nobody_listens_on_the_connection_of_who_is_answered_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(held: Connections, client: Client, work: Work) -> None:
        soon, other = Client(), Work()
        other.go_on.set()
        late = asyncio.ensure_future(held.while_there(client.receive, work.run()))
        assert await held.while_there(soon.receive, other.run()) == 7
        await client.asked.wait()
        assert not soon.asked.is_set()
        work.go_on.set()
        await late
        await asyncio.sleep(0)

    monkeypatch.setattr(disconnects, "LOOK_AFTER_S", 0.005)
    run(scene)


def test_who_is_cancelled_by_others_is_not_taken_for_one_that_left() -> None:
    async def scene(held: Connections, client: Client, work: Work) -> None:
        call = asyncio.ensure_future(held.while_there(client.receive, work.run()))
        await client.asked.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert work.cancelled
        await asyncio.sleep(0)

    run(scene)


def test_what_goes_wrong_is_the_callers_to_see() -> None:
    async def fail() -> int:
        raise ValueError("no")

    async def scene(held: Connections, client: Client, work: Work) -> None:
        del work
        with pytest.raises(ValueError, match="no"):
            await held.while_there(client.receive, fail())

    run(scene)


def test_the_ingress_cancels_the_rows_of_a_client_that_leaves_and_answers_nobody() -> None:
    class Server:
        async def infer_parcel(self, requests: list[Request]) -> list[Answer]:
            await work.run()
            raise AssertionError("cancelled before")

    work, sent = None, []  # type: Any, list[Any]

    async def play() -> None:
        nonlocal work
        work, client = Work(), Client()
        body = [{"type": "http.request", "body": packet.encode_requests([REQUEST])}]

        async def receive() -> Any:
            return body.pop() if body else await client.receive()

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": "/infer", "headers": []}
        call = asyncio.ensure_future(Ingress(Server())(scope, receive, send))  # type: ignore[arg-type]
        await client.asked.wait()
        client.leave.set()
        await ended(call)

    asyncio.run(play())
    assert work.cancelled
    assert sent == []
