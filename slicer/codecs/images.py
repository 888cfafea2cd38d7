"""Images on the wire, for cut 0: the server decodes them and makes the model's input exactly as timm would.

| codec | what is sent                                                    | what the server does on it           |
|-------|-----------------------------------------------------------------|--------------------------------------|
| rgb8  | pixels after timm's resize and crop, uint8 [H, W, C], row-major | the rest: to floats, mean, std       |
| png   | the image as it was taken, a PNG file                           | timm's whole transform               |
| jpeg  | the image as it was taken, a JPEG file                          | timm's whole transform of what it is |

timm resizes and crops in uint8, so that rgb8 loses nothing: the input equals timm's, bit for bit, and no camera's image
is larger than H * W * C bytes. How long a PNG or JPEG is depends on the image. All functions are thread-safe.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from slicer.codecs.activations import IMAGE_CODECS
from slicer.errors import CodecError, ImageError
from slicer.models.images import Preprocess
from slicer.models.pixels import MAX_PIXELS, check_size

Array = npt.NDArray[np.float32]


def encode_image(codec: str, image: str | Path | Image.Image, preprocess: Preprocess, *, quality: int = 90) -> bytes:
    """One image to its payload.

    Args:
        preprocess: of the model; gives rgb8 its size, png and jpeg their mode (RGB; L for a model of one channel).
        quality: of JPEG, 1 to 95.

    Raises:
        CodecError: the codec is unknown, or the quality out of range.
        ImageError: the image is one that `slicer.models.pixels` refuses.
    """
    _known(codec)
    if codec == "rgb8":
        return preprocess.crop(image).tobytes()
    if not 1 <= quality <= 95:
        raise CodecError(f"JPEG quality {quality}: it must be from 1 to 95")
    # Upright already, and without its EXIF block: the server has nothing left to turn.
    file, plain = io.BytesIO(), preprocess.plain(image)
    if codec == "jpeg":
        plain.save(file, "JPEG", quality=quality)
    else:
        plain.save(file, "PNG", compress_level=1)
    return file.getvalue()


def decode_images(codec: str, payloads: Sequence[bytes | memoryview], preprocess: Preprocess) -> Array:
    """Payloads to model inputs, float32 [B, C, H, W], in order.

    Raises:
        CodecError: a payload is of the wrong length, damaged, another format, or an image that `slicer.models.pixels`
            refuses.
    """
    _known(codec)
    channels, height, width = preprocess.shape
    if codec == "rgb8":
        want = math.prod(preprocess.shape)
        for payload in payloads:
            if len(payload) != want:
                raise CodecError(
                    f"the payload has {len(payload)} bytes; rgb8 of {height}x{width}x{channels} has {want}"
                )
        pixels = np.frombuffer(b"".join(payloads), dtype=np.uint8)
        return preprocess.normalise(pixels.reshape(len(payloads), height, width, channels))
    rows = np.empty((len(payloads), *preprocess.shape), dtype=np.float32)
    for row, payload in zip(rows, payloads, strict=True):
        try:
            row[...] = preprocess(_opened(codec, payload))
        except ImageError as error:
            raise CodecError(f"the {codec} payload: {error}") from error
    return rows


def _opened(codec: str, payload: bytes | memoryview) -> Image.Image:
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


def _known(codec: str) -> None:
    if codec not in IMAGE_CODECS:
        raise CodecError(f"unknown image codec {codec!r}; this build has {', '.join(IMAGE_CODECS)}")
