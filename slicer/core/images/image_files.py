"""Files of images and frames of videos, read or refused by name."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from ..errors import ImageError
from ..video import frames
from .pixels import check_size, plain


def read_image(path: str | Path) -> Image.Image:
    """The decoded image of a file, or a video's frame by its name (`video.frames`). Thread-safe.

    Raises:
        ImageError: with the file's name when it is none, too large, or damaged.
    """
    if (frame := frames.parse_name(path)) is not None and not Path(path).exists():
        return frames.read_frame(*frame)
    try:
        with Path(path).open("rb") as file:
            image: Image.Image = Image.open(file)
            check_size(*image.size)  # by the header
            image.load()
            image.getexif()  # reads on in the file
            return image
    except FileNotFoundError:
        raise ImageError(f"image {path}: there is no such file") from None
    except ImageError as error:
        raise ImageError(f"image {path}: {error}") from None
    except Exception as error:  # each of PIL's readers has its own classes for a damaged file; memory may not suffice
        said = str(error) or type(error).__name__
        raise ImageError(f"image {path} cannot be read ({said}); remove it or replace it by a valid image") from error


def plain_image(image: str | Path | Image.Image, mode: str, *, upright: bool) -> Image.Image:
    """As `pixels.plain`, of an image or a file. Thread-safe.

    Raises:
        ImageError: as `plain` and `read_image`; with the name of the file.
    """
    if isinstance(image, Image.Image):
        return plain(image, mode, upright=upright)
    try:
        return plain(read_image(image), mode, upright=upright)
    except ImageError as error:
        if str(image) in str(error):
            raise
        raise ImageError(f"image {image}: {error}") from error
