"""int8 and int4 with a scale per channel.

The payload, little-endian, nothing between the parts:

    scales   uint16 [C]  the upper half of a float32 (bf16), in the channels' order
    values   int8: a byte each, two's complement
             int4: two to a byte, the first in the lower half, each plus 8; an odd last one leaves the upper half 0

value = integer * scale. A scale has 8 significant bits and an integer at most 8, so that their product is exact in
float32: every decoder, on whatever hardware, gives the same bits.

**Axis.** A channel runs along one axis, the first or the last. Which one is a fact of the model that its manifest holds
(`slicer.shards.channel_axes`); the bound of the error holds along any axis, the accuracy does not. A vector (a pooled
feature) has nothing to share a scale over and goes as bf16.

Why per channel: transformers have a few channels a hundred times larger than the rest, in every token. One scale per
tensor or per token is then set by them and the rest is rounded away (benchmarks/models/codecs.py shows it).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from ..errors import CodecError
from .codec import Array, Bytes, Codec, refusal
from .floats import Bf16, from_bf16

#: No magnitude above this is encoded: what is decoded then stays finite whatever the integers are.
LARGEST = 2.0**126

#: The smallest scale, float32's smallest normal number: its reciprocal is finite, and no arithmetic meets a denormal.
SMALLEST_SCALE = 2.0**-126


class Integer(Codec):
    """Integers of 8 or 4 bits times their channel's scale.

    Args:
        name: int8 or int4.

    Attributes:
        largest_scale: the largest that `encode` writes; the largest integer times it is finite.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._bits, self._levels = (8, 127) if name == "int8" else (4, 7)
        self.agreement, self.encode_ns = (0.995, 3.0) if name == "int8" else (0.95, 4.0)
        self.largest_scale = LARGEST / self._levels * (1 + 2.0**-7)
        self._vector = Bf16(name)

    def encoded_bytes(self, shape: Sequence[int], axis: int | None) -> int:
        """n + 2 C; int4: n / 2 + 2 C, rounded up; without an axis of the channels, of the last one."""
        if len(shape) < 2:
            return self._vector.encoded_bytes(shape, axis)
        return 2 * shape[_axis(shape, axis)] + (math.prod(shape) * self._bits + 7) // 8

    @override
    def encode(self, activation: npt.NDArray[np.floating], axis: int | None) -> bytes:
        """Without an axis it is measured, where the payload's length can tell the decoder which."""
        if activation.ndim < 2:
            return self._vector.encode(activation, axis)
        with np.errstate(over="ignore", invalid="ignore"):
            x = np.ascontiguousarray(activation, dtype=np.float32)
            axis = _measured(x) if axis is None else _axis(x.shape, axis)
            matrix, over = _matrix(x, axis), _reduced(axis)
            bits = self._scale_bits(matrix, over)
        # No clipping: a scale is rounded up, so the largest quotient rounds to 127 (7) at most.
        quotients = matrix * np.expand_dims(np.float32(1) / from_bf16(bits), over)
        np.rint(quotients, out=quotients)
        payload: bytes = bits.astype("<u2").tobytes() + self._packed(quotients.astype(np.int8).reshape(-1)).tobytes()
        return payload

    @override
    def decode(self, raw: Bytes, out: Array, axis: int | None) -> None:
        """Without an axis, along the last one."""
        shape = out.shape[1:]
        if len(shape) < 2:
            self._vector.decode(raw, out, axis)
            return
        axis = _axis(shape, axis)
        channels = shape[axis]
        scales = from_bf16(np.ascontiguousarray(raw[:, : 2 * channels]).view("<u2"))
        if not np.all((scales >= SMALLEST_SCALE) & (scales <= self.largest_scale)):
            raise CodecError(
                f"a scale of the {self.name} payload is not within {SMALLEST_SCALE:.3g} to {self.largest_scale:.3g}; "
                "encode with slicer.core.codecs.activations.encode"
            )
        values = raw[:, 2 * channels :]
        integers = values.view(np.int8) if self._bits == 8 else _unpacked(values)[:, : math.prod(shape)]
        matrices = (len(raw), *_sides(shape, axis))
        target = out if out.flags.c_contiguous else np.empty(out.shape, dtype=np.float32)
        spread = np.expand_dims(scales, 1 + _reduced(axis))
        np.multiply(integers.reshape(matrices), spread, out=target.reshape(matrices), dtype="f4")
        if target is not out:
            np.copyto(out, target)

    def error_bound(self, activation: Array, axis: int | None) -> npt.NDArray[np.float64]:
        """0.5001 s."""
        if activation.ndim < 2:
            return self._vector.error_bound(activation, axis)
        x = np.ascontiguousarray(activation, dtype=np.float32)
        scales = self.scales_of(x, _measured(x) if axis is None else _axis(x.shape, axis))
        return np.broadcast_to(0.5001 * scales.astype(np.float64), activation.shape)

    def scales_of(self, activation: Array, axis: int) -> Array:
        """The scale of each channel, its peak over 127 (int8) or 7 (int4) rounded up; broadcasts over `activation`.

        Raises:
            CodecError: NaN, infinity, or more than LARGEST.
        """
        with np.errstate(invalid="ignore"):
            bits = self._scale_bits(_matrix(activation, axis), _reduced(axis))
        shape = [1] * activation.ndim
        shape[axis] = -1
        return from_bf16(bits).reshape(shape)

    def _scale_bits(self, x: Array, over: int) -> npt.NDArray[np.uint32]:
        """The scales' upper halves, [C]."""
        peak = np.maximum(x.max(axis=over), -x.min(axis=over))  # NaN stays NaN
        if not np.all(peak <= LARGEST):
            raise refusal(self.name, x, f" ({LARGEST:.3g})")
        scale = np.maximum(peak / np.float32(self._levels), np.float32(SMALLEST_SCALE))
        # Up to the next bf16: positive floats are in the order of their bits.
        bits: npt.NDArray[np.uint32] = (scale.view(np.uint32) + np.uint32(0xFFFF)) >> np.uint32(16)
        return bits

    def _packed(self, integers: npt.NDArray[np.int8]) -> npt.NDArray[np.generic]:
        """As they go on the wire."""
        if self._bits == 8:
            return integers
        nibbles = integers.view(np.uint8) + np.uint8(8)  # -7..7 as 1..15: the sum wraps to the right one
        packed: Bytes = nibbles[0::2].copy()
        packed[: nibbles.size // 2] |= nibbles[1::2] << 4
        return packed


def measured_axis(activation: Array) -> int:
    """The axis along which the peaks of an activation differ most, the first or the last: the last of two axes."""
    last = activation.ndim - 1
    if activation.ndim < 3:
        return last
    magnitude, spread = np.abs(activation), {}
    for axis in (last, 0):
        peaks = magnitude.max(axis=tuple(other for other in range(activation.ndim) if other != axis))
        logs = np.log(np.maximum(peaks, np.float32(SMALLEST_SCALE)).astype(np.float64))
        spread[axis] = float(logs.std())
    return 0 if spread[0] > spread[last] else last


def _measured(activation: Array) -> int:
    """The measured one; the last, where a payload's length could not tell the decoder otherwise."""
    last = activation.ndim - 1
    return last if activation.shape[0] == activation.shape[last] else measured_axis(activation)


def _axis(shape: Sequence[int], axis: int | None) -> int:
    last = len(shape) - 1
    if axis is None or axis == last:
        return last
    if axis != 0:
        raise CodecError(f"axis {axis} of shape {tuple(shape)}: channels run along the first axis or the last")
    return 0


def _reduced(axis: int) -> int:
    """The axis of the matrix that a scale is shared over."""
    return 1 if axis == 0 else 0


def _sides(shape: Sequence[int], axis: int) -> tuple[int, int]:
    return (shape[0], math.prod(shape[1:])) if axis == 0 else (math.prod(shape[:-1]), shape[-1])


def _matrix(activation: Array, axis: int) -> Array:
    """[values, C], or [C, values] for channels first."""
    return activation.reshape(_sides(activation.shape, axis))


def _unpacked(values: Bytes) -> npt.NDArray[np.int8]:
    """int4 bytes [B, N] to integers [B, 2 N]: both halves of a byte become the two bytes of a little-endian word."""
    words = values.astype("<u2")
    words |= words << 4
    words &= 0x0F0F
    integers: npt.NDArray[np.int8] = words.view(np.int8)
    integers -= 8
    return integers
