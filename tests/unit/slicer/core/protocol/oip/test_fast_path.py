"""What our own devices write, read and answered in one pass: as the general way does it, or not at all."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from slicer.core.protocol.messages import Answer, Refusal, Reply, Request, Timings
from slicer.core.protocol.oip import fast_path, http_body, http_writing, one_row
from slicer.core.protocol.oip.requests import TENSOR_CODECS, rows_of
from slicer.core.protocol.oip.responses import check_outputs, response_of
from slicer.core.protocol.oip.tensors import InferRequest
from slicer.core.protocol.outputs import LOGITS, packed
from slicer.errors import BadRequestError


def model_of(name: str, labels: Sequence[str] = ("a", "b:c", 'quote" \\ \n', "é\U0001f600")) -> Any:
    return SimpleNamespace(
        name=name, digest="d" * 64, shapes=((3, 2), (2, 3), (4,)), outputs=packed([(LOGITS, (6,))]), labels=labels
    )


MODELS: Mapping[str, Any] = {name: model_of(name) for name in ("m", "org/a b", 'odd"\\é')}
PLAIN = st.text(st.characters(min_codepoint=32, max_codepoint=126, exclude_characters='"\\'), max_size=12)
NAMED = PLAIN.filter(bool)
BYTES_OF = {"fp32": 4, "fp16": 2, "bf16": 2}


@st.composite
def plain_requests(draw: st.DrawFn) -> Request:
    """Of the form, with nothing odd: most of what there is."""
    shape = tuple(draw(st.lists(st.integers(0, 3), max_size=7)))
    codec = draw(st.sampled_from([*TENSOR_CODECS, "int8", "jpeg"]) | NAMED)
    exact = math.prod(shape) * BYTES_OF.get(codec, 0)
    size = exact if codec in BYTES_OF else draw(st.integers(0, 9))
    return Request(
        draw(PLAIN),
        draw(st.sampled_from(["m", "org/a b"])),
        draw(NAMED),
        draw(st.integers(0, 4) | st.integers(0, 10**9 - 1)),
        codec,
        shape,
        draw(st.binary(min_size=size, max_size=size)),
        draw(st.none() | st.integers(1, 9) | st.integers(1, 10**9 - 1)),
        draw(st.none() | st.floats(-5, 1e11)),
        wants_load=draw(st.booleans()),
        key=draw(PLAIN),
        priority=draw(st.integers(0, 15)),
    )


#: One field at a time that may be beyond the form, or beyond what the server takes.
ODD: Mapping[str, st.SearchStrategy[Any]] = {
    "id": st.text(max_size=12) | st.just("x" * 4097),
    "model": st.sampled_from(tuple(MODELS)),
    "manifest": st.text(max_size=12),
    "cut": st.sampled_from([-1, 10**9, (1 << 31) - 1, 1 << 31]),
    "codec": st.text(max_size=8) | st.sampled_from(["fp32", "fp16", "int8"]),
    "shape": st.lists(st.integers(0, 9), max_size=9).map(tuple),
    "payload": st.binary(max_size=9),
    "top_k": st.sampled_from([-1, 0, 10**9, (1 << 31) - 1, 1 << 31]),
    "deadline_ms": st.sampled_from([1e12, 9007199254740.991, 9007199254740.992, 1e30]),
    "key": st.text(max_size=12),
    "priority": st.sampled_from([-1, 16, 99, 100]),
}


@st.composite
def requests(draw: st.DrawFn) -> Request:
    """Whatever a device may have to write."""
    request = draw(plain_requests())
    name = draw(st.none() | st.sampled_from(tuple(ODD)))
    return request if name is None else replace(request, **{name: draw(ODD[name])})


def general(body: bytes, json_bytes: str | None, name: str | None) -> tuple[list[InferRequest], list[Request]] | None:
    """Requests and rows of the general way, of a model's path or of a parcel; None: it refuses something of it."""
    try:
        asked: Sequence[InferRequest | Refusal] = (
            http_body.decode_parcel(body, json_bytes)
            if name is None
            else [http_body.decode_request(body, json_bytes, name)]
        )
        given: list[InferRequest] = []
        rows: list[Request] = []
        for one in asked:
            if isinstance(one, Refusal) or one.version:
                return None
            assert check_outputs(one, MODELS[one.model]) == ()
            rows += rows_of(one, MODELS[one.model])
            given.append(one)
    except (BadRequestError, KeyError):
        return None
    return given, rows


