"""int8 and int4 with a scale per channel: what `slicer.codecs.activations` does for these two.

The payload, little-endian, nothing between the parts:

    scales   uint16 [C]  the upper half of a float32 (bf16), in the channels' order
    values   int8: a byte each, two's complement
             int4: two to a byte, the first in the lower half, each plus 8; an odd last one leaves the upper half 0

value = integer * scale. A scale has 8 significant bits and an integer at most 8, so that their product is exact in
float32: every decoder, on whatever hardware, gives the same bits.

**Axis.** A channel runs along one axis, the first or the last. Which one is a fact of the model that its manifest holds
(`slicer.shards.channel_axes`); the bound in `slicer.codecs.activations` holds along any axis, the accuracy does not. A
vector (a pooled feature) has nothing to share a scale over; `slicer.codecs.activations` sends it as bf16.

Why per channel: transformers have a few channels a hundred times larger than the rest, in every token. One scale per
tensor or per token is then set by them and the rest is rounded away (benchmarks/models/codecs.py shows it).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from slicer.errors import CodecError

Array = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

#: Bits of a value by the codec's name.
BITS: dict[str, int] = {"int8": 8, "int4": 4}

#: No magnitude above this is encoded: what is decoded then stays finite whatever the integers are.
LARGEST = 2.0**126

#: The smallest scale, float32's smallest normal number: its reciprocal is finite, and no arithmetic meets a denormal.
SMALLEST_SCALE = 2.0**-126


def has_channels(shape: Sequence[int]) -> bool:
    """Whether there are values to share a scale: a vector, or a lone number, has none."""
    return len(shape) > 1


def encoded_bytes(codec: str, shape: Sequence[int], axis: int) -> int:
    """Exact payload size in bytes."""
    return 2 * shape[axis] + (math.prod(shape) * BITS[codec] + 7) // 8


def scales_of(codec: str, activation: Array, axis: int) -> Array:
    """The scale of each channel, its peak over 127 (int8) or 7 (int4) rounded up; broadcasts over `activation`.

    Raises:
        CodecError: NaN, infinity, or more than LARGEST.
    """
    bits = _scale_bits(codec, _matrix(activation, axis), _reduced(axis))
    shape = [1] * activation.ndim
    shape[axis] = -1
    return _floats(bits).reshape(shape)


def encode(codec: str, activation: Array, axis: int) -> bytes:
    """One contiguous activation of at least two axes to its payload; its channels run along `axis`, 0 or the last.

    Raises:
        CodecError: NaN, infinity, or more than LARGEST.
    """
    x, over = _matrix(activation, axis), _reduced(axis)
    bits = _scale_bits(codec, x, over)
    # No clipping: a scale is rounded up, so the largest quotient rounds to 127 (7) at most.
    quotients = x * np.expand_dims(np.float32(1) / _floats(bits), over)
    np.rint(quotients, out=quotients)
    payload: bytes = bits.astype("<u2").tobytes() + _packed(codec, quotients.astype(np.int8).reshape(-1)).tobytes()
    return payload


def decode(codec: str, raw: Bytes, out: Array, axis: int) -> None:
    """Decode payloads `raw` [B, encoded_bytes] into `out` [B, *shape], which is contiguous.

    Raises:
        CodecError: a scale is none that `encode` writes.
    """
    shape = out.shape[1:]
    channels = shape[axis]
    scales = _floats(np.ascontiguousarray(raw[:, : 2 * channels]).view("<u2"))
    if not np.all((scales >= SMALLEST_SCALE) & (scales <= largest_scale(codec))):
        raise bad_scale(codec)
    values = raw[:, 2 * channels :]
    integers = values.view(np.int8) if BITS[codec] == 8 else _unpacked(values)[:, : math.prod(shape)]
    matrices = (len(raw), *_sides(shape, axis))
    np.multiply(
        integers.reshape(matrices), np.expand_dims(scales, 1 + _reduced(axis)), out=out.reshape(matrices), dtype="f4"
    )


def largest_scale(codec: str) -> float:
    """The largest scale that `encode` writes; the largest integer times it is finite."""
    return LARGEST / _levels(codec) * (1 + 2.0**-7)


def bad_scale(codec: str) -> CodecError:
    """Of a payload with a scale outside of its range."""
    return CodecError(
        f"a scale of the {codec} payload is not within {SMALLEST_SCALE:.3g} to {largest_scale(codec):.3g}; "
        "encode with slicer.codecs.activations.encode"
    )


def _levels(codec: str) -> int:
    return 127 if BITS[codec] == 8 else 7


def _reduced(axis: int) -> int:
    """The axis of the matrix that a scale is shared over."""
    return 1 if axis == 0 else 0


def _sides(shape: Sequence[int], axis: int) -> tuple[int, int]:
    return (shape[0], math.prod(shape[1:])) if axis == 0 else (math.prod(shape[:-1]), shape[-1])


def _matrix(activation: Array, axis: int) -> Array:
    """[values, C], or [C, values] for channels first."""
    return activation.reshape(_sides(activation.shape, axis))


def _packed(codec: str, integers: npt.NDArray[np.int8]) -> npt.NDArray[np.generic]:
    """As they go on the wire."""
    if BITS[codec] == 8:
        return integers
    nibbles = integers.view(np.uint8) + np.uint8(8)  # -7..7 as 1..15: the sum wraps to the right one
    packed: Bytes = nibbles[0::2].copy()
    packed[: nibbles.size // 2] |= nibbles[1::2] << 4
    return packed


def _unpacked(values: Bytes) -> npt.NDArray[np.int8]:
    """int4 bytes [B, N] to integers [B, 2 N]: both halves of a byte become the two bytes of a little-endian word."""
    words = values.astype("<u2")
    words |= words << 4
    words &= 0x0F0F
    integers: npt.NDArray[np.int8] = words.view(np.int8)
    integers -= 8
    return integers


def _scale_bits(codec: str, x: Array, over: int) -> npt.NDArray[np.uint32]:
    """The scales' upper halves, [C]."""
    with np.errstate(invalid="ignore"):
        peak = np.maximum(x.max(axis=over), -x.min(axis=over))  # NaN stays NaN
    if not np.all(peak <= LARGEST):
        if np.isfinite(peak).all():
            raise CodecError(
                f"the activation reaches {float(peak.max()):.3g}, more than {codec} can hold ({LARGEST:.3g}); "
                "use fp32 for this model"
            )
        raise CodecError("the activation holds NaN or infinity; check the image and the head's weights")
    scale = np.maximum(peak / np.float32(_levels(codec)), np.float32(SMALLEST_SCALE))
    # Up to the next bf16: positive floats are in the order of their bits.
    bits: npt.NDArray[np.uint32] = (scale.view(np.uint32) + np.uint32(0xFFFF)) >> np.uint32(16)
    return bits


def _floats(bits: npt.NDArray[np.unsignedinteger]) -> Array:
    floats: Array = (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return floats
