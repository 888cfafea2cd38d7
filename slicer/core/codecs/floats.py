"""fp32, fp16 and bf16: each value by itself, in a float type of 4 or 2 bytes, little-endian and row-major."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from .codec import Array, Bytes, Codec, check_finite, refusal


class Fp32(Codec):
    """float32 as it is: 4 bytes a value, exact."""

    name = "fp32"
    agreement = 1.0
    encode_ns = 0.5

    def encoded_bytes(self, shape: Sequence[int], axis: int | None) -> int:
        """4 n."""
        return 4 * math.prod(shape)

    @override
    def encode(self, activation: npt.NDArray[np.floating], axis: int | None) -> bytes:
        with np.errstate(over="ignore", invalid="ignore"):
            values: npt.NDArray[np.generic] = np.ascontiguousarray(activation, dtype="<f4")
        if not np.isfinite(values).all():
            raise refusal(self.name, activation)
        return values.tobytes()

    @override
    def decode(self, raw: Bytes, out: Array, axis: int | None) -> None:
        np.copyto(out, raw.view("<f4").reshape(out.shape))
        check_finite(out)  # 4 us for 151 kB; a sum in float64, without a temporary, takes 14

    def error_bound(self, activation: Array, axis: int | None) -> npt.NDArray[np.float64]:
        """0."""
        return np.zeros(activation.shape)


class Fp16(Codec):
    """Half floats: 2 bytes a value, of at most 65,504."""

    name = "fp16"
    agreement = 0.999
    encode_ns = 1.5

    def encoded_bytes(self, shape: Sequence[int], axis: int | None) -> int:
        """2 n."""
        return 2 * math.prod(shape)

    @override
    def encode(self, activation: npt.NDArray[np.floating], axis: int | None) -> bytes:
        with np.errstate(over="ignore", invalid="ignore"):
            values: npt.NDArray[np.generic] = np.ascontiguousarray(activation, dtype="<f2")
        # By its bits: numpy's isfinite of half floats takes three times as long.
        if ((values.view("<u2") & 0x7C00) == 0x7C00).any():
            raise refusal(self.name, activation)
        return values.tobytes()

    @override
    def decode(self, raw: Bytes, out: Array, axis: int | None) -> None:
        np.copyto(out, raw.view("<f2").reshape(out.shape))
        check_finite(out)

    def error_bound(self, activation: Array, axis: int | None) -> npt.NDArray[np.float64]:
        """max(2^-11 abs(x), 2^-25)."""
        return np.maximum(2.0**-11 * np.abs(activation.astype(np.float64)), 2.0**-25)


class Bf16(Codec):
    """The upper half of a float32, rounded to nearest, ties to even: 2 bytes a value. numpy has no such type.

    Args:
        name: what errors call it; int8 and int4 send vectors so.
    """

    agreement = 0.995
    encode_ns = 2.0

    def __init__(self, name: str = "bf16") -> None:
        self.name = name

    def encoded_bytes(self, shape: Sequence[int], axis: int | None) -> int:
        """2 n."""
        return 2 * math.prod(shape)

    @override
    def encode(self, activation: npt.NDArray[np.floating], axis: int | None) -> bytes:
        with np.errstate(over="ignore", invalid="ignore"):
            values = _to_bf16(np.ascontiguousarray(activation, dtype=np.float32))
            finite = np.isfinite(from_bf16(values)).all()
        if not finite:
            raise refusal(self.name, activation)
        return values.tobytes()

    @override
    def decode(self, raw: Bytes, out: Array, axis: int | None) -> None:
        np.copyto(out, from_bf16(raw.view("<u2")).reshape(out.shape))
        check_finite(out)

    def error_bound(self, activation: Array, axis: int | None) -> npt.NDArray[np.float64]:
        """max(2^-8 abs(x), 2^-134)."""
        return np.maximum(2.0**-8 * np.abs(activation.astype(np.float64)), 2.0**-134)


def _to_bf16(x: Array) -> npt.NDArray[np.uint16]:
    """NaN may become anything that is not finite."""
    bits = x.view(np.uint32)
    rounded = (bits + (((bits >> 16) & 1) + np.uint32(0x7FFF))) >> 16
    if np.isnan(x).any():
        rounded[np.isnan(x)] = 0x7FC0
    halves: npt.NDArray[np.uint16] = rounded.astype("<u2")
    return halves


def from_bf16(values: npt.NDArray[np.generic]) -> Array:
    """Bit patterns of bf16, any unsigned integers below 2^16, as the floats that they are; of the same shape."""
    floats: Array = (values.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return floats
