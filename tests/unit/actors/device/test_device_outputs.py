"""Devices that ask for outputs: whoever computes them, they are the same, or the device does not start.

Devices compute on real slices, so the clock is real; where only starting matters, it is virtual.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actors.device.config import DeviceConfig, PlanConfig
from actors.device.device import Device
from actors.device.virtual import Crowd
from actors.fleet.config import parse_fleet
from actors.network.client import LinkedServer
from actors.network.emulated_link import EmulatedLink
from actors.testing.fake_server import FakeServer
from slicer.core.device.device_run import DeviceRun
from slicer.core.heads.head_runtime import Computed
from slicer.core.planning.cut_planner import Choice
from slicer.core.protocol.messages import Answer, Reply, Request, ServedModel, answer_bytes
from slicer.core.protocol.outputs import Outputs
from slicer.core.records.assignment import Capture
from slicer.core.records.record import Record
from slicer.errors import ConfigError
from tests.unit import virtual_time
from tests.unit.actors.device import test_device as fakes
from tests.unit.actors.device.test_head import Exported, N, config, emulated, rows_of

TWO = ("logits", "features")
FAST = emulated(slices_ms=[{"mean": 0.4, "std": 0.1}] * N)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return Exported(tmp_path_factory.mktemp("outputs"), outputs=["features", "tokens"])


class OutputServer(FakeServer):
    """Answers with the outputs that it is asked for, in a row of 10, 24 and 17 x 24 numbers."""

    def __init__(self, exported: Exported, **more: Any) -> None:
        super().__init__({"small": exported.served}, shards=exported.content, **more)
        self.outputs = exported.manifest.outputs

    async def infer(self, requests: Sequence[Request]) -> list[Answer]:
        return [self.with_outputs(*pair) for pair in zip(requests, await super().infer(requests), strict=True)]

    def with_outputs(self, request: Request, answer: Answer) -> Answer:
        if not isinstance(answer, Reply) or not request.outputs:
            return answer
        row = np.arange(sum(one.size for one in self.outputs), dtype="<f4")
        parts = tuple(
            (one.name, one.shape, one.of(row).tobytes()) for one in self.outputs if one.name in request.outputs
        )
        return replace(answer, top_k=(), outputs=parts)


class Noting(Device):
    """Keeps what it receives."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.got: list[Outputs] = []

    def received(self, record: Record, outputs: Outputs) -> None:
        assert record.finished_s is None, "its record is closed afterwards"
        self.got.append(outputs)


def go(exported: Exported, server: FakeServer, tmp_path: Path, **keys: Any) -> tuple[Record, list[Outputs]]:
    """One image of a device on real slices."""

    async def scenario() -> tuple[Record, list[Outputs]]:
        device = Noting(config(tmp_path, **keys), server)
        await device.start()
        assignment = fakes.assignment(images=tuple(exported.images[:2]), arrivals=(Capture(0.0, 0),))
        (record,) = await DeviceRun(device, assignment).run()
        await device.close()
        return record, device.got

    return asyncio.run(scenario())


def test_the_servers_outputs_are_received_and_counted(exported: Exported, tmp_path: Path) -> None:
    server = OutputServer(exported)
    record, (got,) = go(exported, server, tmp_path, cut=1, outputs=TWO)
    assert server.requests[-1].outputs == TWO
    assert {name: values.shape for name, values in got.items()} == {"logits": (10,), "features": (24,)}
    assert got["features"].tolist() == list(range(10, 34))
    assert (record.outcome, record.top1, record.answer_bytes) == ("answered", 9, 4 * 34)


def test_without_logits_there_is_no_class(exported: Exported, tmp_path: Path) -> None:
    record, (got,) = go(exported, OutputServer(exported), tmp_path, cut=1, outputs=("tokens",))
    assert (record.outcome, record.top1, list(got)) == ("answered", None, ["tokens"])
    record, (got,) = go(exported, OutputServer(exported), tmp_path, cut=N, outputs=("tokens",))
    assert (record.outcome, record.top1, list(got)) == ("answered", None, ["tokens"])


@pytest.mark.parametrize("keys", [{"cut": N}, {"cut": 2, "alone": "tail"}], ids=["cut n", "alone"])
def test_what_the_device_computes_by_itself_are_the_servers_outputs(
    keys: dict[str, Any], exported: Exported, tmp_path: Path
) -> None:
    server = OutputServer(exported)
    server.script.extend(["vanish"] * 9)
    record, (got,) = go(exported, server, tmp_path, outputs=TWO, **keys)
    want = rows_of(exported, exported.images[0])
    assert list(got) == list(TWO)
    for name in TWO:
        np.testing.assert_array_equal(got[name], want[name])
    assert (record.outcome, record.answer_bytes) == ("answered", 0)
    assert record.top1 == int(want["logits"].argmax())
    assert bool(record.alone) == ("alone" in keys)


def test_a_virtual_device_replays_the_outputs(exported: Exported, tmp_path: Path) -> None:
    async def scenario() -> list[Outputs]:
        crowd = Crowd()
        device = Noting(
            config(tmp_path, cut=N, outputs=TWO, profile=FAST, virtual=True),
            OutputServer(exported),
            load=crowd.load,
        )
        await device.start()
        assignment = fakes.assignment(images=tuple(exported.images[:2]), arrivals=(Capture(0.0, 0), Capture(0.0, 0)))
        await DeviceRun(device, assignment).run()
        crowd.close()
        return device.got

    got = asyncio.run(scenario())
    want = rows_of(exported, exported.images[0])
    for outputs in got:
        np.testing.assert_array_equal(outputs["features"], want["features"])
    assert len(got) == 2


