"""Requests and answers as one binary body: what goes over HTTP. A body holds one request, or several (a parcel).

::

    4 bytes   b"HTP" and the version, 0x01
    4 bytes   length of the header, unsigned, little-endian
    header    JSON (UTF-8), padded with spaces so that the first payload begins at a multiple of 16 bytes
    payloads  one after another, in the order of the header, without gaps

The header is ``{"requests": [...]}`` or ``{"answers": [...]}``; an entry's ``size`` says how many bytes of payload
are its own. Decoding never copies a payload: it gives memoryviews into the body. Nothing of a body is trusted: whatever
is wrong with it is a CodecError, and no input makes the decoder allocate more than a small multiple of its length.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

from ..errors import CodecError
from .messages import Answer, Refusal, RefusalCode, Reply, Request, ServedModel, Timings

#: What the HTTP way says of its bodies.
CONTENT_TYPE = "application/x-headtail"

#: A header by which a client tells Ray Serve not to watch its connection: the replica does it itself, at less cost.
UNWATCHED = {"x-request-disconnect-disabled": "?1"}

VERSION = 1

#: A header of every response of a HeadTail server, errors included, with VERSION: what lacks it is somebody else's
#: answer, such as that of HAProxy while it has no replica to ask, of a gateway, or of a captive portal.
SERVER_HEADER = "headtail"

#: Most requests in one body, and most bytes of their header: far above what devices send, far below what hurts. The
#: header of the answers has no such limit: whatever is accepted can be answered, and how much was asked is known.
MAX_REQUESTS = 1024
MAX_HEADER_BYTES = 1 << 20

_JSON = json.JSONEncoder(separators=(",", ":"))
_MAGIC = b"HTP"
_PREFIX = struct.Struct("<3sBI")
_LARGEST = (1 << 32) - 1  # what the prefix can say
_ALIGN = 16
_MAX_TEXT = 4096
_MAX_DIMS = 8
_MAX_DIM = 1 << 31
_CODES: frozenset[str] = frozenset(get_args(RefusalCode))

Buffer = bytes | bytearray | memoryview


def encode_requests(requests: Sequence[Request]) -> bytes:
    """One body of one or several requests. Raises CodecError if there are none, or more than MAX_REQUESTS."""
    _count(len(requests))
    entries = [
        {
            "id": request.id,
            "model": request.model,
            "manifest": request.manifest,
            "cut": request.cut,
            "codec": request.codec,
            "shape": list(request.shape),
            "top_k": request.top_k,
            "deadline_ms": request.deadline_ms,
            "size": len(request.payload),
            "key": request.key,
            **({"wants_load": True} if request.wants_load else {}),
        }
        for request in requests
    ]
    return _pack({"requests": entries}, [request.payload for request in requests], MAX_HEADER_BYTES)


def decode_requests(body: Buffer) -> list[Request]:
    """The requests of a body; their payloads are memoryviews into it, so keep it unchanged while they are in use.

    An older client sends no key, and all sendings of one of its requests have the id in common: that is the key then.

    Raises:
        CodecError: the body is truncated, too long, of another version, or a field has the wrong type or range.
    """
    entries, rest = _unpack(body, "requests")
    requests, start = [], 0
    for entry in entries:
        size = _integer(entry, "size", 0)
        requests.append(
            Request(
                id=_text(entry, "id"),
                model=_text(entry, "model"),
                manifest=_text(entry, "manifest"),
                cut=_integer(entry, "cut", 0),
                codec=_text(entry, "codec"),
                shape=_shape(entry, "shape"),
                payload=_piece(rest, start, size),
                top_k=None if entry.get("top_k") is None else _integer(entry, "top_k", -_MAX_DIM),
                deadline_ms=None if entry.get("deadline_ms") is None else _number(entry, "deadline_ms"),
                wants_load=_flag(entry, "wants_load"),
                key=_text(entry, "key" if "key" in entry else "id"),
            )
        )
        start += size
    _ended(rest, start)
    return requests


def encode_answers(answers: Sequence[Answer]) -> bytes:
    """One body of the answers to one body of requests, in the same order."""
    _count(len(answers))
    entries: list[dict[str, Any]] = []
    payloads: list[Buffer] = []
    for answer in answers:
        if isinstance(answer, Refusal):
            message = answer.message[:_MAX_TEXT]  # it may repeat a name as long as that
            entries.append({"id": answer.id, "code": answer.code, "message": message, "server": answer.server})
            continue
        timings = answer.timings
        entries.append(
            {
                "id": answer.id,
                "server": answer.server,
                "ms": [timings.admission_ms, timings.queue_ms, timings.execution_ms, timings.total_ms],
                "rows_per_step": timings.rows_per_step,
                "top_k": answer.top_k,
                "shape": answer.logits_shape,
                "size": len(answer.logits),
                **({"load": answer.load} if answer.load else {}),
            }
        )
        payloads.append(answer.logits)
    return _pack({"answers": entries}, payloads, _LARGEST)


def decode_answers(body: Buffer) -> list[Answer]:
    """The answers of a body; logits are copied, so that the body can go.

    Raises:
        CodecError: as `decode_requests`.
    """
    entries, rest = _unpack(body, "answers")
    answers: list[Answer] = []
    start = 0
    for entry in entries:
        if "code" in entry:
            code = _text(entry, "code")
            if code not in _CODES:
                raise CodecError(f"unknown refusal {code!r} in an answer; client and server are of different versions")
            answers.append(Refusal(_text(entry, "id"), code, _text(entry, "message"), _text(entry, "server")))  # type: ignore[arg-type]
            continue
        size = _integer(entry, "size", 0)
        answers.append(
            Reply(
                id=_text(entry, "id"),
                timings=_timings(entry),
                top_k=_pairs(entry),
                logits=bytes(_piece(rest, start, size)),
                logits_shape=_shape(entry, "shape"),
                server=_text(entry, "server"),
                load=_load(entry) if "load" in entry else (),
            )
        )
        start += size
    _ended(rest, start)
    return answers


def encode_model(served: ServedModel) -> dict[str, Any]:
    """A served model as plain JSON values; without the token, which whoever asks by HTTP has."""
    return {name: getattr(served, name) for name in ServedModel.__slots__ if name != "token"}


def decode_model(data: Any) -> ServedModel:
    """The model that `encode_model` wrote. Raises CodecError."""
    entry = _mapping(data, "the description of a model")
    return ServedModel(
        name=_text(entry, "name"),
        manifest=_text(entry, "manifest"),
        manifest_json=_text(entry, "manifest_json", limit=MAX_HEADER_BYTES * 16),
        num_slices=_integer(entry, "num_slices", 1),
        entries=tuple(_integers(entry, "entries")),
        strategy=_text(entry, "strategy"),
        codecs=tuple(_texts(entry, "codecs")),
        emulated=tuple(_texts(entry, "emulated")),
        url=_text(entry, "url"),
        # Older servers say nothing of these.
        labels=tuple(_texts(entry, "labels")) if "labels" in entry else (),
        onnx=_text(entry, "onnx") if "onnx" in entry else "",
        preprocessing_json=_text(entry, "preprocessing_json") if "preprocessing_json" in entry else "",
        classifies=_flag(entry, "classifies") if "classifies" in entry else True,
        calibration_json=(
            _text(entry, "calibration_json", limit=MAX_HEADER_BYTES * 16) if "calibration_json" in entry else ""
        ),
    )


def _pack(header: Mapping[str, Any], payloads: Iterable[Buffer], limit: int) -> bytes:
    text = _JSON.encode(header).encode("ascii")
    text += b" " * (-(_PREFIX.size + len(text)) % _ALIGN)
    if len(text) > limit:
        raise CodecError(f"a header of {len(text)} bytes; at most {limit}: send fewer requests at once")
    return b"".join([_PREFIX.pack(_MAGIC, VERSION, len(text)), text, *payloads])


def _unpack(body: Buffer, kind: str) -> tuple[list[Mapping[str, Any]], memoryview]:
    """The header's entries, and the view of everything after the header."""
    view = memoryview(body)
    if len(view) < _PREFIX.size:
        raise CodecError(f"a body of {len(view)} bytes is no packet; it begins with {_PREFIX.size} bytes of prefix")
    magic, version, length = _PREFIX.unpack_from(view)
    if magic != _MAGIC:
        raise CodecError(f"the body begins with {bytes(magic)!r}, not {_MAGIC!r}; send {CONTENT_TYPE}")
    if version != VERSION:
        raise CodecError(f"packet version {version}; this build speaks {VERSION}: use the same release on both sides")
    limit = MAX_HEADER_BYTES if kind == "requests" else _LARGEST
    if length > limit or length > len(view) - _PREFIX.size:
        raise CodecError(
            f"a header of {length} bytes in a body of {len(view)}; it ends within the body, and has at most {limit}"
        )
    end = _PREFIX.size + length
    try:
        header = json.loads(str(view[_PREFIX.size : end], "utf-8"))
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, a number of 10,000 digits, depth 10,000
        raise CodecError(
            f"the header is no JSON ({type(error).__name__}); send what slicer.core.protocol.packet encodes"
        ) from None
    entries = _mapping(header, "the header").get(kind)
    if not isinstance(entries, list):
        raise CodecError(f"the header has no list of {kind}; send what slicer.core.protocol.packet encodes")
    _count(len(entries))
    return [_mapping(entry, f"an entry of {kind}") for entry in entries], view[end:]


