"""rgb8: a model's own pixels, uint8 [H, W, C], row-major."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from typing_extensions import override

from ..errors import CodecError
from .codec import Array, ImageCodec, Transform


class Rgb8(ImageCodec):
    """The model's own pixels, before they become floats; exact."""

    name = "rgb8"
    agreement = 1.0
    encode_ns = 1.0
    as_taken = False

    def payload_bytes(self, shape: Sequence[int]) -> int | None:
        """C H W."""
        return math.prod(shape)

    @override
    def encode(self, image: str | Path | Image.Image, transform: Transform, quality: int) -> bytes:
        return transform.crop(image).tobytes()

    @override
    def decode(self, payloads: Sequence[bytes | memoryview], transform: Transform) -> Array:
        channels, height, width = transform.shape
        want = math.prod(transform.shape)
        for payload in payloads:
            if len(payload) != want:
                raise CodecError(
                    f"the payload has {len(payload)} bytes; rgb8 of {height}x{width}x{channels} has {want}"
                )
        pixels = np.frombuffer(b"".join(payloads), dtype=np.uint8)
        return transform.normalise(pixels.reshape(len(payloads), height, width, channels))
