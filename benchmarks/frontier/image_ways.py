"""The opponents at cut 0: the image as the model crops it, in the codecs that a device has anyway."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.frontier.answers import Floats, Judge, Worth
from benchmarks.frontier.clock import Times
from benchmarks.frontier.sent import Sent
from slicer.models.images import Preprocess

_JPEG = (5, 10, 20, 30, 40, 50, 60, 70, 75, 80, 85, 90, 95)
_JPEG_SHRUNK = (40, 60, 75, 85, 92, 98)


@dataclass(frozen=True)
class ImageWay:
    """One codec of images.

    Attributes:
        form: Pillow's name of it. options: of `Image.save`.
        side: the image is shrunk to so much of its side before, and enlarged by the server.
    """

    form: str
    qualities: tuple[int, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    side: float = 1.0

    def packed(self, image: Image.Image, quality: int) -> bytes:
        """What the device sends."""
        if self.side != 1:
            smaller = (max(round(self.side * image.width), 1), max(round(self.side * image.height), 1))
            image = image.resize(smaller, Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        image.save(buffer, self.form, quality=quality, **self.options)
        return buffer.getvalue()

    def unpacked(self, payload: bytes, size: tuple[int, int], mode: str) -> Image.Image:
        """What the server has of it."""
        image = Image.open(io.BytesIO(payload)).convert(mode)
        return image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)


_OPTIMISED = {"optimize": True, "subsampling": 2}

#: The way that BD-rates count against first: what a careful sender would take who has nothing but JPEG.
OPPONENT = "jpeg optimised"

WAYS: dict[str, ImageWay] = {
    "jpeg": ImageWay("JPEG", _JPEG),
    OPPONENT: ImageWay("JPEG", _JPEG, _OPTIMISED),
    "jpeg 4:4:4": ImageWay("JPEG", _JPEG, {"optimize": True, "subsampling": 0}),
    "webp": ImageWay("WEBP", (5, 15, 30, 45, 60, 75, 90), {"method": 6}),
    "avif": ImageWay("AVIF", (25, 40, 50, 60, 70, 80, 90)),
    "jpeg of 3/4 side": ImageWay("JPEG", _JPEG_SHRUNK, _OPTIMISED, side=0.75),
    "jpeg of 1/2 side": ImageWay("JPEG", _JPEG_SHRUNK, _OPTIMISED, side=0.5),
}

#: The image in its own size, without loss; where that is no larger than what the model takes.
NATIVE = "own size"


class ImageWays:
    """Sends images.

    Args:
        images: as the model crops them. preprocess: the model's. judge: of the same images.
    """

    def __init__(self, images: Sequence[Image.Image], preprocess: Preprocess, judge: Judge) -> None:
        self._images, self._preprocess, self._judge = images, preprocess, judge
        self._known: dict[bytes, Worth] = {}

    def sent(self, way: ImageWay) -> list[Sent]:
        """Every quality of a way."""
        found = []
        for quality in way.qualities:
            encode, decode = Times(), Times()
            payloads = [encode.of(way.packed, image, quality) for image in self._images]
            back = [
                decode.of(way.unpacked, payload, image.size, image.mode)
                for payload, image in zip(payloads, self._images, strict=True)
            ]
            sizes = np.array([len(payload) for payload in payloads], np.float64)
            found.append(Sent(quality, sizes, self._worth(inputs_of(back, self._preprocess)), encode.ms, decode.ms))
        return found

    def _worth(self, inputs: Floats) -> Worth:
        """Equal images are run once, such as JPEG's with other Huffman tables."""
        key = hashlib.sha256(inputs.tobytes()).digest()
        if key not in self._known:
            self._known[key] = self._judge.worth(0, inputs)
        return self._known[key]


def native(photos: Sequence[Image.Image], preprocess: Preprocess, judge: Judge) -> Sent | None:
    """The images in their own size, as PNG or as plain bytes, whichever is smaller; None: one is larger than what the
    model takes."""
    _, height, width = preprocess.shape
    if any(photo.width * photo.height > width * height for photo in photos):
        return None
    encode, decode = Times(), Times()
    payloads = [encode.of(_png, photo) for photo in photos]
    back = [preprocess.crop(decode.of(_opened, payload)) for payload in payloads]
    sizes = [
        min(len(payload), photo.width * photo.height * len(photo.getbands()))
        for payload, photo in zip(payloads, photos, strict=True)
    ]
    worth = judge.worth(0, inputs_of(back, preprocess))
    return Sent(None, np.array(sizes, np.float64), worth, encode.ms, decode.ms)


def inputs_of(images: Sequence[Image.Image], preprocess: Preprocess) -> Floats:
    """The model's inputs of its crops."""
    pixels = np.stack([np.asarray(image).reshape(image.height, image.width, -1) for image in images])
    return preprocess.normalise(pixels)


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _opened(payload: bytes) -> Image.Image:
    image: Image.Image = Image.open(io.BytesIO(payload))
    image.load()
    return image
