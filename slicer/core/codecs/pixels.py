"""pixels: an image as it was taken, uncompressed: height, width and channels, then uint8 [H, W, C], row-major."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from typing_extensions import override

from ..errors import CodecError, ImageError
from ..images.pixels import check_size
from .codec import Array, ImageCodec, Transform

_HEAD = struct.Struct("<III")  # as `protocol.oip.requests` writes it


class Pixels(ImageCodec):
    """The image as it was taken, of any size, for who has it in memory; exact, and many times a PNG's size.

    A planner leaves it to who names it: a camera's own file is always smaller.
    """

    name = "pixels"
    agreement = 1.0
    encode_ns = 1.0
    planned = False

    @override
    def encode(self, image: str | Path | Image.Image, transform: Transform, quality: int) -> bytes:
        pixels = np.asarray(transform.plain(image))
        height, width = pixels.shape[:2]
        return _HEAD.pack(height, width, pixels.size // (height * width)) + pixels.tobytes()

    @override
    def decode(self, payloads: Sequence[bytes | memoryview], transform: Transform) -> Array:
        rows = np.empty((len(payloads), *transform.shape), dtype=np.float32)
        for row, payload in zip(rows, payloads, strict=True):
            try:
                row[...] = transform(_image(memoryview(payload)))
            except ImageError as error:
                raise CodecError(f"the pixels payload of {len(payload)} bytes: {error}") from error
        return rows


def _image(payload: memoryview) -> Image.Image:
    if len(payload) < _HEAD.size:
        raise CodecError(f"a payload of {len(payload)} bytes; pixels begin with {_HEAD.size} bytes of sizes")
    height, width, channels = _HEAD.unpack_from(payload)
    check_size(width, height)
    if channels not in (1, 3, 4):
        raise CodecError(f"pixels of {channels} channels; there are images of 1 (grey), 3 (RGB) and 4 (RGBA)")
    if len(payload) - _HEAD.size != height * width * channels:
        raise CodecError(
            f"{len(payload) - _HEAD.size} bytes of pixels; {height}x{width}x{channels} has {height * width * channels}"
        )
    pixels = np.frombuffer(payload, np.uint8, offset=_HEAD.size)
    return Image.fromarray(pixels.reshape((height, width) if channels == 1 else (height, width, channels)))
