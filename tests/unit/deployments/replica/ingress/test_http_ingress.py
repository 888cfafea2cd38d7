"""The HTTP way in, its ASGI application called directly."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.replica.ingress.http_ingress import Ingress
from slicer.core.protocol import packet
from slicer.core.protocol.messages import Answer, Refusal, Reply, Request, ServedModel, Timings

MODEL = ServedModel("m", "d", "{}", 4, (0, 1), "per_slice", ("fp32",))
REQUEST = Request("a", "m", "d", 1, "fp32", (2,), b"12345678")


class Server:
    """Answers with the payload's length as the class; a model named `bad` is refused."""

    def __init__(self) -> None:
        self.alive = True
        self.seen: list[Request] = []
        self.models = {"m": None}

    async def infer_parcel(self, requests: list[Request]) -> list[Answer]:
        self.seen += requests
        return [
            Refusal(r.id, "unknown_model", "no", "s")
            if r.model == "bad"
            else Reply(r.id, Timings(1.0, 2.0, 3.0, 6.0, (4,)), ((len(r.payload), 0.5),), server="s")
            for r in requests
        ]

    async def describe(self, model: str) -> ServedModel | Refusal:
        return MODEL if model == "m" else Refusal("", "unknown_model", f"no model {model!r}; there is m")

    async def shard(self, sha256: str, offset: int, length: int) -> bytes:
        if sha256 != "abc":
            raise KeyError(f"no shard {sha256}")
        return bytes(range(100))[offset : offset + length]

    async def check_health(self) -> None:
        if not self.alive:
            raise RuntimeError("the engine's thread has died")


def call(
    app: Ingress,
    method: str,
    path: str,
    body: bytes = b"",
    *,
    headers: dict[bytes, bytes] | None = None,
    query: bytes = b"",
    chunk: int = 7,
    leave: bool = False,
) -> tuple[int, bytes]:
    """One request, its body in pieces of `chunk` bytes; `leave`: the client disconnects instead of the last piece."""
    sent: list[dict[str, Any]] = []
    pieces = [body[i : i + chunk] for i in range(0, len(body), chunk)] or [b""]
    messages = [{"type": "http.request", "body": p, "more_body": p is not pieces[-1]} for p in pieces]
    if leave:
        messages[-1] = {"type": "http.disconnect"}

    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": method,
        "path": "/headtail" + path,
        "root_path": "/headtail",
        "query_string": query,
        "headers": list((headers or {}).items()),
    }
    asyncio.run(app(scope, receive, send))
    if not sent:
        return 0, b""
    body = b"".join(m["body"] for m in sent[1:])
    assert dict(sent[0]["headers"])[b"content-length"] == b"%d" % len(body)
    assert dict(sent[0]["headers"])[b"headtail"] == b"1"  # of every response, whatever its status
    return sent[0]["status"], body


def error(answer: tuple[int, bytes]) -> tuple[int, str]:
    return answer[0], json.loads(answer[1])["error"]


def test_a_parcel_goes_in_and_every_request_is_answered_for_itself() -> None:
    bad = Request("b", "bad", "d", 1, "fp32", (2,), b"")
    status, body = call(Ingress(Server()), "POST", "/infer", packet.encode_requests([REQUEST, bad, REQUEST]))
    answers = packet.decode_answers(body)
    assert status == 200
    assert [type(answer) for answer in answers] == [Reply, Refusal, Reply]
    assert isinstance(answers[0], Reply) and answers[0].top_k == ((8, 0.5),)


def test_describe_and_shard_and_health() -> None:
    app = Ingress(Server())
    status, body = call(app, "GET", "/describe", query=b"model=m")
    assert (status, packet.decode_model(json.loads(body))) == (200, MODEL)
    assert call(app, "GET", "/shard/abc", query=b"offset=3&length=2") == (200, b"\x03\x04")
    assert call(app, "GET", "/health")[0] == 200


def test_a_replica_that_cannot_serve_says_so() -> None:
    server = Server()
    server.alive = False
    assert error(call(Ingress(server), "GET", "/health")) == (503, "the engine's thread has died")


@pytest.mark.parametrize("given", [None, b"Bearer wrong", b"Bearer ", b"Bearer \xff", b"secret"])
def test_without_the_token_there_is_no_answer_but_health(given: bytes | None) -> None:
    server = Server()
    app = Ingress(server, token="secret")
    headers = {} if given is None else {b"authorization": given}
    body = packet.encode_requests([REQUEST])
    for method, path in (("POST", "/infer"), ("GET", "/describe"), ("GET", "/shard/abc"), ("GET", "/nothing")):
        assert call(app, method, path, body, headers=headers)[0] == 401
    assert server.seen == []
    for path in ("/health", "/health/", "/v2/health/live", "/v2/health/live/", "/v2/health/ready/"):
        assert call(app, "GET", path)[0] == 200
    for path in ("/v2", "/v2/models", "/v2/health", "/v2/health/live/x", "/health/x", "/openapi.json"):
        assert call(app, "GET", path)[0] == 401
    for scheme in (b"Bearer", b"bearer", b"BEARER"):
        assert call(app, "POST", "/infer", body, headers={b"authorization": scheme + b" secret"})[0] == 200


