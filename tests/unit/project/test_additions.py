"""CONTRIBUTING's table "to add X, touch Y": each addition is made here as it says, and what users see follows."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest
from pydantic import model_validator

from actors.device.config import DeviceConfig
from actors.device.device import Device
from actors.fleet.config import parse_fleet
from actors.network.client import Kept, LinkedServer
from actors.network.link import DirectLink
from actors.network.parcels import Parcels
from actors.network.serve_transport import ServeTransport
from actors.report import report_tables
from actors.report.tables import Column, number
from actors.testing.fake_server import FakeServer
from deployments.config import ServerConfig, parse_config
from deployments.doctor import checks
from deployments.doctor.checks import Facts, Finding
from deployments.executors.registry import EXECUTORS, make_executor
from deployments.replica.ingress.http_ingress import Ingress
from deployments.replica.tail_server import TailServer
from deployments.scheduling import registry
from deployments.scheduling.registry import Strategy
from deployments.scheduling.scheduler import Row, Step
from deployments.testing.fakes import FakeExecutor, answer_of, rows_at
from slicer.core.codecs import activations
from slicer.core.codecs.floats import Fp32
from slicer.core.codecs.registry import CODECS, register
from slicer.core.device.device_run import DeviceRun
from slicer.core.heads.head_runtime import Computed, GetShard, HeadRuntime
from slicer.core.network.http_transport import HttpTransport
from slicer.core.network.server import Server
from slicer.core.planning.cut_planner import Choice
from slicer.core.planning.link_presets import PRESETS, LinkPreset
from slicer.core.protocol import endpoints
from slicer.core.protocol.endpoints import Endpoint
from slicer.core.protocol.messages import Answer, Refusal, Request, ServedModel
from slicer.core.records.assignment import Assignment
from slicer.errors import ConfigError, HeadTailError, ModelError
from slicer.profiles.device_profile import NATIVE
from tests.paths import ROOT
from tests.unit.actors.report.test_result import two_strategies
from tests.unit.asgi import served
from tests.unit.deployments.doctor.test_doctor import GOOD


def fleet(**group: object) -> object:
    return parse_fleet({"groups": [{"name": "g", "cut": 1, **group}]})


def test_a_codec_is_a_class_and_a_registration() -> None:
    class Twice(Fp32):
        """fp32 under another name."""

        name = "twice"

    with pytest.raises(ConfigError, match="unknown codec 'twice'"):
        fleet(codec="twice")
    with mock.patch.dict(CODECS):
        register(Twice())
        fleet(codec="twice")
        activation = np.float32([[1.5, -2.0]])
        payload = activations.encode("twice", activation)
        assert (activations.decode_batch("twice", [payload], (1, 2))[0] == activation).all()


def test_a_strategy_is_a_class_and_an_entry() -> None:
    added = Strategy("newest", "deployments.scheduling.simple:Unbatched", summary="the newest first", when="in tests")
    with mock.patch.dict(registry.SHIPPED, {"newest": added}):
        assert parse_config({"models": [{"name": "digits_vit", "strategy": "newest"}]}).models[0].strategy == "newest"
    with pytest.raises(ConfigError, match="newest"):
        parse_config({"models": [{"name": "digits_vit", "strategy": "newest"}]})


#: Reads the registry's source with one entry more, before anything else is imported, and prints by place where a user
#: or a benchmark meets the names of strategies what it says.
WITH_ONE_MORE = """
import importlib.util, json, sys
import click
name = "deployments.scheduling.registry"
spec = importlib.util.find_spec(name)
source = open(spec.origin, encoding="utf-8").read()
before = "    for strategy in (\\n"
assert before in source
added = 'Strategy("newest", "deployments.scheduling.simple:Unbatched", summary="the newest first", when="in tests"),'
module = importlib.util.module_from_spec(spec)
sys.modules[name] = module
exec(compile(source.replace(before, before + added), spec.origin, "exec"), module.__dict__)

from actors.cli import load_command as load
from benchmarks.accelerator import gpu, simulate, validate
from benchmarks.goodput import goodput
from benchmarks.paper import paper
from deployments import cli as serve
from deployments.config import parse_config
from slicer.errors import ConfigError

try:
    parse_config({"models": [{"name": "m", "strategy": "x"}]})
except ConfigError as error:
    refused = str(error)
