"""Requests as devices write them, and answers as the server writes them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import quote

import numpy as np

from clients.web.making.numbers import Json, Numbers, text_of
from slicer.core.common.top_k import top_k
from slicer.core.protocol.messages import Answer, Refusal, Reply, Request, Timings
from slicer.core.protocol.oip import http_writing, one_row, requests, responses, status
from slicer.core.protocol.outputs import Output, packed
from slicer.errors import BadRequestError

#: One of the model's classes has a colon in its name, one is not ASCII; the last ones have no name.
_LABELS = ("tench", "great white: shark", "Möwe \U0001f426", "")
_CLASSES = 6


@dataclass(frozen=True)
class _Model:
    """`requests.ModelFacts`."""

    name: str = "vit"
    digest: str = "f00d" * 16
    shapes: tuple[tuple[int, ...], ...] = ((3, 4, 4), (4, 6), (_CLASSES,))
    outputs: tuple[Output, ...] = packed([("logits", (_CLASSES,))])
    labels: tuple[str, ...] = _LABELS


_MODEL = _Model()
_PLAIN = Request("device-1/7", "vit", "f00d" * 16, 1, "fp32", (1, 2), bytes(range(8)))

#: What each request has otherwise than `_PLAIN`.
_REQUESTS: tuple[Json, ...] = (
    {},
    {"top_k": 5, "codec": "fp16", "payload": b"abcd"},
    {"top_k": 1, "codec": "bf16", "payload": b"abcd", "deadline_ms": 250.0},
    {"codec": "int8", "shape": (197, 192), "payload": b"\x00\xff\x80", "wants_load": True},
    {"codec": "int4", "shape": (2, 3), "payload": b"xyz", "key": "k-1", "priority": 3},
    {"cut": 0, "codec": "rgb8", "shape": (3, 1, 1), "payload": b"rgb", "deadline_ms": 0.0004, "key": 'quote " and \\'},
    {"cut": 0, "codec": "jpeg", "shape": (3, 4, 4), "payload": b"\xff\xd8\xff", "deadline_ms": 33.3337, "top_k": 10},
    {"cut": 11, "codec": "own", "shape": (), "payload": b"", "id": "", "manifest": ""},
    {
        "id": "Kamera \u00fc/\u4e16 \U0001f4f7\n\t\x7f",
        "key": "\u2028\x01",
        "wants_load": True,
        "priority": 15,
        "deadline_ms": 1e6,
    },
    {"shape": (2**31, 1), "cut": 2**31, "deadline_ms": 16.1, "model": "vit.tiny@v1_2-x"},
)

_TIMINGS = Timings(0.12345, 1.5, 7.25, 9.0, (1, 4, 16))
_LOAD = ((0, 0.25, 12.5), (3, 1.0, 4.125))


def vectors() -> Json:
    """``requests`` and ``parcels``, with what is sent; ``answers``, ``parcel_answers`` and ``refusals``, with what is
    read of them; ``top_k`` of logits."""
    given = [dataclasses.replace(_PLAIN, **change) for change in _REQUESTS]
    parcels = [given[:3], given[3:], [dataclasses.replace(_PLAIN, model="a/b c")]]
    return {
        "requests": [_request(one) for one in given],
        "parcels": [_parcel(some) for some in parcels],
        "answers": [*_answers(), *_broken()],
        "parcel_answers": [_parcel_answer()],
        "refusals": [_refusal(code) for code in status.STATUS],
        "top_k": _best(),
    }


def _plain(request: Request) -> Json:
    return {**dataclasses.asdict(request), "payload": text_of(bytes(request.payload))}


def _request(request: Request) -> Json:
    body, json_bytes = one_row.encode_request(request)
    path = f"/v2/models/{quote(request.model)}/infer"  # as slicer.core.client.connection has it
    return {"request": _plain(request), "path": path, "json_bytes": json_bytes, "body": text_of(body)}


def _parcel(some: list[Request]) -> Json:
    body, json_bytes = one_row.encode_parcel(some)
    return {"requests": [_plain(one) for one in some], "json_bytes": json_bytes, "body": text_of(body)}


def _reply(request: Request, seed: int, load: tuple[tuple[int, float, float], ...] = ()) -> Reply:
    """What the engine's side gives: all logits."""
    logits = Numbers(seed).floats(_CLASSES, 20)
    logits[3] = logits[1]  # of equals the lower class comes first
    return Reply(request.id, _TIMINGS, (), logits.tobytes(), (_CLASSES,), "replica-1", load)


def _answers() -> list[Json]:
    found = []
    for seed, (count, load) in enumerate([(None, ()), (None, _LOAD), (3, ()), (3, _LOAD), (1, ()), (100, ())]):
        request = dataclasses.replace(_PLAIN, top_k=count)
        infer = requests.infer_request(request)
        response = responses.response_of(infer, _MODEL, [_reply(request, seed, load)])
        assert not isinstance(response, Refusal)
        body, json_bytes = http_writing.encode_response(response, infer)
        found.append(_answer(request, body, None if json_bytes is None else str(json_bytes)))
    return found


def _answer(request: Request, body: bytes, json_bytes: str | None) -> Json:
    """With what `one_row` reads of it."""
    found: Json = {"request": _plain(request), "json_bytes": json_bytes, "body": text_of(body)}
    try:
        return {**found, "reply": _read(one_row.decode_answer(body, json_bytes, request))}
    except BadRequestError:
        return {**found, "error": "BadRequestError"}