@pytest.mark.parametrize(
    ("method", "path", "query", "body", "status", "says"),
    [
        ("POST", "/infer", b"", b"garbage!", 400, "garbage"[:3]),
        ("POST", "/infer", b"", b"", 400, "0 bytes"),
        ("POST", "/infer", b"", packet.encode_requests([REQUEST])[:-1], 400, "left in the body"),
        ("POST", "/infer", b"", b"HTP\x01\xff\xff\x00\x00" + b"[" * 0xFFFF, 400, "no JSON"),
        ("GET", "/infer", b"", b"", 405, "POST"),
        ("POST", "/describe", b"", b"", 405, "GET"),
        ("GET", "/describe", b"model=x", b"", 404, "there is m"),
        ("GET", "/describe", b"", b"", 404, "''"),
        ("GET", "/shard/abc", b"offset=-1", b"", 400, "offset='-1'"),
        ("GET", "/shard/abc", b"length=" + b"9" * 400, b"", 400, "whole number"),
        ("GET", "/shard/../../etc/passwd", b"", b"", 404, "no shard"),
        ("GET", "/", b"", b"", 404, "/predict"),
        ("GET", "/infer/more", b"", b"", 404, "/predict"),
    ],
)
def test_bad_requests_are_answered_with_what_is_wrong_and_harm_no_other(
    method: str, path: str, query: bytes, body: bytes, status: int, says: str
) -> None:
    app = Ingress(Server())
    got, message = error(call(app, method, path, body, query=query))
    assert got == status
    assert says in message
    assert call(app, "POST", "/infer", packet.encode_requests([REQUEST]))[0] == 200


def test_a_body_over_the_limit_is_refused_whether_it_says_so_or_not() -> None:
    server = Server()
    body = packet.encode_requests([REQUEST])
    app = Ingress(server, max_body_bytes=len(body) - 1)
    told = error(call(app, "POST", "/infer", b"", headers={b"content-length": b"%d" % len(body)}))
    counted = error(call(app, "POST", "/infer", body))
    huge = error(call(app, "POST", "/infer", b"", headers={b"content-length": b"9" * 5000}))
    assert told[0] == counted[0] == huge[0] == 413
    assert f"{len(body)} bytes" in told[1] and server.seen == []
    assert call(Ingress(server, max_body_bytes=len(body)), "POST", "/infer", body)[0] == 200


def test_a_client_that_leaves_while_it_sends_gets_no_answer() -> None:
    server = Server()
    assert call(Ingress(server), "POST", "/infer", packet.encode_requests([REQUEST]), leave=True) == (0, b"")
    assert server.seen == []


def test_the_lifespan_that_serve_starts_and_ends() -> None:
    kinds = ["lifespan.startup", "lifespan.shutdown"]
    sent: list[str] = []

    async def receive() -> dict[str, Any]:
        return {"type": kinds[len(sent)]}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message["type"])

    asyncio.run(Ingress(Server())({"type": "lifespan"}, receive, send))
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("/describe", b"&".join(b"x%d=1" % n for n in range(12)) + b"&model=m"),
        ("/shard/abc", b"offset=" + b"9" * 4000),
        ("/shard/abc", b"offset=-1"),
        ("/shard/abc", b"offset=1e3&length=1"),
        ("/shard/abc", b"length=%D9%A3"),
        ("/shard/past", b"offset=1000000000000000&length=1"),
        ("/describe", b"model=" + b"%00" * 3000),
        ("/describe", b"\xff\xfe=\x80"),
    ],
)
def test_a_query_that_makes_no_sense_is_the_client_s_mistake(path: str, query: bytes) -> None:
    status, said = error(call(Ingress(PastTheEnd()), "GET", path, query=query))
    assert status in (400, 404)
    assert said


class PastTheEnd(Server):
    async def shard(self, sha256: str, offset: int, length: int) -> bytes:
        if sha256 == "past":
            raise ValueError(f"offset {offset} lies past the end")
        return await super().shard(sha256, offset, length)


@settings(deadline=None, max_examples=150)
@given(
    method=st.sampled_from(["GET", "POST", "PUT", "HEAD", "DELETE", "GET\0"]),
    path=st.one_of(
        st.sampled_from(["/infer", "/describe", "/shard/abc", "/shard/", "/health/x", ""]), st.text(max_size=40)
    ),
    query=st.one_of(st.binary(max_size=60), st.text("&=offsetlngmdr0123456789%-", max_size=60).map(str.encode)),
    body=st.binary(max_size=40),
)
def test_no_request_ends_in_a_500(method: str, path: str, query: bytes, body: bytes) -> None:
    status, _ = call(Ingress(PastTheEnd()), method, path, body, query=query)
    assert status in (200, 400, 404, 405)