def test_a_device_whose_server_has_not_these_outputs_does_not_start(exported: Exported, tmp_path: Path) -> None:
    plain = Exported(tmp_path / "plain")
    server = FakeServer({"small": plain.served}, shards=plain.content)
    with pytest.raises(ConfigError, match=r"'small' of this server has logits, not features; serve it with --outputs"):
        go(plain, server, tmp_path, cut=1, outputs=("features",))
    assert server.requests == []


class LogitsAlone(fakes.FakeRuntime):
    """A runtime that knows nothing of outputs."""


class Features(LogitsAlone):
    """One that says it gives features, and fills them in."""

    outputs = TWO

    async def compute(self, image: str, choice: Choice) -> Computed:  # type: ignore[override]
        computed = await super().compute(image, choice)
        return (
            replace(computed, outputs={name: np.ones(2, np.float32) for name in TWO}) if choice.cut == N else computed
        )


@pytest.mark.parametrize(
    ("keys", "why"),
    [({"cut": N}, "cut"), ({"cut": 1, "alone": "tail"}, "alone"), ({"cut": 1, "plan": PlanConfig()}, "plan"), ({}, "")],
)
@pytest.mark.parametrize("runtime", [LogitsAlone, Features])
def test_a_runtime_that_may_have_to_give_outputs_and_cannot_does_not_start(
    runtime: type[LogitsAlone], keys: dict[str, Any], why: str, exported: Exported, tmp_path: Path
) -> None:
    async def load(served: ServedModel, config: DeviceConfig, get: object) -> Any:
        return runtime(served, config)

    async def start() -> None:
        made = config(tmp_path, **{"cut": 1, "outputs": TWO, **keys})
        await Device(made, OutputServer(exported), load=load, clock=virtual_time.VirtualClock()).start()

    if why and runtime is LogitsAlone:
        with pytest.raises(ConfigError, match=rf"whole model \({why}\).*LogitsAlone does not give features then"):
            virtual_time.run(start())
    else:
        virtual_time.run(start())


def test_an_own_class_that_computes_all_and_fills_no_outputs_gives_no_wrong_answer(
    exported: Exported, tmp_path: Path
) -> None:
    class Own(Noting):
        async def compute(self, image: str, choice: Choice) -> Computed:
            return replace(await super().compute(image, choice), outputs=None)

    async def scenario() -> tuple[Record, list[Outputs]]:
        device = Own(config(tmp_path, cut=N, outputs=TWO), OutputServer(exported))
        await device.start()
        (record,) = await DeviceRun(
            device, fakes.assignment(images=tuple(exported.images[:2]), arrivals=(Capture(0.0, 0),))
        ).run()
        await device.close()
        return record, device.got

    record, got = asyncio.run(scenario())
    assert (record.outcome, record.code, got) == ("refused", "device", [])
    assert "must fill Computed.outputs" in record.message


def test_a_server_that_answers_with_other_outputs_is_not_believed(exported: Exported, tmp_path: Path) -> None:
    server = FakeServer({"small": exported.served}, shards=exported.content)  # classes, whatever is asked
    record, got = go(exported, server, tmp_path, cut=1, outputs=TWO)
    assert (record.outcome, got) == ("lost", [])
    assert "answered with outputs none, not logits, features" in record.message


def test_joining_learns_the_way_down_by_a_second_request(exported: Exported, tmp_path: Path) -> None:
    async def scenario() -> tuple[FakeServer, Any]:
        server = OutputServer(exported)
        clock = virtual_time.VirtualClock()
        link = EmulatedLink(mbit_per_s=8.0, down_mbit_per_s=0.8, delay_ms=5.0, clock=clock)
        keys: dict[str, Any] = {"cut": 1, "outputs": ("tokens",), "plan": PlanConfig(), "profile": emulated()}
        device = Device(config(tmp_path, **keys), LinkedServer(server, link), clock=clock)
        await device.start()
        await device.close()
        return server, device.cut.planner

    server, planner = virtual_time.run(scenario())
    first, second = server.requests
    assert (first.outputs, second.outputs) == ((), ("tokens",))
    assert planner.answer_bytes == answer_bytes(server.with_outputs(second, Reply("", None)))  # type: ignore[arg-type, attr-defined]
    # 1,632 bytes down at 100 kB/s; the first answer carried a class of some bytes.
    assert planner.link.view.down_bytes_per_s == pytest.approx(1e5, rel=0.05)


def test_the_fleet_file_names_outputs_that_there_are_and_none_of_another_model() -> None:
    def fleet(**keys: Any) -> Any:
        return parse_fleet({"groups": [{"name": "camera", "cut": 1, **keys}]})

    made = fleet(outputs=["tokens", "logits", "tokens"], alone="tail")
    assert made.devices(made.groups[0])[0].outputs == ("logits", "tokens")
    with pytest.raises(
        ConfigError, match=r"unknown output 'feature'; did you mean 'features'\?.*logits, features, tokens"
    ):
        fleet(outputs=["feature"])
    with pytest.raises(ConfigError, match=r"outputs features with alone: digits_swin.*alone: tail"):
        fleet(outputs=["features"], alone="digits_swin")