print(json.dumps({
    "a refused server file": refused,
    "headtail serve --help": serve.command.get_help(click.Context(serve.command)),
    "headtail load --strategy all": load.strategies_of("all", None),
    "headtail load --demo": load.DEMO["strategy"],
    **{made.__name__: made.parser().get_default("strategies") for made in (goodput, paper, simulate, validate)},
    "benchmarks.accelerator.gpu": gpu.parser().parse_args(["--out", "x"]).strategies,
}))
"""


def test_a_new_strategy_appears_wherever_strategies_are_listed() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITH_ONE_MORE], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert len(said) == 9
    assert [place for place, names in said.items() if "newest" not in names] == []


def test_the_guide_to_strategies_says_of_each_when_to_take_it() -> None:
    text = (ROOT / "docs/strategies.md").read_text(encoding="utf-8")
    choice = text[text.index("## Which to choose") : text.index("## What was measured")]
    assert [name for name in registry.STRATEGIES if f"`{name}`" not in choice] == []


GREET = Endpoint(
    name="greet",
    arguments={"whom": str, "times": int},
    answer=str,
    encode=str.encode,
    decode=bytes.decode,
    content_type="text/plain",
    refused="does not greet {whom}",
    error=ModelError,
    raises={KeyError: 404, ValueError: 400},
    payload_bytes=len,
)


class Greeter:
    """`TailServer`'s part of it."""

    async def infer_parcel(self, requests: list[Request]) -> list[Answer]:
        return []

    async def check_health(self) -> None:
        pass

    async def greet(self, whom: str, times: int) -> str | Refusal:
        if whom == "nobody":
            raise KeyError("there is nobody")
        return Refusal("", "failed", "once is enough") if times > 2 else " ".join(["hello", whom] * times)


async def greet(server: Server, whom: str, times: int) -> str:
    """The client's part of it."""
    return await server.ask(GREET, whom, times)


@contextlib.asynccontextmanager
async def by_http() -> AsyncIterator[Server]:
    """The transport, against the ingress."""
    async with served(Ingress(Greeter(), token="secret")) as url:
        transport = HttpTransport(url, "secret")
        yield transport
        await transport.close()


@contextlib.asynccontextmanager
async def by_handle() -> AsyncIterator[Server]:
    """The transport, with a handle that Serve did not make."""
    transport = ServeTransport("app")
    transport._handle = SimpleNamespace(greet=SimpleNamespace(remote=Greeter().greet))
    yield transport


