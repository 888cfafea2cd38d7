"""Any image as 8-bit RGB or grey, or a refusal: whatever PIL would clip or turn into nonsense never becomes an input.

| PIL's mode                                   | becomes                                                             |
|----------------------------------------------|---------------------------------------------------------------------|
| 1, L, P, RGB, CMYK, YCbCr, HSV, ... (8 bits) | what PIL converts it to, as timm has it; transparency is dropped    |
| I;16, I;16L, I;16B, I;16N                    | 8 bits of the mode's 16, rounded (PIL itself would clip at 255)     |
| I, from a PNG or PGM file                    | the same: these files hold 16 bits                                  |
| I from elsewhere, F                          | refused: their numbers have no range that says what white is        |

Images are turned upright by their EXIF orientation, unless the caller wants them as timm has them, which ignores it.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageOps

from slicer.errors import ImageError

#: No image of more pixels is decoded: a file of some kB can claim gigabytes.
MAX_PIXELS = 50_000_000

#: An image may be so many times as long as it is wide. timm scales the shorter edge to the model's size, so that one of
#: 1 x 65,000 pixels would become 16 million pixels wide.
MAX_ASPECT = 32

_16_BIT = ("I;16", "I;16L", "I;16B", "I;16N")
_32_BIT_THAT_HOLD_16 = ("PNG", "PPM")  # what Pillow gives these files' 16-bit samples as


def check_size(width: int, height: int) -> None:
    """Refuse an image by its header, before anything is decoded.

    Raises:
        ImageError: it is empty, of more than MAX_PIXELS, or longer than MAX_ASPECT times its width.
    """
    if width < 1 or height < 1:
        raise ImageError(f"an image of {width}x{height} pixels is empty; send one with pixels")
    if width * height > MAX_PIXELS:
        raise ImageError(f"an image of {width}x{height} pixels; at most {MAX_PIXELS} are decoded: make it smaller")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ImageError(
            f"an image of {width}x{height} pixels; the longer edge may be {MAX_ASPECT} times the shorter one: crop it"
        )


def plain(image: Image.Image, mode: str, *, upright: bool = True) -> Image.Image:
    """The image in `mode` (RGB or L), 8 bits a channel; a new image, or the same one if nothing is to be done.

    Args:
        upright: turn it as its EXIF orientation says.

    Raises:
        ImageError: its size is out of bounds (`check_size`), or its mode cannot be converted faithfully.
    """
    check_size(*image.size)
    try:
        turned = _upright(image) if upright else image
        return _eight_bits(turned, getattr(image, "format", None)).convert(mode)
    except ImageError:
        raise
    except Exception as error:  # PIL has no class of its own for what it cannot convert
        raise ImageError(
            f"an image of mode {image.mode} cannot be made {mode} ({error}); save it as 8-bit grey or RGB"
        ) from error


def _eight_bits(image: Image.Image, file_format: str | None) -> Image.Image:
    if image.mode in _16_BIT or (image.mode == "I" and file_format in _32_BIT_THAT_HOLD_16):
        values = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
    if image.mode in ("I", "F") or image.mode.startswith(("I;", "F;")):
        raise ImageError(
            f"an image of mode {image.mode}: its numbers do not say which of them is white; save it as 8- or 16-bit "
            "grey, or as RGB"
        )
    # PIL converts these to the others by way of one mode only.
    return image.convert({"La": "LA", "LAB": "RGB"}[image.mode]) if image.mode in ("La", "LAB") else image


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # a damaged EXIF block says nothing, and the image itself may be whole
        return image
