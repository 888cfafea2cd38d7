"""png and jpeg: an image as it was taken, as a file."""

from __future__ import annotations

import io
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError
from typing_extensions import override

from ..errors import CodecError, ImageError
from ..images.pixels import MAX_PIXELS, check_size
from .codec import Array, ImageCodec, Transform


class _File(ImageCodec):
    """A file in PIL's format of the codec's name."""

    @override
    def encode(self, image: str | Path | Image.Image, transform: Transform, quality: int) -> bytes:
        if not 1 <= quality <= 95:
            raise CodecError(f"JPEG quality {quality}: it must be from 1 to 95")
        # Upright already, and without its EXIF block: the server has nothing left to turn.
        file = io.BytesIO()
        self._save(transform.plain(image), file, quality)
        return file.getvalue()

    @abstractmethod
    def _save(self, image: Image.Image, file: io.BytesIO, quality: int) -> None:
        """Write the file."""

    @override
    def decode(self, payloads: Sequence[bytes | memoryview], transform: Transform) -> Array:
        rows = np.empty((len(payloads), *transform.shape), dtype=np.float32)
        for row, payload in zip(rows, payloads, strict=True):
            try:
                row[...] = transform(opened(self.name, payload))
            except ImageError as error:
                raise CodecError(f"the {self.name} payload: {error}") from error
        return rows


class Png(_File):
    """The image as it was taken, exact."""

    name = "png"
    agreement = 1.0
    suffixes = (".png",)

    def _save(self, image: Image.Image, file: io.BytesIO, quality: int) -> None:
        image.save(file, "PNG", compress_level=1)


class Jpeg(_File):
    """The image as it was taken; lossy in the image itself."""

    name = "jpeg"
    agreement = 0.98
    suffixes = (".jpg", ".jpeg")

    def _save(self, image: Image.Image, file: io.BytesIO, quality: int) -> None:
        image.save(file, "JPEG", quality=quality)


def opened(codec: str, payload: bytes | memoryview) -> Image.Image:
    """An image of PIL's format of this name, read whole. Raises CodecError, ImageError: it is too large."""
    try:
        image = Image.open(io.BytesIO(payload), formats=[codec.upper()])
        check_size(*image.size)  # from the header, before anything is decoded
        image.load()
        return image
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise CodecError(f"the {codec} payload: {error}; at most {MAX_PIXELS} are decoded: make it smaller") from error
    except UnidentifiedImageError as error:
        raise CodecError(f"the payload of {len(payload)} bytes is no {codec} image ({type(error).__name__})") from error
    except Exception as error:  # PIL's readers raise what their parts raise: of zlib, struct, of memory
        said = str(error) or type(error).__name__
        raise CodecError(f"the {codec} payload of {len(payload)} bytes is damaged ({said}); send it again") from error
