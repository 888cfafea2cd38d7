"""Images of an application as inputs of the protocol. JPEG and PNG files travel as they are, all else as pixels."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from ..errors import ImageError
from ..images.pixels import plain
from ..protocol.oip.requests import IMAGE, is_image_file
from ..protocol.oip.tensors import Tensor

#: A file's path, a file's bytes, an image of Pillow, or uint8 [H, W, C] (or [H, W], grey).
ImageLike = str | Path | bytes | bytearray | memoryview | Image.Image | npt.NDArray[np.uint8]

#: How what is no file travels: as it is, or packed without loss.
As = Literal["pixels", "png"]


def image_tensor(image: ImageLike, send_as: As = "pixels") -> Tensor:
    """The input IMAGE of one image: BYTES [1], or UINT8 [1, H, W, C]. Blocks while a file is read. Thread-safe.

    Args:
        send_as: of what is neither a JPEG nor a PNG file; such an image is turned upright, and 8-bit RGB or grey.

    Raises:
        ImageError: the file cannot be read, it is no image, or an array is none of uint8 [H, W, C] or [H, W].
    """
    if send_as not in ("pixels", "png"):
        raise ImageError(f"send_as={send_as!r}; an image goes as 'pixels' or as 'png'")
    if isinstance(image, (str, Path)):
        path = Path(image)
        try:
            image = path.read_bytes()
        except OSError as error:
            raise ImageError(f"image {path}: {error.strerror or error}; give the path of a file") from error
    if isinstance(image, (bytes, bytearray, memoryview)):
        if is_image_file(image):
            return Tensor(IMAGE, "BYTES", (1,), [image])
        return _of_picture(_opened(image), send_as)
    if isinstance(image, Image.Image):
        return _of_picture(image, send_as)
    return _of_array(image, send_as)


def _opened(data: bytes | bytearray | memoryview) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data))
    except (UnidentifiedImageError, Image.DecompressionBombError, Image.DecompressionBombWarning, OSError) as error:
        raise ImageError(
            f"{len(data)} bytes that begin with {bytes(data[:8])!r} are no image that Pillow reads ({error}); "
            "give the bytes of an image file"
        ) from error


def _of_picture(image: Image.Image, send_as: As) -> Tensor:
    grey = image.mode in ("1", "L", "I", "F") or image.mode.startswith("I;")
    return _sent(plain(image, "L" if grey else "RGB"), send_as)


def _of_array(array: Any, send_as: As) -> Tensor:
    pixels = np.asarray(array)
    if pixels.ndim == 2:
        pixels = pixels[..., np.newaxis]
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4) or not pixels.size:
        raise ImageError(
            f"an array of {pixels.dtype}, shape {list(pixels.shape)}; an image is uint8 [height, width, channels] of "
            "1, 3 (RGB) or 4 (RGBA) channels, 0 to 255. Activations go to infer()"
        )
    if send_as == "png":
        return _sent(Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels), send_as)
    return Tensor(IMAGE, "UINT8", (1, *pixels.shape), pixels.tobytes())


def _sent(image: Image.Image, send_as: As) -> Tensor:
    if send_as == "png":
        file = io.BytesIO()
        image.save(file, "PNG", compress_level=1)
        return Tensor(IMAGE, "BYTES", (1,), [file.getvalue()])
    channels = len(image.getbands())
    return Tensor(IMAGE, "UINT8", (1, image.height, image.width, channels), image.tobytes())