def fast(body: bytes, json_bytes: str | None, name: str | None) -> list[fast_path.Row[Any]] | None:
    if name is None:
        return fast_path.decode_parcel(body, json_bytes, MODELS)
    row = fast_path.decode_request(body, json_bytes, MODELS[name])
    return None if row is None else [row]


def encoded(several: Sequence[Request], name: str | None) -> tuple[bytes, str]:
    body, json_bytes = one_row.encode_parcel(several) if name is None else one_row.encode_request(several[0])
    return body, str(json_bytes)


def check_equal(body: bytes, json_bytes: str | None, name: str | None) -> bool:
    """Whether the fast way reads it; if so, what it reads is what the general way does."""
    rows = fast(body, json_bytes, name)
    if rows is None:
        return False
    want = general(body, json_bytes, name)
    assert want is not None, "the general way refuses it"
    asked, requests = want
    assert [row.request for row in rows] == requests
    assert [type(row.request.payload) for row in rows] == [memoryview] * len(rows)
    for row, one in zip(rows, asked, strict=True):
        assert row.model is MODELS[one.model]
        (output,) = one.outputs
        assert output.name == LOGITS
        if row.top_k:
            assert output.parameters == {"classification": row.top_k}
        else:
            assert output.parameters == {"binary_data": True, "datatype": "FP32"}
    return True


@settings(max_examples=200, deadline=None)
@given(st.lists(requests(), min_size=1, max_size=3), st.booleans())
def test_whatever_a_device_writes_is_read_as_the_general_way_does_or_left_to_it(
    several: list[Request], alone: bool
) -> None:
    name = several[0].model if alone else None
    check_equal(*encoded(several, name), name)


@settings(max_examples=100, deadline=None)
@given(st.lists(plain_requests(), min_size=1, max_size=3), st.booleans())
def test_what_is_plain_and_right_is_read_and_not_left(several: list[Request], alone: bool) -> None:
    name = several[0].model if alone else None
    assert check_equal(*encoded(several, name), name)


#: What a body is damaged with, at any place.
PIECES = [
    b'"', b"\\", b",", b":", b"{", b"}", b"[", b"]", b" ", b"\n", b"\x00", b"\x7f", b"\xff", b"0", b"-", b".5", b"e9",
    b"9" * 12, b"9" * 5000, b"null", b"true", b'"x":1,', b"\\u0041", "é".encode(), "٣".encode(), b'"cut":1,', b",1",
    b'"id":"b",', b'"datatype":"FP16",', b'"data":[1],', b'"binary_data_output":true,', b'"model_version":"1",',
    b'{"name":"logits"},',
]  # fmt: skip


def damaged(data: st.DataObject, body: bytes, end: int) -> tuple[bytes, str | None]:
    """A body with bytes changed, left out or put in, and a length that mostly follows."""
    text, rest = bytearray(body[:end]), bytearray(body[end:])
    for _ in range(data.draw(st.sampled_from([1, 1, 2]))):
        part = text if data.draw(st.integers(0, 3)) else rest
        at = data.draw(st.integers(0, len(part)))
        kind = data.draw(st.sampled_from(["flip", "delete", "insert", "number"]))
        if kind == "flip" and at < len(part):
            part[at] ^= 1 << data.draw(st.integers(0, 7))
        elif kind == "delete":
            del part[at : at + data.draw(st.integers(1, 20))]
        elif kind == "insert":
            part[at:at] = data.draw(st.sampled_from(PIECES))
        elif digits := [place for place, byte in enumerate(text) if 48 <= byte < 58]:
            place = data.draw(st.sampled_from(digits))
            text[place : place + 1] = data.draw(st.sampled_from([b"0", b"1", b"16", b"00", b"4294967296", b"9" * 400]))
    length: str | None = str(len(text))
    if not data.draw(st.integers(0, 9)):
        length = data.draw(st.sampled_from([None, "", "-1", "0x9", "٣", str(end), "0" + str(len(text)), "9" * 30]))
    return bytes(text + rest), length


