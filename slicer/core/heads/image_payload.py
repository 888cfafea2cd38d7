"""An image at cut 0, in a codec's form, and which part of the work is the model's preprocessing."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from ..codecs.codec import Array, Transform
from ..codecs.images import encode_image
from ..codecs.registry import image_codec_named
from ..errors import ImageError
from ..images.source import ImageSource, readable
from ..protocol.oip.requests import codec_of


def image_payload(name: str, image: ImageSource, prepare: Transform) -> tuple[bytes, float]:
    """The payload, and the ms that bringing the image to the model's size took of the time. A file that is in the
    codec's form already is sent as it is.

    Raises:
        ImageError: the file cannot be read.
    """
    timed = _TimedCrop(prepare)
    return _payload(name, image, timed), timed.took_ms


def _payload(name: str, image: ImageSource, prepare: Transform) -> bytes:
    codec = image_codec_named(name)
    if isinstance(image, bytes):
        return image if codec_of(image) == name else encode_image(name, readable(image), prepare)
    if isinstance(image, (str, Path)) and Path(image).suffix.lower() in codec.suffixes:
        try:
            return Path(image).read_bytes()
        except OSError as error:
            raise ImageError(f"image {image}: cannot be read ({error.strerror})") from error
    return encode_image(name, image, prepare)


class _TimedCrop:
    """A `Transform` that says how long its crop took."""

    def __init__(self, prepare: Transform) -> None:
        self._prepare, self.took_ms = prepare, 0.0

    @property
    def shape(self) -> tuple[int, int, int]:
        return self._prepare.shape

    def __call__(self, image: Image.Image) -> Array:
        return self._prepare(image)

    def plain(self, image: str | Path | Image.Image) -> Image.Image:
        return self._prepare.plain(image)

    def crop(self, image: str | Path | Image.Image) -> Image.Image:
        began = time.perf_counter()
        crop = self._prepare.crop(image)
        self.took_ms += (time.perf_counter() - began) * 1e3
        return crop

    def normalise(self, pixels: npt.NDArray[np.uint8]) -> Array:
        return self._prepare.normalise(pixels)
