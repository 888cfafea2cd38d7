"""What is answered on the way to the server and not by it: HAProxy while a replica is replaced, gateways, portals."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest

from slicer.core.client import retries
from slicer.core.client.connection import ComeAgain
from slicer.core.network.http_transport import HttpTransport
from slicer.core.protocol import packet
from slicer.core.protocol.messages import Request, ServedModel
from slicer.errors import ModelError, ServerError, ShardError

MODEL = ServedModel("m", "d", "{}", 4, (0, 1), "per_slice", ("fp32",))
REQUEST = Request("a", "m", "d", 1, "fp32", (2,), b"x" * 8)
HTML = b"<html>\r\n<h1>Please\tlog in</h1>\r\n</html>"
HAPROXY_404 = b"Path '/cams/describe' not found. Ping http://.../-/routes for available routes."


def response(status: int, body: bytes = b"", *headers: str, ours: bool = False, length: int | None = None) -> bytes:
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body) if length is None else length}", *headers]
    if ours:
        lines.append(f"{packet.SERVER_HEADER}: {packet.VERSION}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


DESCRIBED = response(200, json.dumps(packet.encode_model(MODEL)).encode(), ours=True)

#: Answers after which the same request may well succeed.
AGAIN = {
    "haproxy, no replica": response(404, HAPROXY_404, "Content-Type: text/plain"),
    "haproxy, its 502 to 504": response(500, b"Internal Server Error"),
    "bad gateway, HTML": response(502, HTML, "Content-Type: text/html"),
    "unavailable": response(503, b"", "Retry-After: 1"),
    "gateway time-out": response(504, HTML),
    "too many requests": response(429, b"slow down"),
    "404 as JSON of somebody": response(404, b'{"detail": "Not Found"}'),
    "404 in our words without our header": response(404, b'{"error": "there is m"}'),
    "404, empty": response(404),
    "a long error page": response(503, b"x" * 100_000),
    "an error page that never ends": response(503, b"x", length=10),
    "closed without a word": b"",
    "closed in the middle of our answer": response(200, b"{", ours=True, length=100),
}

#: Answers of something that is no HeadTail server, which more attempts would not change.
FOREIGN = {
    "portal, HTML": response(200, HTML, "Content-Type: text/html"),
    "plain text": response(200, b"hello"),
    "empty": response(200),
    "no content": response(204),
    "our JSON without our header": response(200, json.dumps(packet.encode_model(MODEL)).encode()),
    "redirect": response(302, b"", "Location: http://portal.example/login"),
    "permanent redirect": response(308, b"", "Location: /elsewhere"),
    "proxy wants a password": response(407, HTML),
    "forbidden": response(403, HTML),
    "401 of somebody": response(401, b"who are you"),
    "no HTTP at all": b"SSH-2.0-OpenSSH_9.6\r\n",
    "HTTP with a header of 100 kB": response(200, b"", "X: " + "x" * 100_000),
}


def with_answers(
    answers: list[bytes], use: Callable[[HttpTransport], Awaitable[object]], *, patience_s: float = 20.0
) -> tuple[object, int]:
    """What `use` gives against a server that gives these answers in turn, the last one for ever; and how many asked."""

    async def run() -> tuple[object, int]:
        asked = 0

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal asked
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                if b"content-length" in head.lower():
                    await reader.readexactly(int(head.lower().split(b"content-length:")[1].split()[0]))
                asked += 1
                answer = answers[min(asked, len(answers)) - 1]
                writer.write(answer)
                await writer.drain()
                if answer != DESCRIBED:  # also where the body is not complete
                    writer.close()
                    return

        async def quiet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await serve(reader, writer)
            except (asyncio.IncompleteReadError, ConnectionError):
                writer.close()

        server = await asyncio.start_server(quiet, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        transport = HttpTransport(f"http://127.0.0.1:{port}/cams", "secret", patience_s=patience_s)
        try:
            return await use(transport), asked
        finally:
            await transport.close()
            server.close()

    return asyncio.run(run())


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "PAUSE_S", 0.01)


@pytest.mark.parametrize("answer", AGAIN.values(), ids=AGAIN)
def test_a_device_that_joins_meanwhile_asks_again(answer: bytes) -> None:
    described, asked = with_answers([answer, answer, DESCRIBED], lambda server: server.describe("m"))
    assert (described, asked) == (MODEL, 3)


@pytest.mark.parametrize("answer", AGAIN.values(), ids=AGAIN)
def test_a_request_meanwhile_is_one_for_another_attempt(answer: bytes) -> None:
    with pytest.raises(ComeAgain):
        with_answers([answer], lambda server: server.infer([REQUEST]))


def test_a_piece_of_a_shard_is_asked_for_again() -> None:
    answers = [AGAIN["haproxy, no replica"], AGAIN["haproxy, its 502 to 504"], response(200, b"abc", ours=True)]
    assert with_answers(answers, lambda server: server.shard("0" * 64, 0, 3)) == (b"abc", 3)


def test_the_attempts_end_and_say_what_was_seen() -> None:
    with pytest.raises(ServerError, match=r"no replica to ask.*404: Path '/cams/describe' not found.*after 0\.3 s"):
        with_answers([AGAIN["haproxy, no replica"]], lambda server: server.describe("m"), patience_s=0.3)
    with pytest.raises(ServerError, match="broke off"):
        with_answers([b""], lambda server: server.describe("m"), patience_s=0.3)


@pytest.mark.parametrize("answer", FOREIGN.values(), ids=FOREIGN)
@pytest.mark.parametrize(
    "use",
    [lambda s: s.describe("m"), lambda s: s.shard("0" * 64, 0, 3), lambda s: s.infer([REQUEST])],
    ids=["describe", "shard", "infer"],
)
def test_something_else_at_the_address_is_said_at_once(
    answer: bytes, use: Callable[[HttpTransport], Awaitable[object]]
) -> None:
    with pytest.raises(ServerError, match=r"is no HeadTail server|cannot be reached") as caught:
        with_answers([answer], use)
    assert not isinstance(caught.value, ComeAgain)
    assert len(str(caught.value)) < 500 and str(caught.value).isprintable()


def test_a_redirect_is_not_followed_with_the_token_and_is_named() -> None:
    with pytest.raises(ServerError, match=r"302 was answered: http://portal\.example/login"):
        with_answers([FOREIGN["redirect"]], lambda server: server.describe("m"))


def test_what_the_server_itself_says_is_final() -> None:
    gone = response(404, b'{"error": "there is m"}', ours=True)
    with pytest.raises(ModelError, match="there is m"):
        with_answers([gone, DESCRIBED], lambda server: server.describe("x"))
    with pytest.raises(ShardError, match="there is m"):
        with_answers([gone], lambda server: server.shard("0" * 64, 0, 1))
    for status in (400, 401, 405, 413, 500, 503):
        own = response(status, b'{"error": "why"}', ours=True)
        with pytest.raises(ServerError, match=f"answered {status}: why") as caught:
            with_answers([own, DESCRIBED], lambda server: server.describe("m"))
        assert not isinstance(caught.value, ComeAgain)
