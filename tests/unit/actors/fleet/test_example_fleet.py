"""The examples of an own link and an own device, loaded by name from a fleet as a user would."""

from __future__ import annotations

import asyncio

import pytest

from actors.device.device import Device
from actors.fleet.config import parse_fleet
from actors.fleet.device_actor import device_class
from actors.network.client import LinkedServer
from actors.network.link import make_link
from actors.testing.fake_server import FakeServer
from slicer.core.device.device_run import DeviceRun
from slicer.core.records.assignment import Capture
from slicer.core.records.record import Record
from tests.unit import virtual_time
from tests.unit.actors.device.test_device import HEAD_S, VirtualDevice, assignment, config, fake_server, make

LINK = {"link": "examples.own_link:ThinLink", "link_options": {"rate_mbps": 1.0, "delay_ms": 5.0}}


def test_the_own_link_makes_bytes_wait_for_each_other() -> None:
    async def scenario() -> list[float]:
        link = make_link(LINK["link"], LINK["link_options"])  # type: ignore[arg-type]
        assert link.emulated == "1 Mbit/s, 5 ms"
        done: list[float] = []

        async def send(size_bytes: int) -> None:
            await link.send(size_bytes)
            done.append(asyncio.get_running_loop().time())

        await asyncio.gather(send(1250), send(1250), link.receive(1250))
        return done

    # 1250 bytes are 10 ms at 1 Mbit/s; the second waits for the first, both are 5 ms on their way.
    assert virtual_time.run(scenario()) == pytest.approx([0.015, 0.025])


def test_the_own_links_time_is_in_the_network_phase() -> None:
    async def scenario() -> list[Record]:
        group = parse_fleet({"groups": [{"name": "cam", "cut": 2, **LINK}]}).groups[0]
        linked = LinkedServer(fake_server(), make_link(group.link, group.link_options))
        device = make(linked)  # type: ignore[arg-type]
        await device.start()
        return await DeviceRun(device, assignment(arrivals=(Capture(0.0, 0),))).run()

    (record,) = virtual_time.run(scenario())
    assert record.outcome == "answered"
    assert record.network_ms is not None
    assert record.network_ms > 10.0  # twice the delay, and the bytes


def test_the_own_device_rests_after_each_head() -> None:
    own = device_class("examples.own_device:FanlessDevice")

    class VirtualOwn(own, VirtualDevice):  # type: ignore[misc, valid-type]
        """The example above the virtual device, whose head takes HEAD_S."""

    async def scenario() -> list[Record]:
        server: FakeServer = fake_server()
        device: Device = VirtualOwn(config(), server, load=make(server)._load, clock=virtual_time.VirtualClock())
        await device.start()
        return await DeviceRun(device, assignment(arrivals=(Capture(0.0, 0), Capture(0.0, 1)))).run()

    first, second = virtual_time.run(scenario())
    assert first.outcome == second.outcome == "answered"
    assert second.wait_ms == pytest.approx(2 * HEAD_S * 1e3)
