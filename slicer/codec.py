"""Codecs: an activation to bytes and back. fp32 is exact; fp16 halves the bytes and rounds.

Encoding refuses NaN and infinity (of the input, or made by the narrower type), because on the server they would be an
answer that looks like one. Rows are encoded one by one on a device and decoded many at a time on the server.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from slicer.errors import CodecError

Array = npt.NDArray[np.float32]

_DTYPES: dict[str, np.dtype[np.generic]] = {"fp32": np.dtype("<f4"), "fp16": np.dtype("<f2")}

#: Names of the codecs, the exact one first.
CODECS: tuple[str, ...] = tuple(_DTYPES)


def dtype_of(codec: str) -> np.dtype[np.generic]:
    """The little-endian dtype that `codec` puts on the wire."""
    try:
        return _DTYPES[codec]
    except KeyError:
        raise CodecError(f"unknown codec {codec!r}; this build has {', '.join(CODECS)}") from None


def encoded_bytes(codec: str, shape: Sequence[int]) -> int:
    """Exact payload size of one activation of `shape`, in bytes."""
    return math.prod(shape) * dtype_of(codec).itemsize


def encode(codec: str, activation: npt.NDArray[np.floating]) -> bytes:
    """One activation (no batch dimension) to bytes, row-major. Refuses what is not finite."""
    dtype = dtype_of(codec)
    with np.errstate(over="ignore"):
        encoded = np.ascontiguousarray(activation, dtype=dtype)
    if not np.isfinite(encoded).all():
        peak = float(np.abs(activation).max()) if np.isfinite(activation).all() else math.nan
        raise CodecError(
            "the activation holds NaN or infinity; check the image and the head's weights"
            if math.isnan(peak)
            else f"the activation reaches {peak:.3g}, more than {codec} can hold; use fp32 for this model"
        )
    return encoded.tobytes()


def check_payload(codec: str, shape: Sequence[int], payload: bytes | memoryview) -> None:
    """Raise CodecError unless `payload` is exactly as long as codec and shape say."""
    want = encoded_bytes(codec, shape)
    if len(payload) != want:
        raise CodecError(f"the payload has {len(payload)} bytes; {codec} of shape {tuple(shape)} has {want}")


def decode_into(codec: str, payload: bytes | memoryview, out: Array) -> None:
    """Decode one payload into `out` (float32, the activation's shape): one copy.

    Raises:
        CodecError: the payload has the wrong size, or holds NaN or infinity.
    """
    check_payload(codec, out.shape, payload)
    np.copyto(out, np.frombuffer(payload, dtype=dtype_of(codec)).reshape(out.shape), casting="same_kind")
    if not np.isfinite(out).all():  # 4 us for 151 kB; a sum in float64, without a temporary, takes 14
        raise CodecError("the activation holds NaN or infinity; check the image and the head's weights")