@settings(max_examples=400, deadline=None)
@given(st.data(), st.lists(plain_requests(), min_size=1, max_size=2), st.booleans())
def test_a_damaged_body_is_read_as_the_general_way_does_or_left_to_it_and_never_raises(
    data: st.DataObject, several: list[Request], alone: bool
) -> None:
    name = several[0].model if alone else None
    body, json_bytes = encoded(several, name)
    check_equal(*damaged(data, body, int(json_bytes)), name)


def shuffled(data: st.DataObject, value: Any) -> Any:
    if isinstance(value, dict):
        return {key: shuffled(data, value[key]) for key in data.draw(st.permutations(list(value)))}
    return [shuffled(data, one) for one in value] if isinstance(value, list) else value


@settings(max_examples=50, deadline=None)
@given(st.data(), plain_requests(), st.booleans())
def test_keys_in_another_order_are_left_to_the_general_way(data: st.DataObject, request_: Request, alone: bool) -> None:
    name = request_.model if alone else None
    body, json_bytes = encoded([request_], name)
    end = int(json_bytes)
    text = json.dumps(shuffled(data, json.loads(body[:end])), separators=(",", ":")).encode()
    if check_equal(text + body[end:], str(len(text)), name):
        assert text == body[:end]


GOOD = Request("a", "m", "d" * 64, 1, "fp32", (2, 3), bytes(24), 1, 2.5, True, "k", 3)


@pytest.mark.parametrize("name", ["m", None])
@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"id":"a"', b'"id":"\\u0061"'),
        (b'"id":"a"', b'"id":"a","id":"b"'),
        (b'"id":"a"', b'"id":7'),
        (b'"id":"a"', b'"id":"' + b"a" * 4097 + b'"'),
        (b'"id":"a"', b'"id": "a"'),
        (b'"cut":1', b'"cut":1,"cut":2'),
        (b'"cut":1', b'"cut":01'),
        (b'"cut":1', b'"cut":-1'),
        (b'"cut":1', b'"cut":1.0'),
        (b'"cut":1', b'"cut":2147483648'),
        (b'"priority":3', b'"priority":16'),
        (b'"timeout":2500', b'"timeout":9007199254740992'),
        (b'"timeout":2500', b'"timeout":0'),
        (b'"load":true', b'"load":false'),
        (b'"load":true', b'"load":true,"binary_data_output":true'),
        (b'"classification":1', b'"classification":0'),
        (b'"classification":1', b'"classification":2147483648'),
        (b'"classification":1', b'"classification":1,"binary_data":true'),
        (b'"classification":1', b'"binary_data":true,"datatype":"FP16"'),
        (b'"name":"logits"', b'"name":"features"'),
        (b'"name":"ACTIVATION"', b'"name":"IMAGE"'),
        (b'"datatype":"FP32"', b'"datatype":"FP16"'),
        (b'"datatype":"FP32"', b'"datatype":"FP99"'),
        (b'"shape":[1,2,3]', b'"shape":[2,1,3]'),
        (b'"shape":[1,2,3]', b'"shape":[1,2,4]'),
        (b'"shape":[1,2,3]', b'"shape":[1,1,1,1,1,1,1,2,3]'),
        (b'"binary_data_size":24', b'"binary_data_size":23'),
        (b'"binary_data_size":24', b'"binary_data_size":25'),
        (b'"codec":"fp32"', b'"codec":"int8"'),
        (b'"codec":"fp32"', b'"codec":""'),
        (b'"manifest":"' + b"d" * 64, b'"manifest":"'),
    ],
)
def test_what_is_not_exactly_the_form_is_left_to_the_general_way(name: str | None, old: bytes, new: bytes) -> None:
    body, json_bytes = encoded([GOOD], name)
    assert check_equal(body, json_bytes, name)
    text = body[: int(json_bytes)]
    assert text.count(old) == 1
    text = text.replace(old, new)
    assert fast(text + body[int(json_bytes) :], str(len(text)), name) is None