@pytest.mark.parametrize("way", [by_http, by_handle])
def test_an_endpoint_is_a_declaration_and_a_method_on_each_side(
    way: Callable[[], contextlib.AbstractAsyncContextManager[Server]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Server, "greet", greet, raising=False)

    async def use() -> None:
        async with way() as transport:
            device: Any = LinkedServer(Kept(Parcels(transport)), DirectLink())
            assert await device.greet("you & me/ü?", 2) == "hello you & me/ü? hello you & me/ü?"
            with pytest.raises(ModelError, match="does not greet you: once is enough"):
                await device.greet("you", 3)
            with pytest.raises(HeadTailError, match="there is nobody"):
                await device.greet("nobody", 1)

    endpoints.ENDPOINTS.append(GREET)
    try:
        asyncio.run(use())
    finally:
        endpoints.ENDPOINTS.remove(GREET)


@pytest.mark.parametrize("endpoint", endpoints.ENDPOINTS, ids=lambda endpoint: endpoint.name)
@pytest.mark.parametrize("side", [TailServer, Server])
def test_the_methods_take_what_the_declaration_says(endpoint: Endpoint[Any], side: type) -> None:
    _, *parameters = inspect.signature(endpoint.method_of(side), eval_str=True).parameters.values()
    assert {parameter.name: parameter.annotation for parameter in parameters} == endpoint.arguments


def test_an_executor_is_a_class_and_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    class Counted(FakeExecutor):
        """Called as every executor is: with device, threads and the options."""

        def __init__(self, device: str, threads: int | None, *, most: int) -> None:
            super().__init__()
            self.most = most

    written: dict[str, Any] = {"models": [{"name": "digits_vit"}], "executor": "counted"}
    with pytest.raises(ConfigError, match="unknown executor 'counted'"):
        parse_config(written)
    monkeypatch.setitem(sys.modules, "counted", SimpleNamespace(Counted=Counted))
    with mock.patch.dict(EXECUTORS, {"counted": "counted:Counted"}):  # type: ignore[arg-type]
        executor = make_executor(parse_config(written).executor, device="cpu", options={"most": 3})
        with pytest.raises(ConfigError, match="missing a required argument: 'most'"):
            make_executor("counted", device="cpu")
    assert isinstance(executor, Counted) and executor.most == 3
    row = Row(key=0, model="m", entry=1, arrival_s=0.0)
    executor.put("m", [row], rows_at(17.0))
    executor.run(Step("m", "shared", start=1, end=4, rows=(row,)))
    assert executor.take([row]).tolist() == [answer_of(17.0, entry=1, num_slices=4)]


class Means:
    """A `HeadRuntime` that sends every image's mean and knows no torch."""

    def __init__(self, served: ServedModel, cut: int) -> None:
        self.manifest, self.num_slices, self.loaded = served.manifest, served.num_slices, cut
        self.size_bytes, self.slices_ms = 5, (1.5,) * cut

    async def compute(self, image: str, choice: Choice) -> Computed:
        mean = np.float32([0.5])
        return Computed(self.manifest, mean.shape, mean.tobytes(), None, 0.1, 0.0, cut=choice.cut)

    async def finish(self, computed: Computed, image: str) -> Computed:
        raise NotImplementedError("this device does not go on alone")

    async def extend(self, count: int) -> None:
        self.loaded = count

    async def trim(self, count: int) -> None:
        self.loaded = min(self.loaded, count)

    async def rehearse(self) -> None: ...

    def reseed(self, seed: str) -> None: ...

    def close(self) -> None: ...


def test_a_device_back_end_is_a_class_and_how_it_is_loaded() -> None:
    async def load(served: ServedModel, config: DeviceConfig, get: GetShard) -> HeadRuntime:
        return Means(served, config.cut)

    async def use() -> None:
        server = FakeServer({"m": ServedModel("m", "digest", "{}", 4, (0, 1, 2, 3), "per_tail", ("fp32",))})
        config = DeviceConfig(
            name="d", group="g", model="m", cut=2, profile=NATIVE, cache_directory="", cache_max_bytes=0
        )
        device = Device(config, server, load=load)
        await device.start()
        assignment = Assignment("single", ("image.png",), (None,), warmup=(0,), top_k=1)
        answers, records = await DeviceRun(device, assignment).warm_up()
        assert (answers, records[0].outcome) == ([((2, 1.0),)], "answered")
        assert [(request.cut, request.payload) for request in server.requests] == [(2, np.float32(0.5).tobytes())]
        assert (device.head_bytes, device.slices_ms) == (5, (1.5, 1.5))
        await device.close()

    asyncio.run(use())


def test_a_check_of_a_file_is_a_validator(monkeypatch: pytest.MonkeyPatch) -> None:
    class Checked(ServerConfig):
        """Refuses what a key's range cannot say."""

        @model_validator(mode="after")
        def _even(self) -> Checked:
            if self.num_replicas % 2:
                raise ValueError(f"num_replicas={self.num_replicas} is odd; take an even number")
            return self

    monkeypatch.setattr("deployments.config.ServerConfig", Checked)
    with pytest.raises(ConfigError, match="num_replicas=3 is odd; take an even number"):
        parse_config({"models": [{"name": "digits_vit"}], "num_replicas": 3})


def test_a_check_of_a_machine_is_a_function_and_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def check_name(facts: Facts) -> Iterator[Finding]:
        for node in facts.living:
            yield Finding("warn", "name", node.name, "has a short name", "give it a longer one")

    monkeypatch.setattr(checks, "CHECKS", (*checks.CHECKS, check_name))
    assert checks.examine(Facts([GOOD]))[-1] == Finding("warn", "name", "a", "has a short name", "give it a longer one")


def test_a_link_preset_is_an_entry() -> None:
    with pytest.raises(ConfigError, match="unknown link 'barge'"):
        fleet(link="barge")
    with mock.patch.dict(PRESETS, {"barge": LinkPreset(0.1, 0.1, 9e4, 0.0, 0.0, "a tape on a barge")}):
        fleet(link="barge")


def test_a_column_of_the_report_is_an_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    column = Column("asked/s", lambda row: row.summary.requests / 2, number, "1/s")
    monkeypatch.setattr(report_tables, "_PER_STRATEGY", (*report_tables._PER_STRATEGY, column))
    first = report_tables.tables(two_strategies())[0]
    assert first.header[-1] == "asked/s"
    assert all(row[-1] for row in first.rows)
