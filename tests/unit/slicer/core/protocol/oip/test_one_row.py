"""Requests of one row in one pass: what the general way makes of them, and nothing else for what is no answer."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slicer.core.protocol.messages import Answer, Refusal, Reply, Request, Timings
from slicer.core.protocol.oip import http_body, http_writing, one_row
from slicer.core.protocol.oip.requests import infer_request, rows_of
from slicer.core.protocol.oip.responses import reply_of, response_of
from slicer.core.protocol.outputs import LOGITS, packed
from slicer.errors import BadRequestError

TEXT = st.text(max_size=12)
MODEL: Any = SimpleNamespace(
    name="m", digest="d", shapes=((2, 3), (4,)), outputs=packed([(LOGITS, (4,))]), labels=("a", "b:c")
)
TIMINGS = Timings(1.25, 0.0, 3.0, 5.0, (1, 7))


@st.composite
def requests(draw: st.DrawFn) -> Request:
    shape = tuple(draw(st.lists(st.integers(1, 3), max_size=3)))
    codec = draw(st.sampled_from(["fp32", "fp16", "bf16", "int8", "jpeg", 'odd"%\\']))
    size = int(np.prod(shape)) * {"fp32": 4, "fp16": 2, "bf16": 2}.get(codec, 0) or draw(st.integers(0, 9))
    payload = draw(st.binary(min_size=size, max_size=size))
    return Request(
        draw(TEXT),
        draw(st.text(min_size=1, max_size=8)),
        draw(TEXT),
        draw(st.integers(0, 99)),
        codec,
        shape,
        draw(st.sampled_from([payload, memoryview(payload)])),
        draw(st.none() | st.integers(1, 9)),
        draw(st.none() | st.floats(-5, 1e9)),
        wants_load=draw(st.booleans()),
        key=draw(TEXT),
        priority=draw(st.integers(0, 15)),
        outputs=tuple(draw(st.sampled_from([[], ["features"], ["logits", "tokens"], ['odd"\\']]))),
    )


@settings(max_examples=200, deadline=None)
@given(st.lists(requests(), min_size=1, max_size=3))
def test_a_body_says_what_the_general_way_says(several: list[Request]) -> None:
    general = [infer_request(request) for request in several]
    body, json_bytes = one_row.encode_request(several[0])
    assert http_body.decode_request(body, str(json_bytes), several[0].model) == http_body.decode_request(
        *map_text(http_writing.encode_request(general[0])), several[0].model
    )
    body, json_bytes = one_row.encode_parcel(several)
    assert http_body.decode_parcel(body, str(json_bytes)) == http_body.decode_parcel(
        *map_text(http_writing.encode_parcel(general))
    )


def map_text(encoded: tuple[bytes, int | None]) -> tuple[bytes, str | None]:
    return encoded[0], None if encoded[1] is None else str(encoded[1])


def test_a_row_arrives_as_it_was_sent() -> None:
    sent = Request("a", "m", "d", 1, "fp16", (4,), b"12345678", None, 2.5, wants_load=True, key="k", priority=3)
    body, json_bytes = one_row.encode_request(sent)
    assert rows_of(http_body.decode_request(body, str(json_bytes), "m"), MODEL) == [sent]
    for count in (0, 1025):
        with pytest.raises(BadRequestError, match=f"{count} requests in one parcel"):
            one_row.encode_parcel([sent] * count)


def answered(request: Request, logits: list[float], load: tuple[tuple[int, float, float], ...] = ()) -> Any:
    """The general way's response, and the request as the server has read it."""
    reply = Reply(request.id, TIMINGS, (), np.float32(logits).tobytes(), (len(logits),), "s", load)
    infer = infer_request(request)
    return response_of(infer, MODEL, [reply]), infer


@pytest.mark.parametrize("top_k", [None, 1, 3])
@pytest.mark.parametrize("load", [(), ((0, 1.5, 2.0), (3, 0.0, 0.25))])
def test_an_answer_says_what_the_general_way_says(
    top_k: int | None, load: tuple[tuple[int, float, float], ...]
) -> None:
    request = Request("a", "m", "d", 1, "fp32", (4,), b"x" * 16, top_k)
    response, infer = answered(request, [0.5, -1e-7, 3.25], load)
    body, json_bytes = map_text(http_writing.encode_response(response, infer))
    found = one_row.decode_answer(body, json_bytes, request)
    assert found == reply_of(http_body.decode_response(body, json_bytes), request)
    assert (found.server, found.timings, found.load) == ("s", TIMINGS, load)
    if top_k is None:
        assert np.frombuffer(found.logits, "<f4").tolist() == np.float32([0.5, -1e-7, 3.25]).tolist()
    else:
        best = [(2, 3.25), (0, 0.5), (1, float(np.float32(-1e-7)))]
        assert found.top_k == tuple(best[:top_k])


FURTHER: Any = SimpleNamespace(
    **{**vars(MODEL), "outputs": packed([(LOGITS, (4,)), ("features", (2,)), ("tokens", (2, 2))])}
)


