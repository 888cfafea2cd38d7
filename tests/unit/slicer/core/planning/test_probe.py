"""A request on the side: what a device learns by it, and that nothing waits for it. Virtual time."""

from __future__ import annotations

import asyncio
from typing import Any

from actors.device.config import PlanConfig
from actors.network.client import LinkedServer
from actors.network.emulated_link import EmulatedLink
from actors.testing.fake_server import FakeServer
from slicer.core.device.device_run import DeviceRun
from slicer.core.planning.cut_planner import Choice
from slicer.core.planning.online_planner import OnlinePlanner
from slicer.core.planning.probe import probe
from slicer.core.records.record import Record
from slicer.profiles.device_profile import Profile
from tests.unit import virtual_time
from tests.unit.actors.device.test_alone import PLANNED, ask
from tests.unit.actors.device.test_device import SERVER_S, VirtualDevice, assignment, make

BOARD = Profile(name="b", hypothetical=True, slices_ms=[{"mean": 2.5, "std": 0.1}] * 4)  # type: ignore[arg-type]


def fake(**changes: Any) -> FakeServer:
    return FakeServer({"m": PLANNED}, delay_s=SERVER_S, **changes)


async def started(server: FakeServer, mbit_per_s: float, **config: Any) -> VirtualDevice:
    link = EmulatedLink(mbit_per_s=mbit_per_s, delay_ms=5.0, clock=virtual_time.VirtualClock())
    device = make(server, **config)
    device.server = LinkedServer(server, link)
    await device.start()
    return device


def test_joining_learns_the_link_before_the_first_image() -> None:
    async def scenario() -> tuple[OnlinePlanner, FakeServer, Choice]:
        server = fake()
        device = await started(server, 0.8, plan=PlanConfig(), profile=BOARD)  # 0.1 bytes a microsecond
        assert device.cut.planner is not None
        return device.cut.planner, server, device.cut.choice

    planner, server, choice = virtual_time.run(scenario())
    (request,) = server.requests
    # Cuts 1 to 3 all have 16 x 24 values: the deepest costs the server least. 384 values and 24 scales of two bytes.
    assert (request.cut, request.codec, len(request.payload)) == (3, "int8", 432)
    assert request.wants_load
    # 10 ms of delay and the fake server's 30 ms are not the rate's; pings carry a manifest down, so they are longer.
    assert planner.link.view.bytes_per_s > 5e4
    assert choice.cut == 4  # 10 ms of slices, where the server takes 30 and the link more


def test_a_server_that_does_not_answer_is_waited_for_by_nobody_for_ever() -> None:
    async def scenario() -> tuple[float, bool]:
        server = fake()
        server.script.append("hang")
        device = await started(server, 100.0, plan=PlanConfig(), profile=BOARD)
        assert device.cut.planner is not None
        return virtual_time.VirtualClock().now_s(), device.cut.planner.link.known

    now_s, known = virtual_time.run(scenario())
    assert 10.0 < now_s < 11.0  # PATIENCE_S
    assert not known


def test_a_refusal_and_a_vanished_server_raise_nothing() -> None:
    async def scenario() -> None:
        server = fake()
        device = await started(server, 100.0, plan=PlanConfig(), profile=BOARD)
        assert device.cut.planner is not None
        for upset in ("overloaded", "vanish"):
            server.script.append(upset)
            await probe(device.cut.planner, Choice(1, "int8"), PLANNED, device.server, device.clock)

    virtual_time.run(scenario())


def test_a_device_that_computes_all_by_itself_asks_now_and_then_and_no_image_waits() -> None:
    async def scenario() -> tuple[list[Record], FakeServer]:
        server = fake()
        device = await started(server, 100.0, plan=PlanConfig(probe_s=4.0), profile=BOARD)
        return await DeviceRun(device, assignment(arrivals=ask(600, 0.1))).run(), server

    records, server = virtual_time.run(scenario())
    asked = [request for request in server.requests if "/probe-" in request.id]
    assert len({request.id for request in asked}) == len(asked)
    # One at joining, then after 4, 5, 6.25, ... 16 s, but for those after an answer that surprised: some eight
    # a minute.
    assert 4 <= len(asked) <= 10
    assert len(server.requests) == len(asked)
    assert max(record.inference_ms or 0.0 for record in records) < 10.5  # the fake head's ten


def test_without_probes_it_stays_alone_and_silent() -> None:
    async def scenario() -> FakeServer:
        server = fake()
        device = await started(server, 100.0, plan=PlanConfig(probe_s=0.0), profile=BOARD)
        await DeviceRun(device, assignment(arrivals=ask(300, 0.1))).run()
        return server

    assert len(virtual_time.run(scenario()).requests) == 1  # joining


def test_closing_ends_what_is_on_its_way() -> None:
    async def scenario() -> bool:
        server = fake()
        device = await started(server, 100.0, plan=PlanConfig(probe_s=1.0), profile=BOARD)
        server.script.append("hang")
        for _ in range(30):
            await asyncio.sleep(0.1)
            device.cut.reconsider(None)
        assert device.cut._probing is not None and not device.cut._probing.done()
        await device.close()
        return device.cut._probing.done()

    assert virtual_time.run(scenario())
