"""The codecs of this build, by name. All lists of codecs come from here.

`register` adds one; what others hold of these two mappings follows. Register before a fleet or a server starts: the
mappings are read by several threads.
"""

from __future__ import annotations

from ..errors import CodecError, ConfigError
from .codec import Codec, ImageCodec
from .cropped import QUALITIES, Cropped
from .floats import Bf16, Fp16, Fp32
from .image_files import Jpeg, Png
from .integer import Integer
from .pixels import Pixels
from .rgb8 import Rgb8

#: Codecs of activations, the exact one first.
CODECS: dict[str, Codec] = {}

#: Codecs that carry an image, at cut 0 only.
IMAGE_CODECS: dict[str, ImageCodec] = {}


def register(codec: Codec | ImageCodec) -> None:
    """Add a codec.

    Raises:
        ConfigError: it has no name, or one that is taken.
    """
    name = getattr(codec, "name", "")
    if not name:
        raise ConfigError(f"codec {type(codec).__name__} has no name; set its attribute `name`")
    if name in CODECS or name in IMAGE_CODECS:
        raise ConfigError(f"codec {name!r} is registered already; give this one another name")
    if isinstance(codec, ImageCodec):
        IMAGE_CODECS[name] = codec
    else:
        CODECS[name] = codec


def codec_named(name: str) -> Codec:
    """A codec of activations. Raises CodecError where there is none of this name."""
    try:
        return CODECS[name]
    except KeyError:
        raise CodecError(f"unknown codec {name!r}; this build has {', '.join(CODECS)}") from None


def image_codec_named(name: str) -> ImageCodec:
    """A codec of images. Raises CodecError where there is none of this name."""
    try:
        return IMAGE_CODECS[name]
    except KeyError:
        raise CodecError(f"unknown image codec {name!r}; this build has {', '.join(IMAGE_CODECS)}") from None


def any_codec(name: str) -> Codec | ImageCodec | None:
    """A codec of either kind; None: this build has none of this name."""
    return CODECS.get(name) or IMAGE_CODECS.get(name)


def as_taken(name: str) -> bool:
    """Whether a codec carries the image as it was taken, so that the server does all of the preprocessing."""
    found = IMAGE_CODECS.get(name)
    return found is not None and found.as_taken


for _codec in (Fp32(), Fp16(), Bf16(), Integer("int8"), Integer("int4"), Rgb8(), Png(), Jpeg(), Pixels()):
    register(_codec)
for _one in (Cropped(form, quality) for form in ("jpeg", "webp") for quality in QUALITIES):
    register(_one)