def with_outputs(request: Request) -> tuple[Any, Any, tuple[tuple[str, tuple[int, ...], bytes], ...]]:
    """The general way's response to a request for outputs, the request as the server has read it, and the outputs."""
    row = np.arange(10, dtype="<f4") / 7
    parts = tuple(
        (one.name, one.shape, np.ascontiguousarray(one.of(row)).tobytes())
        for one in FURTHER.outputs
        if one.name in request.outputs
    )
    infer = infer_request(request)
    return response_of(infer, FURTHER, [Reply(request.id, TIMINGS, server="s", outputs=parts)]), infer, parts


@pytest.mark.parametrize("names", [("features",), ("logits",), ("logits", "features", "tokens")])
@pytest.mark.parametrize("top_k", [None, 5])
def test_outputs_come_back_whole_whatever_top_k_says(names: tuple[str, ...], top_k: int | None) -> None:
    request = Request("a", "m", "d", 1, "fp32", (4,), b"x" * 16, top_k, outputs=names)
    response, infer, parts = with_outputs(request)
    body, json_bytes = map_text(http_writing.encode_response(response, infer))
    found = one_row.decode_answer(body, json_bytes, request)
    assert found == reply_of(http_body.decode_response(body, json_bytes), request)
    assert (found.outputs, found.top_k, found.logits) == (parts, (), b"")
    assert [name for name, _, _ in found.outputs] == list(names)


def test_other_outputs_than_were_asked_for_are_no_answer() -> None:
    request = Request("a", "m", "d", 1, "fp32", (4,), b"x" * 16, outputs=("features",))
    response, infer, _ = with_outputs(request)
    body, json_bytes = map_text(http_writing.encode_response(response, infer))
    for other in ((), ("tokens",), ("features", "tokens")):
        asked = replace(request, outputs=other)
        for read in (
            lambda asked=asked: one_row.decode_answer(body, json_bytes, asked),
            lambda asked=asked: reply_of(http_body.decode_response(body, json_bytes), asked),
        ):
            with pytest.raises(BadRequestError, match="one row of"):
                read()


def test_a_parcel_may_ask_for_classes_and_for_outputs() -> None:
    plain = Request("0", "m", "d", 1, "fp32", (4,), b"x" * 16)
    several = [plain, replace(plain, id="1", outputs=("features", "tokens")), replace(plain, id="2", top_k=2)]
    answers = [answered(several[0], [1.0, 7.0]), with_outputs(several[1])[:2], answered(several[2], [3.0, 7.0])]
    responses, asked = zip(*answers, strict=True)
    body, json_bytes = map_text(http_writing.encode_responses(responses, asked))
    first, second, third = one_row.decode_answers(body, json_bytes, several)
    assert isinstance(first, Reply) and first.logits == np.float32([1.0, 7.0]).tobytes()
    assert isinstance(second, Reply) and second.outputs == with_outputs(several[1])[2]
    assert isinstance(third, Reply) and third.top_k == ((1, 7.0), (0, 3.0))


def test_without_outputs_the_bytes_are_those_of_before() -> None:
    """Servers read this form by a shorter way."""
    request = Request("a", "m", "d", 1, "fp16", (4,), b"12345678", 5, key="k")
    text = (
        b'{"id":"a","inputs":[{"name":"ACTIVATION","datatype":"FP16","shape":[1,4],"parameters":'
        b'{"binary_data_size":8}}],"outputs":[{"name":"logits","parameters":{"classification":5}}],'
        b'"parameters":{"cut":1,"codec":"fp16","manifest":"d","idempotency_key":"k"}}'
    )
    assert one_row.encode_request(request) == (text + b"12345678", len(text))
    whole = text.replace(b'{"classification":5}', b'{"binary_data":true,"datatype":"FP32"}')
    assert one_row.encode_request(replace(request, top_k=None)) == (whole + b"12345678", len(whole))


def test_answers_of_a_parcel_keep_their_order_and_their_refusals() -> None:
    several = [Request(str(n), "m", "d", 1, "fp32", (4,), b"x" * 16, k) for n, k in enumerate([None, 2, None, None])]
    asked = [infer_request(request) for request in several]
    responses: list[Any] = [answered(request, [float(n), 7.0])[0] for n, request in enumerate(several)]
    responses[2] = Refusal("2", "overloaded", "the queue is full", "s")
    body, json_bytes = map_text(http_writing.encode_responses(responses, asked))
    found: list[Answer] = one_row.decode_answers(body, json_bytes, several)
    assert found[2] == responses[2]
    assert [one.logits for one in found if isinstance(one, Reply)] == [
        np.float32([0.0, 7.0]).tobytes(),
        b"",
        np.float32([3.0, 7.0]).tobytes(),
    ]
    assert len(one_row.decode_answers(body, json_bytes, several[:2])) == 2  # the caller counts
    assert len(one_row.decode_answers(body, json_bytes, several * 2)) == 4


def parcel_of(entries: list[dict[str, Any]], rest: bytes) -> tuple[bytes, str]:
    text = json.dumps({"requests": entries}).encode()
    return text + rest, str(len(text))


