"""What an image is given as: the path of a file, a file's bytes, or pixels in memory."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from ..errors import ImageError
from .pixels import check_size

#: The path of a file, a file's bytes, or an image of Pillow.
ImageSource = str | Path | bytes | Image.Image


def readable(source: ImageSource) -> str | Path | Image.Image:
    """The same, with a file's bytes as an image, decoded. Raises ImageError: they are none, or too large."""
    if not isinstance(source, bytes):
        return source
    try:
        image: Image.Image = Image.open(io.BytesIO(source))
        check_size(*image.size)  # by the header
        image.load()
        return image
    except ImageError:
        raise
    except Exception as error:  # each of PIL's readers has its own classes for a damaged file
        raise ImageError(
            f"{len(source)} bytes that begin with {source[:8]!r} are no image that Pillow reads ({error}); give the "
            "bytes of an image file"
        ) from error