def _count(number: int) -> None:
    if not 1 <= number <= MAX_REQUESTS:
        raise CodecError(f"{number} requests in one body; there are 1 to {MAX_REQUESTS}")


def _mapping(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise CodecError(
            f"{what} is a {type(value).__name__}, not an object; send what slicer.core.protocol.packet encodes"
        )
    return value


def _wrong(key: str, value: Any, want: str) -> CodecError:
    return CodecError(f"{key} is {repr(value)[:80]}; it must be {want}")


def _text(entry: Mapping[str, Any], key: str, limit: int = _MAX_TEXT) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or len(value) > limit:
        raise _wrong(key, value, f"text of at most {limit} characters")
    return value


def _is_integer(value: Any, least: int) -> bool:
    return type(value) is int and least <= value < (1 << 53)  # not a bool, and exact in every JSON library


def _integer(entry: Mapping[str, Any], key: str, least: int) -> int:
    value: Any = entry.get(key)
    if not _is_integer(value, least):
        raise _wrong(key, value, f"a whole number, at least {least}")
    return int(value)


def _number(entry: Mapping[str, Any], key: str) -> float:
    value: Any = entry.get(key)
    if type(value) not in (int, float) or not abs(value) < 1e15:  # not NaN either, nor an int that no float can hold
        raise _wrong(key, value, "a number, between -1e15 and 1e15")
    return float(value)


def _flag(entry: Mapping[str, Any], key: str) -> bool:
    value = entry.get(key, False)
    if not isinstance(value, bool):
        raise _wrong(key, value, "true or false")
    return value


def _list(entry: Mapping[str, Any], key: str) -> list[Any]:
    value = entry.get(key)
    if not isinstance(value, list):
        raise _wrong(key, value, "a list")
    return value


def _integers(entry: Mapping[str, Any], key: str) -> list[int]:
    values = _list(entry, key)
    if not all(_is_integer(value, 0) for value in values):
        raise _wrong(key, values, "a list of whole numbers, none negative")
    return values


def _texts(entry: Mapping[str, Any], key: str) -> list[str]:
    values = _list(entry, key)
    if not all(isinstance(value, str) for value in values):
        raise _wrong(key, values, "a list of texts")
    return values


def _shape(entry: Mapping[str, Any], key: str) -> tuple[int, ...]:
    dims = _integers(entry, key)
    if len(dims) > _MAX_DIMS or any(dim >= _MAX_DIM for dim in dims):
        raise _wrong(key, dims, f"at most {_MAX_DIMS} dimensions, each below {_MAX_DIM}")
    return tuple(dims)


def _timings(entry: Mapping[str, Any]) -> Timings:
    values = _list(entry, "ms")
    if len(values) != 4 or not all(type(value) in (int, float) for value in values):
        raise _wrong("ms", values, "four durations")
    admission_ms, queue_ms, execution_ms, total_ms = values
    return Timings(admission_ms, queue_ms, execution_ms, total_ms, tuple(_integers(entry, "rows_per_step")))


def _pairs(entry: Mapping[str, Any]) -> tuple[tuple[int, float], ...]:
    pairs = _list(entry, "top_k")
    for pair in pairs:
        if not (isinstance(pair, list) and len(pair) == 2 and _is_integer(pair[0], 0) and type(pair[1]) is float):
            raise _wrong("top_k", pair, "a pair of class and score")
    return tuple((index, score) for index, score in pairs)


def _load(entry: Mapping[str, Any]) -> tuple[tuple[int, float, float], ...]:
    rows = _list(entry, "load")
    for row in rows:
        if not (isinstance(row, list) and len(row) == 3 and _is_integer(row[0], 0)):
            raise _wrong("load", row, "an entry and two durations")
        if not all(type(value) in (int, float) and 0 <= value < 1e15 for value in row[1:]):
            raise _wrong("load", row, "an entry and two durations")
    return tuple((row[0], float(row[1]), float(row[2])) for row in rows)


def _piece(rest: memoryview, start: int, size: int) -> memoryview:
    if start + size > len(rest):
        raise CodecError(f"a payload of {size} bytes, {max(len(rest) - start, 0)} are left in the body; send it whole")
    return rest[start : start + size]


def _ended(rest: memoryview, end: int) -> None:
    if end != len(rest):
        raise CodecError(f"{len(rest) - end} bytes follow the last payload; the sizes in the header must add up")
