"""CONTRIBUTING's table "to add X, touch Y": each addition is made here as it says, and what users see follows."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest

from actors.fleet.config import parse_fleet
from actors.network.client import Kept, LinkedServer, Server
from actors.network.http_transport import HttpTransport
from actors.network.link import DirectLink
from actors.network.parcels import Parcels
from actors.network.serve_transport import ServeTransport
from actors.report import report_tables
from actors.report.tables import Column, number
from deployments.config import parse_config
from deployments.replica.http_ingress import Ingress
from deployments.replica.tail_server import TailServer
from deployments.scheduling import registry
from deployments.scheduling.registry import Strategy
from slicer.codecs import activations
from slicer.codecs.floats import Fp32
from slicer.codecs.registry import CODECS, register
from slicer.errors import ConfigError, HeadTailError, ModelError
from slicer.planning.link_presets import PRESETS, LinkPreset
from slicer.protocol import endpoints
from slicer.protocol.endpoints import Endpoint
from slicer.protocol.messages import Answer, Refusal, Request
from tests.unit.actors.report.test_result import two_strategies
from tests.unit.asgi import served


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
