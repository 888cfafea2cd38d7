"""Decode a batch of payloads on an accelerator: only the encoded bytes cross to it, in one copy."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from slicer import codec as codecs
from slicer import codec_int
from slicer.errors import CodecError

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def decode_batch_to(
    codec: str, payloads: Sequence[bytes | memoryview], shape: Sequence[int], device: torch.device | str
) -> torch.Tensor:
    """Payloads of one codec and shape to one float32 [B, *shape] tensor on `device`; the bits of `codec.decode_batch`.

    Waits for the device once, to learn whether all is finite. Little-endian hosts only. Thread-safe.

    Raises:
        CodecError: as `slicer.codec.decode_batch`.
    """
    raw_bytes = codecs.joined(codec, payloads, shape)
    if not payloads:
        return torch.empty((0, *shape), device=device)
    raw = torch.frombuffer(bytearray(raw_bytes), dtype=torch.uint8).to(device).reshape(len(payloads), -1)
    if codec in codec_int.BITS and codec_int.has_channels(shape):
        return _from_integers(codec, raw, shape)
    stored = "bf16" if codec in codec_int.BITS else codec
    rows = raw.view(_DTYPES[stored]).reshape(len(payloads), *shape).float()
    if not bool(torch.isfinite(rows).all()):
        raise CodecError("the activation holds NaN or infinity; check the image and the head's weights")
    return rows


def _from_integers(codec: str, raw: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    axis = codec_int.channel_axis(shape)
    scales = raw[:, : 2 * shape[axis]].reshape(-1).view(torch.bfloat16).float()
    if not bool(((scales >= codec_int.SMALLEST_SCALE) & (scales <= codec_int.largest_scale(codec))).all()):
        raise codec_int.bad_scale(codec)
    values = raw[:, 2 * shape[axis] :]
    if codec_int.BITS[codec] == 4:
        pairs = torch.stack((values & 15, values >> 4), dim=-1).flatten(1)
        integers = pairs[:, : math.prod(shape)].float() - 8
    else:
        integers = values.view(torch.int8).float()
    broadcast = [len(raw)] + [1] * len(shape)
    broadcast[1 + axis] = shape[axis]
    return integers.reshape(len(raw), *shape).mul_(scales.reshape(broadcast))
