"""What `one_row` writes, read and answered in one pass: the server's share of requests that our own devices send.

`decode_request` and `decode_parcel` give the rows that `requests.rows_of` makes of what `http_body` reads, and
`encode_answer` and `encode_answers` the bytes that `http_writing` makes of `responses.response_of`, without the objects
in between: these were a tenth of what a small request costs the server.

One regular expression is the form, key by key. Whatever is not exactly of it is None here, and the general way answers
or refuses it, with its reason: keys in another order, space, an escape in a text, a further parameter or output, a
number beyond its limit, sizes that do not agree, a model that is not there. So nothing is refused here, no rule stands
here alone, and a body that is long or odd costs one comparison more.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring_ascii as quoted
from typing import Generic, TypeVar

import numpy as np

from ...common.top_k import top_k
from ..messages import MAX_PRIORITY, Answer, Refusal, Reply, Request
from ..outputs import LOGITS
from .http_body import MAX_NODES
from .http_writing import refusal_text
from .requests import ACTIVATION, TENSOR_CODECS, ModelFacts
from .responses import class_text, version_of
from .tensors import ITEM_BYTES, MAX_DIMS, MAX_TEXT, Buffer

#: Text that JSON holds as it is, and a whole number: with nine digits below every limit of the general way.
_TEXT = rf'"([ !#-\[\]-~]{{0,{MAX_TEXT}}})"'
_WHOLE = "(?:0|[1-9][0-9]{0,8})"

#: Parameter ``timeout`` has more digits: microseconds, below 2 ** 53.
_FORM = re.compile(
    rf'\{{(?:"model_name":{_TEXT},)?"id":{_TEXT},'
    rf'"inputs":\[\{{"name":"{ACTIVATION}","datatype":"([0-9A-Z]+)","shape":\[1((?:,{_WHOLE}){{0,{MAX_DIMS - 1}}})\],'
    rf'"parameters":\{{"binary_data_size":({_WHOLE})\}}\}}\],'
    rf'"outputs":\[\{{"name":"{LOGITS}","parameters":'
    r'\{(?:"binary_data":true,"datatype":"FP32"|"classification":([1-9][0-9]{0,8}))\}\}\],'
    rf'"parameters":\{{"cut":({_WHOLE}),"codec":{_TEXT},"manifest":{_TEXT}'
    r'(?:,"priority":([1-9][0-9]?))?(?:,"timeout":([1-9][0-9]{0,14}))?'
    rf'(?:,"idempotency_key":{_TEXT})?(,"load":true)?\}}\}}'
)
_PARCEL, _PARCEL_END = '{"requests":[', "]}"

Model = TypeVar("Model", bound=ModelFacts)


# Not frozen, as in `tensors`.
@dataclass(slots=True)
class Row(Generic[Model]):
    """A request of one row.

    Attributes:
        request: for the engine, which gives all logits.
        model: that it is for.
        top_k: how many classes the client wants; 0: the logits, as bytes.
    """

    request: Request
    model: Model
    top_k: int


def decode_request(body: Buffer, json_bytes: str | None, model: Model) -> Row[Model] | None:
    """The row of `one_row.encode_request`; its payload is a view into the body. None: it is not of that form.

    Args:
        json_bytes: value of `http_body.LENGTH_HEADER`.
        model: of the path.
    """
    view = memoryview(body)
    text = _json_of(view, json_bytes)
    form = _FORM.fullmatch(text)
    if form is None or form[1] is not None:
        return None
    return _row(form, model, view[len(text) :])


def decode_parcel(body: Buffer, json_bytes: str | None, models: Mapping[str, Model]) -> list[Row[Model]] | None:
    """The rows of `one_row.encode_parcel`, as `decode_request`. None: not all of it is of that form.

    Args:
        models: by name.
    """
    view = memoryview(body)
    text = _json_of(view, json_bytes)
    if not text.startswith(_PARCEL):
        return None
    rows: list[Row[Model]] = []
    at, payload = len(_PARCEL), len(text)
    while (form := _FORM.match(text, at)) is not None:
        model = models.get(form[1])
        if model is None:
            return None
        end = payload + int(form[5])
        row = _row(form, model, view[payload:end])
        if row is None:
            return None
        rows.append(row)
        at, payload = form.end(), end
        if text.startswith(_PARCEL_END, at):
            return rows if at + len(_PARCEL_END) == len(text) and payload == len(view) else None
        if not text.startswith(",", at):
            return None
        at += 1
    return None


def encode_answer(row: Row[Model], reply: Reply) -> tuple[bytes, int | None]:
    """A body, and the length of its JSON where logits follow it (else None). Its times are finite, as clocks are."""
    text = _answer(row, reply).encode("ascii")
    return (text, None) if row.top_k else (text + reply.logits, len(text))


def encode_answers(rows: Sequence[Row[Model]], answers: Sequence[Answer]) -> tuple[bytes, int | None]:
    """As `encode_answer`, of a parcel; a refusal stays one."""
    entries: list[str] = []
    pieces: list[bytes] = []
    for row, answer in zip(rows, answers, strict=True):
        if isinstance(answer, Refusal):
            entries.append(refusal_text(refusal(row, answer)))
            continue
        entries.append(_answer(row, answer))
        if not row.top_k:
            pieces.append(answer.logits)
    text = f'{{"responses":[{",".join(entries)}]}}'.encode("ascii")
    return (b"".join([text, *pieces]), len(text)) if pieces else (text, None)


def refusal(row: Row[Model], refused: Refusal) -> Refusal:
    """Of a row, under the id of its request."""
    return Refusal(row.request.id, refused.code, refused.message, refused.server)


def _json_of(view: memoryview, json_bytes: str | None) -> str:
    """The JSON; empty where it is not of our form, or so long that what it holds must be counted first."""
    if json_bytes is None or not (json_bytes.isascii() and json_bytes.isdigit() and len(json_bytes) <= 18):
        return ""
    end = int(json_bytes)
    return str(view[:end], "latin-1") if end <= min(len(view), MAX_NODES) else ""


def _row(form: re.Match[str], model: Model, payload: memoryview) -> Row[Model] | None:
    """Of a match; None where the values are not of the form, though their text is."""
    _, name, datatype, dims, size, classes, cut_text, codec, manifest, level, timeout, key, load = form.groups()
    cut, priority = int(cut_text), int(level or 0)
    if len(payload) != int(size) or priority > MAX_PRIORITY or not (manifest and codec):
        return None
    if datatype != TENSOR_CODECS.get(codec, "UINT8"):
        return None
    shape: tuple[int, ...] = ()
    if datatype == "UINT8":
        if dims != f",{size}":
            return None
    else:
        shape, values = _shape(dims)
        if values * ITEM_BYTES[datatype] != len(payload):
            return None
    if not shape and cut < len(model.shapes):
        shape = model.shapes[cut]
    deadline_ms = int(timeout) / 1e3 if timeout else None
    request = Request(
        name, model.name, manifest, cut, codec, shape, payload, None, deadline_ms, load is not None, key or "", priority
    )
    return Row(request, model, int(classes or 0))


@functools.lru_cache(maxsize=1024)
def _shape(dims: str) -> tuple[tuple[int, ...], int]:
    """Of ``,3,224,224`` the shape, and its values."""
    shape = tuple(map(int, dims.split(",")[1:]))
    return shape, math.prod(shape)


def _answer(row: Row[Model], reply: Reply) -> str:
    """The JSON object of one."""
    model, name, times = row.model, row.request.id, reply.timings
    if row.top_k:
        best = top_k(np.frombuffer(reply.logits, "<f4"), row.top_k)
        data = ",".join([quoted(class_text(pair, model.labels).decode()) for pair in best])
        output = f'"datatype":"BYTES","shape":[1,{len(best)}],"data":[{data}]'
    else:
        dims = "".join([f",{dim}" for dim in reply.logits_shape])
        output = f'"datatype":"FP32","shape":[1{dims}],"parameters":{{"binary_data_size":{len(reply.logits)}}}'
    own_id = f'"id":{quoted(name)},' if name else ""
    load = f',"load":{quoted(json.dumps(reply.load))}' if reply.load else ""
    return (
        f'{{"model_name":{quoted(model.name)},"model_version":{quoted(version_of(model.digest))},'
        f'"outputs":[{{"name":"{LOGITS}",{output}}}],{own_id}"parameters":{{"server":{quoted(reply.server)},'
        f'"admission_ms":{round(times.admission_ms, 3)},"queue_ms":{round(times.queue_ms, 3)},'
        f'"execution_ms":{round(times.execution_ms, 3)},"total_ms":{round(times.total_ms, 3)},'
        f'"rows_per_step":"{",".join(map(str, times.rows_per_step))}"{load}}}}}'
    )
