"""Codecs: an activation to bytes and back.

| codec | bytes of n values, C channels | bound of the error of a value x                                           |
|-------|-------------------------------|---------------------------------------------------------------------------|
| fp32  | 4 n                           | 0                                                                         |
| fp16  | 2 n                           | max(2^-11 abs(x), 2^-25); refuses 65,520 and more                         |
| bf16  | 2 n                           | max(2^-8 abs(x), 2^-134); refuses 3.3962e38 and more                      |
| int8  | n + 2 C                       | 0.5001 s, s <= max(peak of the channel / 127 * (1 + 2^-7), 2^-126)        |
| int4  | n / 2 + 2 C, rounded up       | 0.5001 s, s <= max(peak of the channel / 7 * (1 + 2^-7), 2^-126)          |

int8 and int4 refuse more than 2^126. Values are little-endian and row-major; `slicer.codecs.integer` says where int8
and int4 keep their scales. `axis` is the axis of the channels, 0 or the last, as the manifest says (`channel_axes`).
Without one, `encode` measures it and a payload's length tells it, as far as it can: for tools without a manifest. A
vector has no channels and goes as bf16 under these two names. Images at cut 0: `slicer.codecs.images`.

Encoding refuses NaN and infinity (of the input, or made by the narrower type), and so does decoding, because on the
server they would be an answer that looks like one. Rows are encoded one by one on a device and decoded many at a time
on the server. There is no lossless stage: see benchmarks/models/codecs.py.
All functions may be called from several threads at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from slicer.codecs import integer as codec_int
from slicer.errors import CodecError, NotFiniteError

Array = npt.NDArray[np.float32]

#: Names of the codecs, the exact one first.
CODECS: tuple[str, ...] = ("fp32", "fp16", "bf16", *codec_int.BITS)

#: Names of the codecs that carry an image, at cut 0 only (`slicer.codecs.images`).
IMAGE_CODECS: tuple[str, ...] = ("rgb8", "png", "jpeg")

_DTYPES: dict[str, np.dtype[np.generic]] = {
    "fp32": np.dtype("<f4"),
    "fp16": np.dtype("<f2"),
    "bf16": np.dtype("<u2"),  # the upper half of a float32: numpy has no bf16
}

#: Payloads from this size on are decoded one by one, so that what is read and written stays in the cache; for smaller
#: ones a call costs more than the copy that joins them.
JOINED_BELOW_BYTES = 32 << 10

_NOT_FINITE = "the activation holds NaN or infinity; check the image and the head's weights"


def encoded_bytes(codec: str, shape: Sequence[int], axis: int | None = None) -> int:
    """Exact payload size of one activation of `shape`, in bytes; without `axis`, with channels along the last one.

    Raises:
        CodecError: the codec is unknown, a dimension is no whole number above 0, or `axis` is neither 0 nor the last.
    """
    if not all(isinstance(size, int) and size > 0 for size in shape):
        raise CodecError(f"shape {tuple(shape)!r}: every dimension must be a whole number above 0")
    stored = _stored_as(codec, shape)
    if stored in codec_int.BITS:
        return codec_int.encoded_bytes(stored, shape, _axis(shape, axis))
    return math.prod(shape) * _DTYPES[stored].itemsize


def image_bytes(codec: str, shape: Sequence[int]) -> int | None:
    """Exact payload size of an image codec for a model input of `shape`; None where it depends on the image."""
    if codec not in IMAGE_CODECS:
        raise CodecError(f"unknown image codec {codec!r}; this build has {', '.join(IMAGE_CODECS)}")
    return math.prod(shape) if codec == "rgb8" else None


def encode(codec: str, activation: npt.NDArray[np.floating], axis: int | None = None) -> bytes:
    """One activation (no batch dimension) to bytes, row-major.

    Raises:
        CodecError: it is not finite, or beyond what the codec holds; it is empty; the codec is unknown.
    """
    encoded_bytes(codec, activation.shape, axis)  # refuses what has no size
    stored = _stored_as(codec, activation.shape)
    with np.errstate(over="ignore", invalid="ignore"):
        if stored == "fp16":
            encoded: npt.NDArray[np.generic] = np.ascontiguousarray(activation, dtype="<f2")
            # By its bits: numpy's isfinite of half floats takes three times as long.
            finite = not bool(((encoded.view("<u2") & 0x7C00) == 0x7C00).any())
        else:
            x = np.ascontiguousarray(activation, dtype=np.float32)
            if stored in codec_int.BITS:
                return codec_int.encode(stored, x, _measured(x) if axis is None else _axis(x.shape, axis))
            encoded = x.astype("<f4", copy=False) if stored == "fp32" else _to_bf16(x)
            finite = bool(np.isfinite(x if stored == "fp32" else _from_bf16(encoded)).all())
    if not finite:
        if not np.isfinite(activation).all():
            raise NotFiniteError(_NOT_FINITE)
        peak = float(np.abs(activation).max())
        raise CodecError(f"the activation reaches {peak:.3g}, more than {codec} can hold; use fp32 for this model")
    return encoded.tobytes()


def check_finite(activation: npt.NDArray[np.floating]) -> None:
    """Raise CodecError if it holds NaN or infinity."""
    if not np.isfinite(activation).all():
        raise NotFiniteError(_NOT_FINITE)


def check_payload(codec: str, shape: Sequence[int], payload: bytes | memoryview, axis: int | None = None) -> None:
    """Raise CodecError unless `payload` is exactly as long as codec, shape and axis say."""
    want = encoded_bytes(codec, shape, _told(codec, shape, payload) if axis is None else axis)
    if len(payload) != want:
        raise CodecError(f"the payload has {len(payload)} bytes; {codec} of shape {tuple(shape)} has {want}")


def decode_into(codec: str, payload: bytes | memoryview, out: Array, axis: int | None = None) -> None:
    """Decode one payload into `out` (float32, the activation's shape).

    Raises:
        CodecError: the payload has the wrong size, holds NaN or infinity, or scales that `encode` never writes.
    """
    axis = _told(codec, out.shape, payload) if axis is None else axis
    check_payload(codec, out.shape, payload, axis)
    _decode(codec, np.frombuffer(payload, dtype=np.uint8)[np.newaxis], out[np.newaxis], axis)


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
    if axis is None and payloads:
        told = [_told(codec, shape, payload) for payload in payloads]
        if len(set(told)) > 1:
            rows = [
                decode_batch(codec, [one], shape, axis=own, checked=checked)[0]
                for one, own in zip(payloads, told, strict=True)
            ]
            return np.stack(rows)
        axis = told[0]
    if not checked:
        for payload in payloads:
            check_payload(codec, shape, payload, axis)
    out = empty((len(payloads), *shape))
    if payloads and len(payloads[0]) < JOINED_BELOW_BYTES:
        _decode(codec, np.frombuffer(b"".join(payloads), dtype=np.uint8).reshape(len(payloads), -1), out, axis)
        return out
    for row, payload in zip(out, payloads, strict=True):
        _decode(codec, np.frombuffer(payload, dtype=np.uint8)[np.newaxis], row[np.newaxis], axis)
    return out


def error_bound(codec: str, activation: Array, axis: int | None = None) -> npt.NDArray[np.float64]:
    """Of each value: how far the decoded one can be from it. Raises CodecError as `encode`."""
    stored, magnitude = _stored_as(codec, activation.shape), np.abs(activation.astype(np.float64))
    if stored in codec_int.BITS:
        x = np.ascontiguousarray(activation, dtype=np.float32)
        scales = codec_int.scales_of(stored, x, _measured(x) if axis is None else _axis(x.shape, axis))
        return np.broadcast_to(0.5001 * scales.astype(np.float64), activation.shape)
    if stored == "fp32":
        return np.zeros_like(magnitude)
    relative, absolute = (2.0**-11, 2.0**-25) if stored == "fp16" else (2.0**-8, 2.0**-134)
    return np.maximum(relative * magnitude, absolute)


def _stored_as(codec: str, shape: Sequence[int]) -> str:
    if codec not in CODECS:
        raise CodecError(f"unknown codec {codec!r}; this build has {', '.join(CODECS)}")
    return "bf16" if codec in codec_int.BITS and not codec_int.has_channels(shape) else codec


def _axis(shape: Sequence[int], axis: int | None) -> int:
    last = len(shape) - 1
    if axis is None or axis == last:
        return last
    if axis != 0:
        raise CodecError(f"axis {axis} of shape {tuple(shape)}: channels run along the first axis or the last")
    return 0


def measured_axis(activation: Array) -> int:
    """The axis along which the peaks of an activation differ most, the first or the last: the last of two axes."""
    last = activation.ndim - 1
    if activation.ndim < 3:
        return last
    magnitude, spread = np.abs(activation), {}
    for axis in (last, 0):
        peaks = magnitude.max(axis=tuple(other for other in range(activation.ndim) if other != axis))
        logs = np.log(np.maximum(peaks, np.float32(codec_int.SMALLEST_SCALE)).astype(np.float64))
        spread[axis] = float(logs.std())
    return 0 if spread[0] > spread[last] else last


def _measured(activation: Array) -> int:
    """The measured one; the last, where a payload's length could not tell the decoder otherwise."""
    last = activation.ndim - 1
    return last if activation.shape[0] == activation.shape[last] else measured_axis(activation)


def _told(codec: str, shape: Sequence[int], payload: bytes | memoryview) -> int:
    """The axis that a payload's length tells."""
    first = len(shape) > 2 and len(payload) == encoded_bytes(codec, shape, 0) != encoded_bytes(codec, shape)
    return 0 if first else max(len(shape) - 1, 0)


def _decode(codec: str, raw: npt.NDArray[np.uint8], out: Array, axis: int | None) -> None:
    """Payloads of the right length, [B, bytes], into `out` [B, *shape]."""
    stored = _stored_as(codec, out.shape[1:])
    if stored in codec_int.BITS:
        target = out if out.flags.c_contiguous else np.empty(out.shape, dtype=np.float32)
        codec_int.decode(stored, raw, target, _axis(out.shape[1:], axis))
        if target is not out:
            np.copyto(out, target)
        return
    values = raw.view(_DTYPES[stored]).reshape(out.shape)
    np.copyto(out, _from_bf16(values) if stored == "bf16" else values, casting="same_kind")
    if not np.isfinite(out).all():  # 4 us for 151 kB; a sum in float64, without a temporary, takes 14
        raise NotFiniteError(_NOT_FINITE)


def _to_bf16(x: Array) -> npt.NDArray[np.uint16]:
    """Round to nearest, ties to even; NaN may become anything that is not finite."""
    bits = x.view(np.uint32)
    rounded = (bits + (((bits >> 16) & 1) + np.uint32(0x7FFF))) >> 16
    if np.isnan(x).any():
        rounded[np.isnan(x)] = 0x7FC0
    halves: npt.NDArray[np.uint16] = rounded.astype("<u2")
    return halves


def _from_bf16(values: npt.NDArray[np.generic]) -> Array:
    floats: Array = (values.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return floats
