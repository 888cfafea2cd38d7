"""jpeg-75, webp-75, ...: the image as the model crops it, in a lossy file of one quality.

Unlike a camera's own file it is of the model's size: small, and of a size that calibration knows beforehand.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from typing_extensions import override

from ..errors import CodecError
from .codec import Array, ImageCodec, Transform
from .image_files import opened

#: How each format is written: small, rather than at once.
_SAVED: dict[str, dict[str, Any]] = {
    "jpeg": {"optimize": True, "subsampling": "4:2:0"},
    "webp": {"method": 4},
}

#: Of each format that has a codec of its own.
QUALITIES = (50, 75, 90)


class Cropped(ImageCodec):
    """One format at one quality. What it loses depends on the model: a planner takes it where calibration measured it.

    Args:
        form: ``jpeg`` or ``webp``. file_quality: of it, 1 to 95.
    """

    as_taken = False
    encode_ns = 20.0

    def __init__(self, form: str, file_quality: int) -> None:
        self.name = f"{form}-{file_quality}"
        self._form, self._quality = form, file_quality

    @override
    def encode(self, image: str | Path | Image.Image, transform: Transform, quality: int) -> bytes:
        file = io.BytesIO()
        crop = transform.crop(image)
        options = _SAVED[self._form] if crop.mode == "RGB" or self._form == "webp" else {"optimize": True}
        crop.save(file, self._form.upper(), quality=self._quality, **options)
        return file.getvalue()

    @override
    def decode(self, payloads: Sequence[bytes | memoryview], transform: Transform) -> Array:
        channels, height, width = transform.shape
        pixels = np.empty((len(payloads), height, width, channels), np.uint8)
        for row, payload in zip(pixels, payloads, strict=True):
            image = opened(self._form, payload)
            if image.size != (width, height):
                raise CodecError(
                    f"the {self.name} payload of {len(payload)} bytes is {image.width} x {image.height}; the "
                    f"model takes {width} x {height}: send it cropped, or by codec jpeg or png"
                )
            row[...] = np.asarray(image.convert("L" if channels == 1 else "RGB")).reshape(height, width, channels)
        return transform.normalise(pixels)
