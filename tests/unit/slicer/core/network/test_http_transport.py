"""The HTTP transport against a server on the loopback interface: what it sends, and what becomes of every failure."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
from aiohttp import web

from actors.fleet.config import GroupConfig
from actors.network.auto_transport import AutoTransport, make_transport
from actors.network.serve_transport import ServeTransport
from slicer.core.network.http_transport import HttpTransport, check_application
from slicer.core.protocol import packet
from slicer.core.protocol.messages import Answer, Refusal, Reply, Request, ServedModel, Timings
from slicer.core.protocol.oip import http_body, http_writing
from slicer.core.protocol.oip.requests import rows_of
from slicer.core.protocol.oip.responses import response_of
from slicer.core.protocol.oip.tensors import InferRequest, InferResponse
from slicer.core.protocol.outputs import LOGITS, packed
from slicer.errors import ConfigError, ModelError, ServerError, ShardError

MODEL = ServedModel("m", "d", "{}", 4, (0, 1), "per_slice", ("fp32",))
Use = Callable[[HttpTransport], Awaitable[object]]


FACTS = SimpleNamespace(name="m", digest="d", shapes=((4,), (2,), (1,)), outputs=packed([(LOGITS, (1,))]), labels=())


def request(name: str, size: int = 8, top_k: int | None = 1) -> Request:
    return Request(name, "m", "d", 1, "fp32", (size // 4,), b"x" * size, top_k)


def answer_to(infer: InferRequest) -> InferResponse | Refusal:
    """One class, whose logit is the payload's length."""
    if infer.id == "bad":
        return Refusal(infer.id, "bad_cut", "no", "s")
    (row,) = rows_of(infer, FACTS)
    logits = np.array([len(row.payload)], "<f4").tobytes()
    return response_of(infer, FACTS, [Reply(infer.id, Timings(1.0, 1.0, 1.0, 3.0, (1,)), (), logits, (1,), "s")])


def body_of(body: bytes, json_bytes: int | None) -> web.Response:
    return web.Response(body=body, headers={http_body.LENGTH_HEADER: str(json_bytes)} if json_bytes else {})


async def infer(http: web.Request) -> web.Response:
    assert http.headers["x-request-disconnect-disabled"] == "?1"  # Serve itself need not watch
    model, length = http.match_info["model"], http.headers[http_body.LENGTH_HEADER]
    asked = http_body.decode_request(await http.read(), length, model)
    if asked.id == "text":
        return web.Response(body=b"hello")
    response = answer_to(asked)
    if isinstance(response, Refusal):
        return web.json_response(http_writing.refusal_json(response), status=400)
    return body_of(*http_writing.encode_response(response, asked))


async def parcel(http: web.Request) -> web.Response:
    asked = http_body.decode_parcel(await http.read(), http.headers[http_body.LENGTH_HEADER])
    if asked[0].id == "short":
        asked = asked[:1]
    if asked[0].id == "text":
        return web.Response(body=b"hello")
    return body_of(*http_writing.encode_responses([answer_to(one) for one in asked], asked))


async def describe(http: web.Request) -> web.Response:
    if http.query["model"] != "m":
        return web.json_response({"error": "there is m"}, status=404)
    return web.json_response(packet.encode_model(MODEL))


async def shard(http: web.Request) -> web.Response:
    if http.match_info["sha256"] != "abc":
        return web.json_response({"error": "no such shard"}, status=404)
    start, length = int(http.query["offset"]), int(http.query["length"])
    return web.Response(body=bytes(range(100))[start : start + length])


