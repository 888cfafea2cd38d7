"""Requests of one row each, as devices send them, written and read in one pass.

`encode_request` gives what `http_writing.encode_request` makes of `requests.infer_request`, and `decode_answer` what
`responses.reply_of` makes of `http_body.decode_response`, without the objects in between: half of the time of a small
request was theirs. What does not change from one request to the next is JSON once.

`fast_path` knows the form of what is written here, key by key: change both, or the server falls back to its general
way.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from json.encoder import encode_basestring_ascii as quoted
from typing import Any

from ...errors import BadRequestError
from ..messages import Answer, Reply, Request
from ..outputs import LOGITS
from .http_body import MAX_REQUESTS, document_of
from .requests import ACTIVATION, TENSOR_CODECS
from .responses import class_of, load_of, refusal_of, timings_of
from .tensors import Buffer, wrong

_FLOAT_BYTES = 4


def encode_request(request: Request) -> tuple[bytes, int]:
    """The body of one request, and the length of its JSON; the model's name stands in the path."""
    text = f"{{{_entry(request)}}}".encode("ascii")
    return b"".join((text, request.payload)), len(text)


def encode_parcel(requests: Sequence[Request]) -> tuple[bytes, int]:
    """As `encode_request`, of several. Raises BadRequestError: none, or more than `MAX_REQUESTS`."""
    if not 1 <= len(requests) <= MAX_REQUESTS:
        raise BadRequestError(f"{len(requests)} requests in one parcel; there are 1 to {MAX_REQUESTS}")
    entries = ",".join([f'{{"model_name":{quoted(request.model)},{_entry(request)}}}' for request in requests])
    text = f'{{"requests":[{entries}]}}'.encode("ascii")
    return b"".join([text, *[request.payload for request in requests]]), len(text)


def decode_answer(body: Buffer, json_bytes: str | None, request: Request) -> Reply:
    """The reply to one request; logits are copied. Raises BadRequestError: the body holds none."""
    document, rest = document_of(body, json_bytes, trusted=True)
    reply, end = _reply(document, rest, 0, request)
    _ended(rest, end)
    return reply


def decode_answers(body: Buffer, json_bytes: str | None, requests: Sequence[Request]) -> list[Answer]:
    """Those to a parcel, as many as there are, in order. Raises BadRequestError: the body holds none."""
    document, rest = document_of(body, json_bytes, trusted=True)
    entries = document.get("responses")
    if not isinstance(entries, list):
        raise wrong("responses of the answer", entries, "a list")
    found: list[Answer] = []
    at = 0
    for entry, request in zip(entries, requests, strict=False):
        if not isinstance(entry, dict):
            raise wrong("an answer of the parcel", entry, "a JSON object")
        if "error" in entry:
            found.append(refusal_of(entry, request.id))
            continue
        reply, at = _reply(entry, rest, at, request)
        found.append(reply)
    if len(entries) == len(requests):
        _ended(rest, at)
    return found


def _entry(request: Request) -> str:
    """The members of its JSON object."""
    before, after = _template(
        request.manifest, request.cut, request.codec, tuple(request.shape), request.top_k, request.priority
    )
    size = len(request.payload)
    shape = "" if before.endswith("]") else f"[1,{size}]"
    text = f'"id":{quoted(request.id)},{before}{shape},"parameters":{{"binary_data_size":{size}}}}}],{after}'
    if request.deadline_ms is not None:
        text += f',"timeout":{max(int(request.deadline_ms * 1e3), 1)}'
    if request.key:
        text += f',"idempotency_key":{quoted(request.key)}'
    return text + (',"load":true}' if request.wants_load else "}")


@functools.lru_cache(maxsize=1024)
def _template(
    manifest: str, cut: int, codec: str, shape: tuple[int, ...], top_k: int | None, priority: int
) -> tuple[str, str]:
    """What stands before the payload's size, and after it; the first ends before the shape where that is the size."""
    datatype = TENSOR_CODECS.get(codec, "UINT8")
    before = f'"inputs":[{{"name":"{ACTIVATION}","datatype":"{datatype}","shape":'
    if datatype != "UINT8":
        before += json.dumps([1, *shape], separators=(",", ":"))
    output = '{"binary_data":true,"datatype":"FP32"}' if top_k is None else f'{{"classification":{top_k}}}'
    parameters = f'"cut":{cut},"codec":{quoted(codec)},"manifest":{quoted(manifest)}'
    parameters += f',"priority":{priority}' if priority else ""
    return before, f'"outputs":[{{"name":"{LOGITS}","parameters":{output}}}],"parameters":{{{parameters}'


def _reply(entry: Mapping[str, Any], rest: memoryview, at: int, request: Request) -> tuple[Reply, int]:
    """The reply of an entry, whose tensor begins at `at` of what follows the JSON; and where it ends."""
    try:
        (output,) = entry["outputs"]
        parameters, name, (rows, *shape) = entry["parameters"], output["name"], output["shape"]
        server, load = parameters.get("server", ""), parameters.get("load")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadRequestError(f"the answer lacks outputs or parameters, or has others ({error!r})") from None
    if name != LOGITS or rows != 1 or not isinstance(server, str):
        raise wrong("the output of the answer", output, f"one row of {LOGITS}")
    if request.top_k is None:
        logits, end = _logits(output, shape, rest, at)
        pairs: tuple[tuple[int, float], ...] = ()
    else:
        logits, end, shape, pairs = b"", at, [], _pairs(output)
    reply = Reply(
        request.id, timings_of(parameters), pairs, logits, tuple(shape), server, load_of(load) if load else ()
    )
    return reply, end


def _logits(output: Mapping[str, Any], shape: Sequence[Any], rest: memoryview, at: int) -> tuple[bytes, int]:
    parameters = output.get("parameters")
    size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
    count = _FLOAT_BYTES
    for dim in shape:
        if type(dim) is not int or dim < 0:
            raise wrong("the shape of logits", shape, "whole numbers")
        count *= dim
    if output.get("datatype") != "FP32" or type(size) is not int or size != count or size > len(rest) - at:
        raise wrong("the output of the answer", output, f"FP32, {count} bytes of the {len(rest) - at} that follow")
    return bytes(rest[at : at + size]), at + size


def _pairs(output: Mapping[str, Any]) -> tuple[tuple[int, float], ...]:
    data = output.get("data")
    if not isinstance(data, list) or not all(isinstance(one, str) for one in data):
        raise wrong("the data of the answer", data, "a list of texts")
    return tuple([(index, value) for value, index, _ in map(class_of, data)])


def _ended(rest: memoryview, end: int) -> None:
    if end != len(rest):
        raise BadRequestError(f"{len(rest) - end} bytes follow the last tensor of the answer")
