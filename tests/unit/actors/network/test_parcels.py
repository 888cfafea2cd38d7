"""Requests of many devices in few calls. Virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from actors.network.parcels import Parcels
from actors.testing.fake_server import FakeServer
from slicer.core.protocol.messages import Answer, Request, ServedModel
from slicer.errors import ServerError
from tests.unit import virtual_time

SERVED = ServedModel("m", "d", "{}", 4, (0, 1, 2, 3), "per_tail", ("fp32",))


class CountingServer(FakeServer):
    def __init__(self) -> None:
        super().__init__({"m": SERVED})
        self.parcels: list[int] = []
        self.gone = False

    async def infer(self, requests: Sequence[Request]) -> list[Answer]:
        self.parcels.append(len(requests))
        await asyncio.sleep(0.01)
        if self.gone:
            raise ServerError("gone")
        return await super().infer(requests)


def request(number: int) -> Request:
    return Request(str(number), "m", "d", number % 4, "fp32", (1,), b"1234", top_k=1)


def test_requests_that_begin_together_go_together_and_each_gets_its_own_answer() -> None:
    async def scenario() -> tuple[list[int], list[str]]:
        server = CountingServer()
        gateway = Parcels(server, gather_s=0.002, most=8)
        answers = await asyncio.gather(*(gateway.infer([request(number)]) for number in range(20)))
        await gateway.infer([request(20)])
        return server.parcels, [answer.id for [answer] in answers]

    parcels, ids = virtual_time.run(scenario())
    assert parcels == [8, 8, 4, 1]
    assert ids == [str(number) for number in range(20)]


def test_who_leaves_before_the_parcel_does_takes_its_request_with_it() -> None:
    async def scenario() -> list[int]:
        server = CountingServer()
        gateway = Parcels(server, gather_s=0.1)
        tasks = [asyncio.create_task(gateway.infer([request(number)])) for number in range(3)]
        await asyncio.sleep(0.01)
        tasks[1].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return server.parcels

    assert virtual_time.run(scenario()) == [2]


def test_a_parcel_that_is_lost_is_everyones_loss() -> None:
    async def scenario() -> None:
        server = CountingServer()
        server.gone = True
        gateway = Parcels(server)
        results = await asyncio.gather(*(gateway.infer([request(n)]) for n in range(3)), return_exceptions=True)
        assert all(isinstance(result, ServerError) for result in results)

    virtual_time.run(scenario())