def entry_of(name: str, size: Any, **changed: Any) -> dict[str, Any]:
    parameters = {"binary_data_size": size}
    tensor = {"name": "ACTIVATION", "datatype": "FP32", "shape": [1, 1], "parameters": parameters, **changed}
    return {"model_name": "m", "id": name, "inputs": [tensor]}


@pytest.mark.parametrize(
    ("bad", "rest", "says"),
    [
        (entry_of("bad", 3), b"xyz", "3 bytes; FP32"),
        (entry_of("bad", 0), b"", "0 bytes; FP32"),
        (entry_of("bad", 4, datatype="FP99"), b"1234", "FP99"),
        (entry_of("bad", 4, shape="x"), b"1234", "shape"),
        (entry_of("bad", 4, data=[1]), b"1234", "both data and binary_data_size"),
        ({**entry_of("bad", 4), "model_name": 5}, b"1234", "model_name is 5"),
        ({"id": "bad", "model_name": "m"}, b"", "inputs of the request is None"),
        (
            {"id": "bad", "model_name": "m", "inputs": [4, {"parameters": {"binary_data_size": 1}}]},
            b"x",
            "an input is a int",
        ),
    ],
)
def test_a_bad_request_of_a_parcel_harms_no_other(bad: dict[str, Any], rest: bytes, says: str) -> None:
    body, json_bytes = parcel_of([entry_of("a", 4), bad, entry_of("c", 4)], b"aaaa" + rest + b"cccc")
    first, refused, last = http_body.decode_parcel(body, json_bytes)
    assert isinstance(refused, Refusal) and (refused.id, refused.code) == ("bad", "bad_request")
    assert says in refused.message
    assert not isinstance(first, Refusal) and not isinstance(last, Refusal)
    assert (bytes(first.inputs[0].data), bytes(last.inputs[0].data)) == (b"aaaa", b"cccc")  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [-1, 1 << 70, True, "4", 5])
def test_a_parcel_whose_bytes_cannot_be_told_apart_is_refused_as_a_whole(size: Any) -> None:
    with pytest.raises(BadRequestError, match="binary_data_size"):
        http_body.decode_parcel(*parcel_of([entry_of("a", 4), entry_of("b", size)], b"aaaabbbb"[:8]))


def test_an_answer_that_json_cannot_say_harms_no_other() -> None:
    several = [Request(str(n), "m", "d", 1, "fp32", (4,), b"x" * 16) for n in range(3)]
    asked = [infer_request(request) for request in several]
    responses = [answered(request, [1.0, float("nan") if n == 1 else 2.0])[0] for n, request in enumerate(several)]
    asked[1] = replace(
        asked[1], outputs=(asked[1].outputs[0], replace(asked[1].outputs[0], name="again", parameters={}))
    )
    responses[1] = replace(
        responses[1], outputs=[responses[1].outputs[0], replace(responses[1].outputs[0], name="again")]
    )
    body, json_bytes = map_text(http_writing.encode_responses(responses, asked))
    first, refused, last = one_row.decode_answers(body, json_bytes, several)
    assert isinstance(refused, Refusal) and "not finite" in refused.message
    assert isinstance(first, Reply) and isinstance(last, Reply) and first.logits == last.logits


WRONG: list[Any] = [None, True, -1, 1 << 40, 0.5, "x", "x:y", [], {}, [[]], [None], [1, 1 << 62], {"name": "logits"}]


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_what_is_no_answer_is_a_bad_request_error_and_nothing_else(data: st.DataObject) -> None:
    top_k = data.draw(st.sampled_from([None, 2]))
    outputs = data.draw(st.sampled_from([(), ("features", "tokens")]))
    request = Request("a", "m", "d", 1, "fp32", (4,), b"x" * 16, top_k, outputs=outputs)
    answer = with_outputs(request)[:2] if outputs else answered(request, [0.5, 1.5], ((0, 1.0, 2.0),))
    body, json_bytes = map_text(http_writing.encode_response(*answer))
    end = len(body) if json_bytes is None else int(json_bytes)
    document, rest = json.loads(body[:end]), body[end:]
    place: Any = document
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(place[key], (dict, list)) or not place[key] or data.draw(st.booleans()):
            break
        place = place[key]
    if data.draw(st.booleans()):
        del place[key]
    else:
        place[key] = data.draw(st.sampled_from(WRONG))
    text = json.dumps(document).encode()
    rest = data.draw(st.sampled_from([rest, rest[:-1], rest + b"x"]))
    for read in (
        lambda: one_row.decode_answer(text + rest, str(len(text)), request),
        lambda: one_row.decode_answers(text + rest, str(len(text)), [request]),
    ):
        try:
            read()
        except BadRequestError as error:
            assert len(str(error)) < 1000


def test_a_deadline_that_has_passed_is_still_one() -> None:
    """0 would mean none."""
    late = replace(Request("a", "m", "d", 1, "fp32", (4,), b"x" * 16), deadline_ms=-3.0)
    body, json_bytes = one_row.encode_request(late)
    assert json.loads(body[:json_bytes])["parameters"]["timeout"] == 1
