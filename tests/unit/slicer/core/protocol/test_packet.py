"""Bodies: what is encoded comes back, payloads are not copied, and nothing hostile is more than a CodecError."""

from __future__ import annotations

import json
import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slicer.core.protocol import packet
from slicer.core.protocol.messages import Refusal, Reply, Request, ServedModel, Timings
from slicer.errors import CodecError

TEXT = st.text(max_size=20)
MS = st.floats(0, 1e6)
REQUESTS = st.builds(
    Request,
    id=TEXT,
    model=TEXT,
    manifest=TEXT,
    cut=st.integers(0, 99),
    codec=TEXT,
    shape=st.lists(st.integers(0, 1 << 30), max_size=8).map(tuple),
    payload=st.binary(max_size=300),
    top_k=st.none() | st.integers(-3, 1000),
    deadline_ms=st.none() | st.floats(-1e6, 1e6),
    wants_load=st.booleans(),
    key=TEXT,
)
TIMINGS = st.builds(Timings, MS, MS, MS, MS, st.lists(st.integers(0, 4096), max_size=5).map(tuple))
REPLIES = st.builds(
    Reply,
    id=TEXT,
    timings=TIMINGS,
    top_k=st.lists(st.tuples(st.integers(0, 21_000), st.floats(width=32, allow_nan=False)), max_size=5).map(tuple),
    logits=st.binary(max_size=100),
    logits_shape=st.lists(st.integers(0, 1000), max_size=2).map(tuple),
    server=TEXT,
)
REFUSALS = st.builds(Refusal, TEXT, st.sampled_from(sorted(packet._CODES)), TEXT, TEXT)


def request(**changes: object) -> Request:
    fields: dict[str, object] = {
        "id": "a", "model": "m", "manifest": "d", "cut": 1, "codec": "fp32", "shape": (2,), "payload": b"12345678",
    }  # fmt: skip
    return Request(**{**fields, **changes})  # type: ignore[arg-type]


def body(header: object, payload: bytes = b"", *, magic: bytes = b"HTP", version: int = 1) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<3sBI", magic, version, len(text)) + text + payload


def entry(**changes: object) -> dict[str, object]:
    fields: dict[str, object] = {
        "id": "a", "model": "m", "manifest": "d", "cut": 1, "codec": "fp32", "shape": [2], "top_k": None,
        "deadline_ms": None, "size": 0,
    }  # fmt: skip
    return {**fields, **changes}


@given(st.lists(REQUESTS, min_size=1, max_size=5))
def test_requests_come_back_as_they_were(requests: list[Request]) -> None:
    assert packet.decode_requests(packet.encode_requests(requests)) == requests


def test_the_id_of_an_older_client_is_the_key_and_its_mark_of_what_came_before_says_nothing_more() -> None:
    old = {"requests": [entry(id="r1@camera", again=True), entry(id="r2@camera"), entry(id="", again="nonsense")]}
    assert [request.key for request in packet.decode_requests(body(old))] == ["r1@camera", "r2@camera", ""]
    new = [request(), request(key="session/1")]
    assert [request.key for request in packet.decode_requests(packet.encode_requests(new))] == ["", "session/1"]
    assert b"again" not in packet.encode_requests(new)


@given(st.lists(REPLIES | REFUSALS, min_size=1, max_size=5))
def test_answers_come_back_as_they_were(answers: list[Reply | Refusal]) -> None:
    assert packet.decode_answers(packet.encode_answers(answers)) == answers


def test_a_served_model_goes_through_json() -> None:
    served = ServedModel("m", "d", '{"é":1}', 4, (0, 2), "per_slice", ("fp32",), ("emulated",), "http://host:1/app")
    assert packet.decode_model(json.loads(json.dumps(packet.encode_model(served)))) == served
    many = replace(
        served, preprocessing_json='{"format": 1}', labels=tuple(f"Straße {number}" for number in range(21843))
    )
    assert packet.decode_model(json.loads(json.dumps(packet.encode_model(many)))) == many


def test_a_server_that_says_nothing_of_labels_is_taken_and_one_that_says_nonsense_is_not() -> None:
    model = ServedModel("m", "d", "{}", 4, (0, 2), "per_slice", ("fp32",))
    old = json.loads(json.dumps(packet.encode_model(model)))
    del old["labels"]
    assert packet.decode_model(old).labels == ()
    with pytest.raises(CodecError, match=r"labels is .*; it must be a list of texts"):
        packet.decode_model({**old, "labels": [1]})


def test_a_server_that_says_nothing_of_preprocessing_is_taken_and_an_older_device_ignores_what_one_says() -> None:
    model = ServedModel("m", "d", "{}", 4, (0, 2), "per_slice", ("fp32",), preprocessing_json='{"format": 1}')
    told = json.loads(json.dumps(packet.encode_model(model)))
    assert packet.decode_model({**told, "of a later release": 1}) == model
    del told["preprocessing_json"]
    assert packet.decode_model(told).preprocessing_json == ""
    with pytest.raises(CodecError, match=r"preprocessing_json is .*; it must be text"):
        packet.decode_model({**told, "preprocessing_json": {"format": 1}})


