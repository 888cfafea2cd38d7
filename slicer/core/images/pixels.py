"""Any image as 8-bit RGB or grey, or a refusal: whatever PIL would clip or turn into nonsense never becomes an input.

| PIL's mode                                   | becomes                                                             |
|----------------------------------------------|---------------------------------------------------------------------|
| 1, L, P, RGB, CMYK, YCbCr, HSV, ... (8 bits) | what PIL converts it to, as timm has it; transparency is dropped    |
| I;16, I;16L, I;16B, I;16N                    | 8 bits of the mode's 16, rounded (PIL itself would clip at 255)     |
| the same, from a TIFF file                   | as the file says: of its 12 or 16 bits, and 0 is white where it is  |
| I, from a PNG or PGM file                    | 8 bits of 16: so these files' samples are given                     |
| I from elsewhere, F, signed samples          | refused: their numbers have no range that says what white is        |

Images are turned upright by their EXIF orientation, unless the caller wants them as timm has them, which ignores it.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageOps

from ..errors import ImageError

#: No image of more pixels is decoded: a file of some kB can claim gigabytes.
MAX_PIXELS = 50_000_000

#: An image may be so many times as long as it is wide. timm scales the shorter edge to the model's size, so that one of
#: 1 x 65,000 pixels would become 16 million pixels wide.
MAX_ASPECT = 32

_16_BIT = ("I;16", "I;16L", "I;16B", "I;16N")
_32_BIT_THAT_HOLD_16 = ("PNG", "PPM")  # what Pillow gives these files' 16-bit samples as
_FULL_RANGE = (None, "PNG", "PPM", "IM", "JPEG2000")  # whose 16 bits run from black to white; None: made in memory

_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339  # TIFF's tags
_WHITE_IS_ZERO, _SIGNED = 0, 2


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
        return _eight_bits(turned, image).convert(mode)
    except ImageError:
        raise
    except Exception as error:  # PIL has no class of its own for what it cannot convert
        raise ImageError(
            f"an image of mode {image.mode} cannot be made {mode} ({error}); save it as 8-bit grey or RGB"
        ) from error


def _eight_bits(image: Image.Image, source: Image.Image) -> Image.Image:
    """`image` in a mode of 8 bits; `source` is as it was opened, and knows of its file."""
    file_format = source.format
    tags = getattr(source, "tag_v2", {}) if file_format == "TIFF" else {}
    signed = _SIGNED in tags.get(_SAMPLE_FORMAT, ())
    if image.mode in _16_BIT and file_format == "TIFF" and not signed:
        # Pillow hands these samples over as they are, 12 bits as well, and leaves out what it does for 8: to invert.
        grey = _scaled(image, (1 << tags.get(_BITS, (16,))[0]) - 1)
        return ImageOps.invert(grey) if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO else grey
    if image.mode in _16_BIT and file_format in _FULL_RANGE:
        return _scaled(image, 65535)
    if image.mode == "I" and file_format in _32_BIT_THAT_HOLD_16:
        return _scaled(image, 65535)
    if signed or image.mode in ("I", "F") or image.mode.startswith(("I;", "F;")):
        raise ImageError(
            f"an image of mode {image.mode}{' with signed samples' if signed else ''}: its numbers do not say which of "
            "them is white; save it as 8- or 16-bit grey, or as RGB"
        )
    # PIL converts these to the others by way of one mode only.
    return image.convert({"La": "LA", "LAB": "RGB"}[image.mode]) if image.mode in ("La", "LAB") else image


def _scaled(image: Image.Image, white: int) -> Image.Image:
    """Its samples of 0 to `white` as 8 bits, rounded."""
    samples = np.asarray(image).astype(np.uint32)
    return Image.fromarray(((samples * 255 + white // 2) // white).clip(max=255).astype(np.uint8))


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # a damaged EXIF block says nothing, and the image itself may be whole
        return image