def test_one_odd_request_leaves_the_whole_parcel_to_the_general_way() -> None:
    for odd in (replace(GOOD, id="é"), replace(GOOD, model="unknown"), replace(GOOD, priority=16)):
        several = [GOOD, odd, GOOD]
        assert fast(*encoded(several, None), None) is None
    assert check_equal(*encoded([GOOD] * 3, None), None)


def test_a_request_alone_is_no_parcel_and_a_parcel_s_request_none_alone() -> None:
    assert fast(*encoded([GOOD], "m"), None) is None
    assert fast(*encoded([GOOD], None), "m") is None
    body, json_bytes = encoded([GOOD], None)
    inside = body[len(b'{"requests":[') : int(json_bytes) - 2]
    assert fast(inside + body[int(json_bytes) :], str(len(inside)), "m") is None


def test_long_json_is_left_to_the_general_way_which_counts_first_what_it_holds() -> None:
    several = [GOOD] * http_body.MAX_REQUESTS
    body, json_bytes = encoded(several, None)
    assert int(json_bytes) > http_body.MAX_NODES
    assert fast(body, json_bytes, None) is None and general(body, json_bytes, None) is not None


FLOATS = st.floats(width=32) | st.sampled_from([0.0, -0.0, 1e-7, 3.25])
TIMES = st.floats(-1e6, 1e20) | st.integers(0, 9).map(float)
SERVER = st.text(max_size=8)


@st.composite
def replies(draw: st.DrawFn, request_id: str) -> Answer:
    if not draw(st.integers(0, 4)):
        return Refusal("another", draw(st.sampled_from(["overloaded", "bad_cut", "stale"])), draw(SERVER), draw(SERVER))
    logits = np.array(draw(st.lists(FLOATS, min_size=6, max_size=6)), "<f4")
    timings = Timings(*[draw(TIMES) for _ in range(4)], tuple(draw(st.lists(st.integers(1, 64), max_size=4))))
    load = tuple(draw(st.lists(st.tuples(st.integers(0, 9), TIMES, TIMES), max_size=3)))
    shape = draw(st.sampled_from([(6,), (2, 3), (6, 1, 1)]))
    return Reply(request_id, timings, (), logits.tobytes(), shape, draw(SERVER), load)


@settings(max_examples=100, deadline=None)
@given(st.data(), st.lists(plain_requests(), min_size=1, max_size=3))
@example(None, [GOOD])
def test_answers_are_the_general_way_s_to_the_byte(data: st.DataObject | None, several: list[Request]) -> None:
    body, json_bytes = encoded(several, None)
    rows, way = fast(body, json_bytes, None), general(body, json_bytes, None)
    assert rows is not None and way is not None
    reply = Reply("a", Timings(1.2345, 0, 2.0005, 1e-9, (1, 7)), (), bytes(24), (6,), "s")
    answers = [reply if data is None else data.draw(replies(row.request.id)) for row in rows]
    responses = [response_of(one, row.model, [answer]) for one, row, answer in zip(way[0], rows, answers, strict=True)]
    assert fast_path.encode_answers(rows, answers) == http_writing.encode_responses(responses, way[0])
    for row, one, answer, response in zip(rows, way[0], answers, responses, strict=True):
        if isinstance(answer, Refusal):
            assert fast_path.refusal(row, answer) == response
        else:
            assert not isinstance(response, Refusal)
            assert fast_path.encode_answer(row, answer) == http_writing.encode_response(response, one)
