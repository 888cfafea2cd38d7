"""Codecs of activations, by name: an activation to bytes and back. Each is a class (`codecs.codec.Codec`).

| codec | bytes of n values, C channels | bound of the error of a value x                                           |
|-------|-------------------------------|---------------------------------------------------------------------------|
| fp32  | 4 n                           | 0                                                                         |
| fp16  | 2 n                           | max(2^-11 abs(x), 2^-25); refuses 65,520 and more                         |
| bf16  | 2 n                           | max(2^-8 abs(x), 2^-134); refuses 3.3962e38 and more                      |
| int8  | n + 2 C                       | 0.5001 s, s <= max(peak of the channel / 127 * (1 + 2^-7), 2^-126)        |
| int4  | n / 2 + 2 C, rounded up       | 0.5001 s, s <= max(peak of the channel / 7 * (1 + 2^-7), 2^-126)          |

int8 and int4 refuse more than 2^126. Values are little-endian and row-major; `codecs.integer` says where int8
and int4 keep their scales. `axis` is the axis of the channels, 0 or the last, as the manifest says (`channel_axes`).
Without one, `encode` measures it and a payload's length tells it, as far as it can: for tools without a manifest. A
vector has no channels and goes as bf16 under these two names. Images at cut 0: `codecs.images`.

Encoding refuses NaN and infinity (of the input, or made by the narrower type), and so does decoding, because on the
server they would be an answer that looks like one. Rows are encoded one by one on a device and decoded many at a time
on the server. There is no lossless stage: see benchmarks/models/codecs.py.
All functions may be called from several threads at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from ..errors import CodecError
from .codec import Array, Codec, check_finite
from .integer import measured_axis
from .registry import CODECS, IMAGE_CODECS, codec_named, image_codec_named

__all__ = [
    "CODECS",
    "IMAGE_CODECS",
    "JOINED_BELOW_BYTES",
    "check_finite",
    "check_payload",
    "decode_batch",
    "decode_into",
    "encode",
    "encoded_bytes",
    "error_bound",
    "image_bytes",
    "measured_axis",
    "ordinary",
]

#: Payloads from this size on are decoded one by one, so that what is read and written stays in the cache; for smaller
#: ones a call costs more than the copy that joins them.
JOINED_BELOW_BYTES = 32 << 10


def encoded_bytes(codec: str, shape: Sequence[int], axis: int | None = None) -> int:
    """Exact payload size of one activation of `shape`, in bytes; without `axis`, with channels along the last one.

    Raises:
        CodecError: the codec is unknown, a dimension is no whole number above 0, or `axis` is neither 0 nor the last.
    """
    return _size(codec_named(codec), shape, axis)


def image_bytes(codec: str, shape: Sequence[int]) -> int | None:
    """Exact payload size of an image codec for a model input of `shape`; None where it depends on the image."""
    return image_codec_named(codec).payload_bytes(shape)


def encode(codec: str, activation: npt.NDArray[np.floating], axis: int | None = None) -> bytes:
    """One activation (no batch dimension) to bytes, row-major.

    Raises:
        CodecError: it is not finite, or beyond what the codec holds; it is empty; the codec is unknown.
    """
    one = codec_named(codec)
    _check_shape(activation.shape)
    return one.encode(activation, axis)


def check_payload(codec: str, shape: Sequence[int], payload: bytes | memoryview, axis: int | None = None) -> None:
    """Raise CodecError unless `payload` is exactly as long as codec, shape and axis say."""
    one = codec_named(codec)
    _check_size(one, shape, payload, _told(one, shape, payload) if axis is None else axis)


def decode_into(codec: str, payload: bytes | memoryview, out: Array, axis: int | None = None) -> None:
    """Decode one payload into `out` (float32, the activation's shape).

    Raises:
        CodecError: the payload has the wrong size, holds NaN or infinity, or scales that `encode` never writes.
    """
    one = codec_named(codec)
    axis = _told(one, out.shape, payload) if axis is None else axis
    _check_size(one, out.shape, payload, axis)
    one.decode(np.frombuffer(payload, dtype=np.uint8)[np.newaxis], out[np.newaxis], axis)


def ordinary(shape: tuple[int, ...]) -> Array:
    """An array in ordinary memory."""
    return np.empty(shape, np.float32)


def decode_batch(
    codec: str,
    payloads: Sequence[bytes | memoryview],
    shape: Sequence[int],
    empty: Callable[[tuple[int, ...]], Array] = ordinary,
    axis: int | None = None,
    *,
    checked: bool = False,
) -> Array:
    """Payloads of one codec and shape to one float32 [B, *shape] array, in order; B may be 0.

    `empty` makes the array, where it is to lie in memory of a certain kind. `checked`: each has passed `check_payload`
    with this axis, and is not measured again.

    Raises:
        CodecError: as `decode_into`, if any of them is bad. To learn which, decode one by one: it is the rare case.
    """
    one = codec_named(codec)
    if axis is None and payloads:
        told = [_told(one, shape, payload) for payload in payloads]
        if len(set(told)) > 1:
            rows = [
                decode_batch(codec, [row], shape, axis=own, checked=checked)[0]
                for row, own in zip(payloads, told, strict=True)
            ]
            return np.stack(rows)
        axis = told[0]
    if not checked:
        for payload in payloads:
            _check_size(one, shape, payload, axis)
    out = empty((len(payloads), *shape))
    if payloads and len(payloads[0]) < JOINED_BELOW_BYTES:
        one.decode(np.frombuffer(b"".join(payloads), dtype=np.uint8).reshape(len(payloads), -1), out, axis)
        return out
    for row, payload in zip(out, payloads, strict=True):
        one.decode(np.frombuffer(payload, dtype=np.uint8)[np.newaxis], row[np.newaxis], axis)
    return out


def error_bound(codec: str, activation: Array, axis: int | None = None) -> npt.NDArray[np.float64]:
    """Of each value: how far the decoded one can be from it. Raises CodecError as `encode`."""
    return codec_named(codec).error_bound(activation, axis)


def _told(codec: Codec, shape: Sequence[int], payload: bytes | memoryview) -> int:
    """The axis that a payload's length tells."""
    last = max(len(shape) - 1, 0)
    if len(shape) < 3:
        return last
    first = len(payload) == _size(codec, shape, 0) != _size(codec, shape, last)
    return 0 if first else last


def _check_size(codec: Codec, shape: Sequence[int], payload: bytes | memoryview, axis: int | None) -> None:
    want = _size(codec, shape, axis)
    if len(payload) != want:
        raise CodecError(f"the payload has {len(payload)} bytes; {codec.name} of shape {tuple(shape)} has {want}")


def _size(codec: Codec, shape: Sequence[int], axis: int | None) -> int:
    _check_shape(shape)
    return codec.encoded_bytes(shape, axis)


def _check_shape(shape: Sequence[int]) -> None:
    if not all(isinstance(size, int) and size > 0 for size in shape):
        raise CodecError(f"shape {tuple(shape)!r}: every dimension must be a whole number above 0")
