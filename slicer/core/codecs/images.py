"""Images on the wire, for cut 0: the server decodes them and makes the model's input exactly as timm would.

| codec   | what is sent                                                    | what the server does on it           |
|---------|-----------------------------------------------------------------|--------------------------------------|
| rgb8    | pixels after timm's resize and crop, uint8 [H, W, C], row-major | the rest: to floats, mean, std       |
| png     | the image as it was taken, a PNG file                           | timm's whole transform               |
| jpeg    | the image as it was taken, a JPEG file                          | timm's whole transform of what it is |
| pixels  | height, width, channels; pixels as taken, uint8 [H, W, C]       | timm's whole transform               |
| jpeg-50 | what rgb8 sends, as a JPEG file of quality 50                   | the rest of what is left             |
| jpeg-75 | of quality 75                                                   | the same                             |
| jpeg-90 | of quality 90                                                   | the same                             |
| webp-50 | what rgb8 sends, as a WebP file of quality 50                   | the same                             |
| webp-75 | of quality 75                                                   | the same                             |
| webp-90 | of quality 90                                                   | the same                             |

timm resizes and crops in uint8, so that rgb8 loses nothing: the input equals timm's, bit for bit, and no camera's image
is larger than H * W * C bytes. How long the others are depends on the image.
No planner chooses pixels: it is for who has them in memory and names it. All functions are thread-safe.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from .codec import Array, Transform
from .registry import IMAGE_CODECS, image_codec_named

__all__ = ["IMAGE_CODECS", "decode_images", "encode_image"]


def encode_image(codec: str, image: str | Path | Image.Image, preprocess: Transform, *, quality: int = 90) -> bytes:
    """One image to its payload.

    Args:
        preprocess: of the model; gives rgb8 its size, the others their mode (RGB; L for a model of one channel).
        quality: of JPEG, 1 to 95.

    Raises:
        CodecError: the codec is unknown, or the quality out of range.
        ImageError: the image is one that `images.pixels` refuses.
    """
    return image_codec_named(codec).encode(image, preprocess, quality)


def decode_images(codec: str, payloads: Sequence[bytes | memoryview], preprocess: Transform) -> Array:
    """Payloads to model inputs, float32 [B, C, H, W], in order.

    Raises:
        CodecError: a payload is of the wrong length, damaged, another format, or an image that `images.pixels`
            refuses.
    """
    return image_codec_named(codec).decode(payloads, preprocess)