@web.middleware
async def token(
    http: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    if http.headers.get("Authorization") != "Bearer secret":
        response: web.StreamResponse = web.json_response({"error": "a missing or wrong token"}, status=401)
    else:
        response = await handler(http)
    response.headers[packet.SERVER_HEADER] = "1"
    return response


def against(use: Use, given: str = "secret") -> object:
    """`use` with a transport to a server that runs meanwhile."""

    async def run() -> object:
        app = web.Application(middlewares=[token], client_max_size=64 << 20)
        app.router.add_post("/headtail/v2/models/{model}/infer", infer)
        app.router.add_post("/headtail/v2/parcel", parcel)
        app.router.add_get("/headtail/describe", describe)
        app.router.add_get("/headtail/shard/{sha256}", shard)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        transport = HttpTransport(f"http://127.0.0.1:{runner.addresses[0][1]}/headtail/", given)
        try:
            return await use(transport)
        finally:
            await transport.close()
            await runner.cleanup()

    return asyncio.run(run())


def test_one_request_and_a_parcel_are_answered_in_order() -> None:
    async def use(transport: HttpTransport) -> None:
        [one] = await transport.infer([request("a")])
        assert isinstance(one, Reply) and (one.id, one.top_k, one.server) == ("a", ((0, 8.0),), "s")
        assert one.timings == Timings(1.0, 1.0, 1.0, 3.0, (1,))
        many = await transport.infer([request("a", top_k=None), request("bad"), request("c", 2 << 20)])
        assert [answer.id for answer in many] == ["a", "bad", "c"]
        first, refused, large = many
        assert isinstance(first, Reply) and (first.logits_shape, first.top_k) == ((1,), ())
        assert np.frombuffer(first.logits, "<f4").tolist() == [8.0]
        assert refused == Refusal("bad", "bad_cut", "no", "s")
        assert isinstance(large, Reply) and large.top_k == ((0, 2 << 20),)
        assert await transport.infer([request("bad")]) == [refused]

    against(use)


@pytest.mark.parametrize("name", ["a/b", "..", "m/versions/1", "m?x=1", "é", "100%", ""])
def test_a_name_that_no_path_can_hold_arrives_as_it_is(name: str) -> None:
    async def use(transport: HttpTransport) -> None:
        (answer,) = await transport.infer([replace(request("a"), model=name)])
        assert isinstance(answer, Reply)

    with mock.patch.object(FACTS, "name", name):
        against(use)


def test_describe_and_shard() -> None:
    async def use(transport: HttpTransport) -> None:
        assert await transport.describe("m") == MODEL
        assert await transport.shard("abc", 3, 2) == b"\x03\x04"
        with pytest.raises(ModelError, match="there is m"):
            await transport.describe("x")
        with pytest.raises(ShardError, match="no such shard"):
            await transport.shard("xyz", 0, 1)

    against(use)


@pytest.mark.parametrize(("first", "says"), [("short", "answered 1 of 2"), ("text", "no HeadTail server")])
def test_a_foreign_answer_is_a_server_error(first: str, says: str) -> None:
    async def use(transport: HttpTransport) -> None:
        with pytest.raises(ServerError, match=says):
            await transport.infer([request(first), request("b")])
        if first == "text":
            with pytest.raises(ServerError, match=says):
                await transport.infer([request(first)])

    against(use)


def test_a_wrong_token_and_a_server_that_is_not_there() -> None:
    async def use(transport: HttpTransport) -> None:
        with pytest.raises(ServerError, match="401: a missing or wrong token"):
            await transport.infer([request("a")])

    against(use, "wrong")

    async def nowhere() -> None:
        transport = HttpTransport("http://127.0.0.1:1/headtail", "")
        with pytest.raises(ServerError, match="cannot be reached"):
            await transport.infer([request("a")])
        await transport.close()

    asyncio.run(nowhere())


def checked(routes: web.Response | None, path: str = "/nope") -> None:
    """`check_application` of a path at a server whose proxy routes this; None: it does not say."""

    async def run() -> None:
        async def listed(http: web.Request) -> web.Response:
            assert "Authorization" not in http.headers
            return web.Response(status=404) if routes is None else routes

        app = web.Application()
        app.router.add_get("/-/routes", listed)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            await check_application(f"http://127.0.0.1:{runner.addresses[0][1]}{path}")
        finally:
            await runner.cleanup()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/nope", r"no application 'nope' at http://127.0.0.1:\d+; there are http\S+/cams, http\S+/headtail: give one"),
        ("", r"127.0.0.1:\d+ is the address of no application; there are http\S+/cams, http"),
    ],
)
def test_an_application_that_the_server_lacks_is_refused_at_once_by_the_names_that_it_has(path: str, says: str) -> None:
    with pytest.raises(ServerError, match=says):
        checked(web.json_response({"/headtail": "headtail", "/cams": "cams"}), path)


def test_what_may_be_there_or_come_is_not_refused() -> None:
    checked(web.json_response({"/headtail": "headtail"}), "/headtail/")
    checked(web.json_response({}))
    checked(None)
    checked(web.Response(text="no routes yet"))
    asyncio.run(check_application("http://127.0.0.1:1/nope"))


class Handle(ServeTransport):
    """A handle whose server tells `url` and `token`, and answers what reaches it."""

    url, token = "", "secret"

    async def describe(self, model: str) -> ServedModel:
        return replace(MODEL, url=self.url, token=self.token)

    async def infer(self, requests: Sequence[Request]) -> list[Answer]:
        return [Refusal(request.id, "bad_cut", "by the handle", "s") for request in requests]


def auto() -> tuple[AutoTransport, Handle]:
    transport, handle = AutoTransport("app"), Handle("app")
    transport._handle = handle
    return transport, handle


def test_auto_takes_http_where_the_server_offers_it_and_it_answers_from_here() -> None:
    async def use(there: HttpTransport) -> None:
        transport, handle = auto()
        ways = []
        for url, token in (
            ("", ""),  # no HTTP
            ("http://127.0.0.1:1/app", "secret"),  # told, but nothing answers
            (there.connection.url, "wrong"),
            (there.connection.url, "secret"),
            ("", ""),
        ):
            handle.url, handle.token = url, token
            await transport.describe("m")
            ways.append(type((await transport.infer([request("a")]))[0]).__name__)
        assert ways == ["Refusal", "Refusal", "Refusal", "Reply", "Refusal"]  # the handle refuses, HTTP replies
        await transport.close()

    against(use)


def test_auto_looks_for_the_server_anew_when_http_fails() -> None:
    async def use(there: HttpTransport) -> None:
        transport, handle = auto()
        handle.url = there.connection.url
        await transport.describe("m")
        assert transport._http is not None
        connection = transport._http.connection
        connection._token, connection._session = "of before its restart", None
        with pytest.raises(ServerError, match="401"):
            await transport.infer([request("a")])
        assert transport._looking is not None
        await transport._looking
        assert isinstance((await transport.infer([request("a")]))[0], Reply)
        await transport.close()

    against(use)


def test_the_token_is_told_by_the_handle_only() -> None:
    assert "token" not in packet.encode_model(replace(MODEL, token="secret"))
    assert "secret" not in repr(replace(MODEL, token="secret"))


def test_the_fleet_file_chooses() -> None:
    assert isinstance(make_transport("handle", "app"), ServeTransport)
    assert isinstance(make_transport("auto", "app"), AutoTransport)
    assert isinstance(make_transport("http", "app", "http://h:1/a"), HttpTransport)
    with pytest.raises(ConfigError, match="no address"):
        HttpTransport("h:1")
    with pytest.raises(ValueError, match="transport http with url ''"):
        GroupConfig(name="a", cut=1, transport="http")