def _read(answer: Answer) -> Json:
    if isinstance(answer, Refusal):
        return {"id": answer.id, "code": answer.code, "message": answer.message, "server": answer.server}
    classes = [
        {"index": index, "score": score, "label": _LABELS[index] if index < len(_LABELS) else ""}
        for index, score in answer.top_k
    ]
    return {
        "id": answer.id,
        "timings": dataclasses.asdict(answer.timings),
        "classes": classes,
        "logits": text_of(answer.logits),
        "logits_shape": list(answer.logits_shape),
        "server": answer.server,
        "load": answer.load,
    }


def _broken() -> list[Json]:
    """Answers that are none, each wrong in one place."""
    wrong: list[Callable[[Json], object]] = [
        lambda it: it.pop("outputs"),
        lambda it: it.update(outputs=[]),
        lambda it: it.update(outputs=it["outputs"] * 2),
        lambda it: it.update(outputs=["logits"]),
        lambda it: it["outputs"][0].update(name="probabilities"),
        lambda it: it["outputs"][0].update(shape=[2, 3]),
        lambda it: it["outputs"][0].pop("shape"),
        lambda it: it["outputs"][0].update(data="0.5:1"),
        lambda it: it["outputs"][0].update(data=[0.5]),
        lambda it: it["outputs"][0].update(data=["0.5"]),
        lambda it: it["outputs"][0].update(data=["half:1:tench"]),
        lambda it: it["outputs"][0].update(data=["0.5:one:tench"]),
        lambda it: it.pop("parameters"),
        lambda it: it["parameters"].update(server=7),
        lambda it: it["parameters"].update(queue_ms="1.5"),
        lambda it: it["parameters"].pop("total_ms"),
        lambda it: it["parameters"].update(rows_per_step="1,many"),
        lambda it: it["parameters"].update(load="[[0, 1.0]]"),
        lambda it: it["parameters"].update(load="busy"),
    ]
    request = dataclasses.replace(_PLAIN, top_k=2)
    infer = requests.infer_request(request)
    response = responses.response_of(infer, _MODEL, [_reply(request, 9)])
    assert not isinstance(response, Refusal)
    whole, _ = http_writing.encode_response(response, infer)
    found = []
    for change in wrong:
        document = json.loads(whole)
        change(document)
        found.append(_answer(request, json.dumps(document).encode(), None))
    found += [_answer(request, body, None) for body in (b"", b"[]", b"not JSON", b'{"outputs"', b'{"a": "\xff"}')]
    found += [_answer(request, whole, length) for length in ("x", "-1", str(len(whole) + 1), str(len(whole) - 1), "")]
    return found + _broken_logits()


def _broken_logits() -> list[Json]:
    infer = requests.infer_request(_PLAIN)
    response = responses.response_of(infer, _MODEL, [_reply(_PLAIN, 9)])
    assert not isinstance(response, Refusal)
    body, json_bytes = http_writing.encode_response(response, infer)
    text, rest = body[:json_bytes], body[json_bytes:]
    wrong: list[Callable[[Json], object]] = [
        lambda it: it.update(datatype="FP16"),
        lambda it: it.update(shape=[1, 5]),
        lambda it: it.update(shape=[1, -6]),
        lambda it: it.update(shape=[1, "6"]),
        lambda it: it["parameters"].update(binary_data_size=23),
        lambda it: it.pop("parameters"),
    ]
    found = [_answer(_PLAIN, body + b"\0", str(json_bytes)), _answer(_PLAIN, body[:-1], str(json_bytes))]
    for change in wrong:
        document = json.loads(text)
        change(document["outputs"][0])
        written = json.dumps(document).encode()
        found.append(_answer(_PLAIN, written + rest, str(len(written))))
    return found


def _parcel_answer() -> Json:
    asked = [dataclasses.replace(_PLAIN, id=f"r{n}", top_k=count) for n, count in enumerate([None, 2, 2, None])]
    infers = [requests.infer_request(one) for one in asked]
    refusal = Refusal("r2", "stale", "the head is of another release; load it again", "replica-1")
    made = [
        refusal if one.id == "r2" else responses.response_of(infer, _MODEL, [_reply(one, seed)])
        for seed, (one, infer) in enumerate(zip(asked, infers, strict=True))
    ]
    body, json_bytes = http_writing.encode_responses(made, infers)
    answers = one_row.decode_answers(body, str(json_bytes), asked)
    return {
        "requests": [_plain(one) for one in asked],
        "json_bytes": str(json_bytes),
        "body": text_of(body),
        "replies": [_read(one) for one in answers],
    }


def _refusal(code: str) -> Json:
    """As the server answers one request that it refuses."""
    refusal = Refusal("", code, f"why it is {code}, and the remedy: \u00fc", "replica-1")  # type: ignore[arg-type]
    body = json.dumps(http_writing.refusal_json(refusal)).encode()
    read = responses.refusal_of(json.loads(body), _PLAIN.id)
    return {"status": status.http_status(code), "body": text_of(body), "reply": _read(read)}


def _best() -> list[Json]:
    numbers = Numbers(3)
    found = []
    for size in (1, 2, 10, 40):
        for count in (1, 3, 10, 50):
            logits = np.round(numbers.floats(size, 8))  # many of them are equal
            best = top_k(logits, count)
            found.append({"logits": text_of(logits.tobytes()), "k": count, "best": [[i, score] for i, score in best]})
    return found
