"""What a codec is. `codecs.registry` lists them; `codecs.activations` is how the others call them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from PIL import Image

from ..errors import CodecError, NotFiniteError

Array = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

_NOT_FINITE = "the activation holds NaN or infinity; check the image and the head's weights"


class Codec(ABC):
    """One activation (no batch dimension) to bytes, and back. Stateless: several threads use one object at once.

    A new one is a class and a registration, in every process that encodes or decodes. Here is one that sends the signs
    only:

        >>> import numpy as np
        >>> from slicer.core.codecs import activations
        >>> from slicer.core.codecs.codec import Codec, refusal
        >>> from slicer.core.codecs.registry import register
        >>>
        >>> class Sign(Codec):
        ...     name = "sign"
        ...
        ...     def encoded_bytes(self, shape, axis):
        ...         return int(np.prod(shape)) // 8 + 1
        ...
        ...     def encode(self, activation, axis):
        ...         if not np.isfinite(activation).all():
        ...             raise refusal(self.name, activation)
        ...         bits = np.packbits(np.append(activation.reshape(-1) < 0, False))
        ...         return bits.tobytes().ljust(self.encoded_bytes(activation.shape, axis), b"\\0")
        ...
        ...     def decode(self, raw, out, axis):
        ...         negative = np.unpackbits(raw, axis=1)[:, : out[0].size].reshape(out.shape)
        ...         out[...] = 1 - 2.0 * negative
        ...
        ...     def error_bound(self, activation, axis):
        ...         return np.abs(activation.astype(np.float64)) + 1
        >>>
        >>> register(Sign())
        >>> payload = activations.encode("sign", np.array([[3.0, -0.2], [-7.0, 0.0]], np.float32))
        >>> activations.decode_batch("sign", [payload], (2, 2))[0]
        array([[ 1., -1.],
               [-1.,  1.]], dtype=float32)

    In all methods `axis` is the axis of the channels, 0 or the last, as the model's manifest says; None: nobody knows.

    Attributes:
        name: in packets, fleet files and reports.
        agreement: top-1 agreement with fp32, 0 to 1, where nobody measured it for the model. With 0 the planner never
            chooses the codec.
        encode_ns: time to encode, nanoseconds per value, on a device that has not measured it.
    """

    name: str
    agreement: float = 0.0
    encode_ns: float = 0.0
    carries_images: ClassVar[bool] = False

    @abstractmethod
    def encoded_bytes(self, shape: Sequence[int], axis: int | None) -> int:
        """Exact payload size in bytes of an activation of `shape`, all of whose dimensions are above 0.

        Raises:
            CodecError: the channels cannot run along `axis`.
        """

    @abstractmethod
    def encode(self, activation: npt.NDArray[np.floating], axis: int | None) -> bytes:
        """`encoded_bytes` of them. The activation is not empty; of any float type and memory layout.

        Raises:
            CodecError: the activation holds NaN, infinity, or more than the codec can hold.
        """

    @abstractmethod
    def decode(self, raw: Bytes, out: Array, axis: int | None) -> None:
        """Payloads `raw` [B, encoded_bytes] into `out` [B, *shape], which may be of any memory layout.

        Raises:
            CodecError: what they hold is not finite, or nothing that `encode` writes.
        """

    @abstractmethod
    def error_bound(self, activation: Array, axis: int | None) -> npt.NDArray[np.float64]:
        """Of each value, in the activation's shape: how far the decoded one can be from it.

        Raises:
            CodecError: as `encode`.
        """


@runtime_checkable
class Transform(Protocol):
    """What an image codec needs of a model's preprocessing: `slicer.models.images.Preprocess` has it."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of the model's input."""

    def __call__(self, image: Image.Image) -> Array:
        """The model's input, `shape`. Raises ImageError."""

    def plain(self, image: str | Path | Image.Image) -> Image.Image:
        """The image upright, of the model's mode and its own size. Raises ImageError."""

    def crop(self, image: str | Path | Image.Image) -> Image.Image:
        """The image in the model's size, uint8. Raises ImageError."""

    def normalise(self, pixels: npt.NDArray[np.uint8]) -> Array:
        """Crops [B, H, W, C] to model inputs [B, C, H, W]."""


class ImageCodec(ABC):
    """Images at cut 0, as bytes that the server makes into the model's input. Stateless and thread-safe.

    Attributes:
        name, agreement, encode_ns: as of `Codec`.
        as_taken: it carries the image as it was taken, and the server does all of the preprocessing; else the device
            brings it to the model's size first.
        planned: a planner may choose it; else only who names it sends by it.
        suffixes: of files that are in the codec's form already, in lower case; a device sends them as they are.
    """

    name: str
    agreement: float = 0.0
    encode_ns: float = 0.0
    carries_images: ClassVar[bool] = True
    as_taken: bool = True
    planned: bool = True
    suffixes: tuple[str, ...] = ()

    def payload_bytes(self, shape: Sequence[int]) -> int | None:
        """Exact payload size for a model input of `shape` (C, H, W); None where it depends on the image."""
        return None

    @abstractmethod
    def encode(self, image: str | Path | Image.Image, transform: Transform, quality: int) -> bytes:
        """The image's payload; `quality` is JPEG's, 1 to 95.

        Raises:
            CodecError: the quality is out of range. ImageError: the image is refused (`images.pixels`).
        """

    @abstractmethod
    def decode(self, payloads: Sequence[bytes | memoryview], transform: Transform) -> Array:
        """Model inputs [B, C, H, W].

        Raises:
            CodecError: a payload is of the wrong length, damaged, or of another format, or its image is refused.
        """


def refusal(name: str, activation: npt.NDArray[np.floating], holds: str = "") -> CodecError:
    """The error of an activation that a codec cannot carry: it is not finite, or too large (`holds` says for what)."""
    if not np.isfinite(activation).all():
        return NotFiniteError(_NOT_FINITE)
    peak = float(np.abs(activation).max())
    return CodecError(f"the activation reaches {peak:.3g}, more than {name} can hold{holds}; use fp32 for this model")


def check_finite(activation: npt.NDArray[np.floating]) -> None:
    """Raise NotFiniteError if it holds NaN or infinity."""
    if not np.isfinite(activation).all():
        raise NotFiniteError(_NOT_FINITE)
