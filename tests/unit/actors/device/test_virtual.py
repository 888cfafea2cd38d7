"""Virtual devices: what they share is the work, and nothing that can be measured."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch

from actors.device.device import Device
from actors.device.virtual import Crowd
from actors.fleet.config import parse_fleet
from actors.testing.fake_server import FakeServer
from slicer.core.device.answer import RequestOptions
from slicer.core.planning.cut_planner import Choice
from slicer.core.protocol.messages import Request
from slicer.core.records.record import Record
from slicer.errors import ConfigError
from slicer.profiles.device_profile import NATIVE
from slicer.shards.load import load_span
from tests.unit.actors.device.test_head import Exported, N, config, decoded, emulated, whole


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return Exported(tmp_path_factory.mktemp("crowd"))


FAST = emulated(slices_ms=[{"mean": 0.4, "std": 0.1}] * N, preprocess_ms={"mean": 0.2, "std": 0.05})


def server_of(exported: Exported) -> FakeServer:
    tails = {cut: load_span(exported.directory, cut, N) for cut in range(N)}

    def answer(request: Request) -> tuple[tuple[int, float], ...]:
        with torch.inference_mode():
            row = decoded(request.codec, request.payload, request.shape)
            return ((int(tails[request.cut](row)[0].argmax()), 1.0),)

    return FakeServer({"small": exported.served}, answer=answer, shards=exported.content)


async def answered(device: Device, image: str, number: int = 0) -> Record:
    record = Record(f"r/{number}", device.config.name, "cam", device.config.cut, 0, None, 0.0)
    await device.answer(image, record, device.clock.now_s(), RequestOptions())
    return record


def test_a_crowd_of_mixed_cuts_gives_the_unsliced_models_answers_and_computes_each_image_once(
    exported: Exported, tmp_path: Path
) -> None:
    async def scenario() -> tuple[list[Record], Crowd, int]:
        crowd, server = Crowd(), server_of(exported)
        devices = [
            Device(config(tmp_path, name=f"v-{i}", cut=i % (N + 1), profile=FAST), server, load=crowd.load)
            for i in range(20)
        ]
        await asyncio.gather(*(device.start() for device in devices))
        heads: list[tuple[str, Choice]] = []
        for head in crowd._heads.values():
            compute = head.compute

            def counted(image: str, choice: Choice, compute: Any = compute) -> Any:
                heads.append((image, choice))
                return compute(image, choice)

            head.compute = counted  # type: ignore[method-assign]
        asked = [(device, image) for image in exported.images for device in devices]
        records = await asyncio.gather(*(answered(device, image, i) for i, (device, image) in enumerate(asked)))
        for device in devices:
            await device.close()
        crowd.close()
        assert len(heads) == len(set(heads)) == len(exported.images) * (N + 1)
        return list(records), crowd, len(devices)

    records, crowd, count = asyncio.run(scenario())
    assert [record.outcome for record in records] == ["answered"] * len(records), records[0].message
    for index, record in enumerate(records):
        assert record.top1 == int(whole(exported, exported.images[index // count]).argmax())
    assert len(crowd._heads) == 1  # one copy of the slices for all


@pytest.mark.long
def test_a_virtual_device_draws_the_times_that_a_device_of_its_own_draws(exported: Exported, tmp_path: Path) -> None:
    slow = emulated(slices_ms=[{"mean": 15.0, "std": 5.0}] * N, preprocess_ms={"mean": 10.0, "std": 2.0})

    async def drawn(make: Any) -> list[tuple[float, ...]]:
        device = make(config(tmp_path, cut=2, profile=slow, seed=3), server_of(exported))
        await device.start()
        device.begin("run-1")
        computed = [await device.compute(exported.images[0], Choice(2, "fp32")) for _ in range(3)]
        await device.close()
        return [(one.prepare_ms, *one.slices_ms) for one in computed]

    single = asyncio.run(drawn(Device))
    crowd = asyncio.run(drawn(lambda c, s: Device(c, s, load=Crowd().load)))
    assert crowd == single


def test_a_virtual_device_takes_its_profiles_time(exported: Exported, tmp_path: Path) -> None:
    slow = emulated(slices_ms=[{"mean": 30.0, "std": 0.0}] * N)

    async def scenario() -> Record:
        device = Device(config(tmp_path, cut=2, profile=slow), server_of(exported), load=Crowd().load)
        await device.start()
        await answered(device, exported.images[0])  # computes
        record = await answered(device, exported.images[0])
        await device.close()
        return record

    record = asyncio.run(scenario())
    assert record.head_ms is not None
    assert 60.0 <= record.head_ms < 120.0


def test_what_is_kept_for_replay_is_bounded(exported: Exported, tmp_path: Path) -> None:
    async def scenario() -> int:
        crowd = Crowd(kept_bytes=1)
        device = Device(config(tmp_path, cut=2, profile=FAST), server_of(exported), load=crowd.load)
        await device.start()
        for image in exported.images * 2:
            assert (await answered(device, image)).outcome == "answered"
        await device.close()
        return len(crowd._results)

    assert asyncio.run(scenario()) == 1


def test_virtual_devices_need_a_profile_and_live_together(exported: Exported, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="emulated profile"):
        asyncio.run(Crowd().load(exported.served, config(tmp_path, profile=NATIVE), exported.get))
    group = {"name": "v", "count": 7, "cut": 1, "virtual": True, "per_actor": 3}
    with pytest.raises(ConfigError, match="emulated profile"):
        parse_fleet({"groups": [group]})
    fleet = parse_fleet({"groups": [{**group, "profile": "fast-board"}]})
    assert [len(process) for process in fleet.processes(fleet.groups[0])] == [3, 3, 1]
    alone = parse_fleet({"groups": [{**group, "profile": "fast-board", "virtual": False}]})
    assert [len(process) for process in alone.processes(alone.groups[0])] == [1] * 7