def test_payloads_are_views_into_the_body_and_the_first_is_aligned() -> None:
    sent = packet.encode_requests([request(), request(id="b", payload=b"abcdefgh")])
    first, second = (r.payload for r in packet.decode_requests(sent))
    assert isinstance(first, memoryview) and first.obj is sent and isinstance(second, memoryview)
    assert sent.index(b"12345678") % 16 == 0, "so that numpy reads float32 from it without a slow path"


@given(st.binary(max_size=400))
def test_garbage_is_refused(garbage: bytes) -> None:
    for decode in (packet.decode_requests, packet.decode_answers):
        with pytest.raises(CodecError):
            decode(garbage)


@given(st.data())
def test_a_damaged_packet_is_refused_or_still_a_packet(data: st.DataObject) -> None:
    sent = bytearray(packet.encode_requests([request(), request(payload=b"")]))
    for _ in range(data.draw(st.integers(1, 4))):
        sent[data.draw(st.integers(0, len(sent) - 1))] = data.draw(st.integers(0, 255))
    try:
        packet.decode_requests(sent)
    except CodecError as error:
        assert str(error)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


@given(st.sampled_from(sorted(entry())), JSON)
def test_any_value_in_any_field_is_taken_or_refused(key: str, value: object) -> None:
    try:
        packet.decode_requests(body({"requests": [entry(**{key: value})]}))
    except CodecError as error:
        assert str(error)


@given(st.integers(0, 200))
def test_every_truncation_is_refused(end: int) -> None:
    sent = packet.encode_requests([request()])
    with pytest.raises(CodecError):
        packet.decode_requests(sent[: min(end, len(sent) - 1)])


@pytest.mark.parametrize(
    ("hostile", "says"),
    [
        (body({"requests": [entry()]}, magic=b"GET"), "b'GET'"),
        (body({"requests": [entry()]}, version=9), "version 9"),
        (struct.pack("<3sBI", b"HTP", 1, 0xFFFFFFFF) + b"{}", "4294967295"),
        (body(b"[" * 100_000), "no JSON"),
        (body(b'{"requests":' + b"1" * 10_000 + b"}"), "no JSON"),
        (body(b"\xff\xfe"), "no JSON"),
        (body([1]), "list, not an object"),
        (body({"requests": []}), "0 requests"),
        (body({"requests": [entry()] * 1025}), "1025 requests"),
        (body({"requests": [entry(size=99_999_999_999)]}, b"1234"), "99999999999"),
        (body({"requests": [entry(size=-1)]}), "size is -1"),
        (body({"requests": [entry(cut=True)]}), "cut is True"),
        (body({"requests": [entry(shape=[1 << 40, 1 << 40])]}), "shape"),
        (body({"requests": [entry(shape=[-1])]}), "shape is [-1]"),
        (body({"requests": [entry(id="x" * 5000)]}), "4096"),
        (body({"requests": [entry(deadline_ms=float("nan"))]}), "deadline_ms is nan"),
        (body({"requests": [entry(deadline_ms=10**400)]}), "deadline_ms is 1000"),
        (body({"requests": [entry()]}, b"left over"), "9 bytes follow"),
        (b"", "0 bytes is no packet"),
    ],
)
def test_hostile_bodies_are_refused_with_the_value(hostile: bytes, says: str) -> None:
    with pytest.raises(CodecError) as caught:
        packet.decode_requests(hostile)
    assert says in str(caught.value)


def test_an_answer_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(CodecError, match="different versions"):
        packet.decode_answers(body({"answers": [{"id": "a", "code": "new", "message": "", "server": ""}]}))


def test_what_is_accepted_as_a_parcel_can_always_be_answered() -> None:
    """The limit of a header is for requests: 1,024 of them may have long names, and ask for many classes."""
    name = "\u00e9" * 4096
    refused = [Refusal(name, "unknown_model", f"model {name!r} is not served here", "s")] * 1024
    found = packet.decode_answers(packet.encode_answers(refused))
    assert [(answer.id, len(answer.message)) for answer in found if isinstance(answer, Refusal)] == [
        (name, 4096)
    ] * 1024
    classes = tuple((index, 7.123456789 + index) for index in range(1000))
    replies = [Reply(f"cam-{n:04d}", Timings(0.1, 1.2, 5.1, 6.1, (4,)), classes, server="s") for n in range(600)]
    assert packet.decode_answers(packet.encode_answers(replies)) == replies


def test_requests_keep_the_limit_of_their_header() -> None:
    long = [Request("i" * 4000, "m" * 4000, "d", 0, "fp32", (1,), b"1234")] * 400
    with pytest.raises(CodecError, match="send fewer requests at once"):
        packet.encode_requests(long)
