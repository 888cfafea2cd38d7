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
from ..outputs import FLOAT_BYTES, LOGITS
from .http_body import MAX_REQUESTS, document_of
from .requests import ACTIVATION, TENSOR_CODECS
from .responses import class_of, load_of, refusal_of, timings_of
from .tensors import Buffer, wrong


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
    """The reply to one request; logits and outputs are copied. Raises BadRequestError: the body holds none."""
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
        request.manifest,
        request.cut,
        request.codec,
        tuple(request.shape),
        request.top_k,
        request.priority,
        tuple(request.outputs),
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
    manifest: str,
    cut: int,
    codec: str,
    shape: tuple[int, ...],
    top_k: int | None,
    priority: int,
    outputs: tuple[str, ...],
) -> tuple[str, str]:
    """What stands before the payload's size, and after it; the first ends before the shape where that is the size."""
    datatype = TENSOR_CODECS.get(codec, "UINT8")
    before = f'"inputs":[{{"name":"{ACTIVATION}","datatype":"{datatype}","shape":'
    if datatype != "UINT8":
        before += json.dumps([1, *shape], separators=(",", ":"))
    how = '{"binary_data":true,"datatype":"FP32"}'
    if not outputs and top_k is not None:
        how = f'{{"classification":{top_k}}}'
    wanted = ",".join([f'{{"name":{quoted(name)},"parameters":{how}}}' for name in outputs or (LOGITS,)])
    parameters = f'"cut":{cut},"codec":{quoted(codec)},"manifest":{quoted(manifest)}'
    parameters += f',"priority":{priority}' if priority else ""
    return before, f'"outputs":[{wanted}],"parameters":{{{parameters}'


def _reply(entry: Mapping[str, Any], rest: memoryview, at: int, request: Request) -> tuple[Reply, int]:
    """The reply of an entry, whose tensors begin at `at` of what follows the JSON; and where they end."""
    asked = request.outputs or (LOGITS,)
    try:
        given, parameters = entry["outputs"], entry["parameters"]
        found = [(output["name"], *output["shape"][:1]) for output in given]
        server, load = parameters.get("server", ""), parameters.get("load")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadRequestError(f"the answer lacks outputs or parameters, or has others ({error!r})") from None
    if found != [(name, 1) for name in asked] or not isinstance(server, str):
        raise wrong("the outputs of the answer", given, f"one row of {', '.join(asked)}")
    pairs: tuple[tuple[int, float], ...] = ()
    shape: list[int] = []
    logits, end = b"", at
    outputs: list[tuple[str, tuple[int, ...], bytes]] = []
    if request.outputs:
        for name, output in zip(asked, given, strict=True):
            shape_of_one, values, end = _tensor(output, rest, end)
            outputs.append((name, tuple(shape_of_one), values))
    elif request.top_k is None:
        shape, logits, end = _tensor(given[0], rest, at)
    else:
        pairs = _pairs(given[0])
    said = load_of(load) if load else ()
    timings = timings_of(parameters)
    return Reply(request.id, timings, pairs, logits, tuple(shape), server, said, tuple(outputs)), end


def _tensor(output: Mapping[str, Any], rest: memoryview, at: int) -> tuple[list[int], bytes, int]:
    """Shape of its one row, the row's numbers, and where they end."""
    parameters, shape = output.get("parameters"), output["shape"][1:]
    size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
    count = FLOAT_BYTES
    for dim in shape:
        if type(dim) is not int or dim < 0:
            raise wrong("the shape of an output", shape, "whole numbers")
        count *= dim
    if output.get("datatype") != "FP32" or type(size) is not int or size != count or size > len(rest) - at:
        raise wrong("the output of the answer", output, f"FP32, {count} bytes of the {len(rest) - at} that follow")
    return shape, bytes(rest[at : at + size]), at + size


def _pairs(output: Mapping[str, Any]) -> tuple[tuple[int, float], ...]:
    data = output.get("data")
    if not isinstance(data, list) or not all(isinstance(one, str) for one in data):
        raise wrong("the data of the answer", data, "a list of texts")
    return tuple([(index, value) for value, index, _ in map(class_of, data)])


def _ended(rest: memoryview, end: int) -> None:
    if end != len(rest):
        raise BadRequestError(f"{len(rest) - end} bytes follow the last tensor of the answer")
