"""Images on the wire: what the server makes of them has the bits of timm's transform, and damaged ones are refused."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from slicer.core.codecs.activations import IMAGE_CODECS, image_bytes
from slicer.core.codecs.images import decode_images, encode_image
from slicer.errors import CodecError
from slicer.models import zoo
from slicer.models.images import Preprocess


@pytest.fixture(scope="module")
def preprocess() -> Preprocess:
    """Swin's: bicubic, crop_pct 0.9, ImageNet mean and std."""
    return Preprocess(zoo.resolve("swin_tiny_patch4_window7_224"))


def photograph(width: int, height: int, seed: int = 0) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def timms(model: str, image: Image.Image) -> npt.NDArray[np.float32]:
    from timm.data import create_transform

    made: npt.NDArray[np.float32] = create_transform(**zoo.data_config(zoo.resolve(model)))(image).numpy()
    return made


@pytest.mark.parametrize("model", ["swin_tiny_patch4_window7_224", "vit_base_patch16_224", "deit_tiny_patch16_224"])
@pytest.mark.parametrize("size", [(224, 224), (640, 480), (97, 301)])
def test_rgb8_and_png_give_the_bits_of_timms_transform(model: str, size: tuple[int, int]) -> None:
    own, images = Preprocess(zoo.resolve(model)), [photograph(*size, seed=seed) for seed in range(3)]
    for codec in ("rgb8", "png"):
        rows = decode_images(codec, [encode_image(codec, image, own) for image in images], own)
        np.testing.assert_array_equal(rows, np.stack([timms(model, image) for image in images]))


@pytest.mark.parametrize("size", [(224, 224), (640, 480), (97, 301)])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_pixels_of_an_image_give_the_bits_of_its_png(preprocess: Preprocess, size: tuple[int, int], mode: str) -> None:
    image = photograph(*size).convert(mode)
    by_png = decode_images("png", [encode_image("png", image, preprocess)], preprocess)
    assert (decode_images("pixels", [encode_image("pixels", image, preprocess)], preprocess) == by_png).all()
    # As a client has them, who does not know what the model takes.
    pixels = np.asarray(image)
    as_they_are = struct.pack("<III", size[1], size[0], 1 if mode == "L" else len(mode)) + pixels.tobytes()
    assert (decode_images("pixels", [as_they_are], preprocess) == by_png).all()


def test_jpeg_gives_the_bits_of_timms_transform_of_the_decoded_image(preprocess: Preprocess) -> None:
    payload = encode_image("jpeg", photograph(500, 375), preprocess, quality=80)

    row = decode_images("jpeg", [payload], preprocess)[0]

    decoded = Image.open(io.BytesIO(payload))
    np.testing.assert_array_equal(row, timms("swin_tiny_patch4_window7_224", decoded))
    assert len(payload) < image_bytes("rgb8", preprocess.shape)  # type: ignore[operator]


def test_a_model_of_one_channel_gets_luminance() -> None:
    grey = Preprocess(zoo.resolve("vit_tiny_patch16_224", kwargs={"in_chans": 1}))
    image = photograph(300, 260)
    for codec in ("rgb8", "png"):
        payload = encode_image(codec, image, grey)
        np.testing.assert_array_equal(decode_images(codec, [payload], grey)[0], grey(image))
    assert image_bytes("rgb8", grey.shape) == 224 * 224


def test_the_size_of_rgb8_is_exact_and_none_is_known_of_the_others(preprocess: Preprocess) -> None:
    assert image_bytes("rgb8", preprocess.shape) == len(encode_image("rgb8", photograph(9, 9), preprocess)) == 150_528
    assert image_bytes("jpeg", preprocess.shape) is image_bytes("png", preprocess.shape) is None
    assert image_bytes("pixels", preprocess.shape) is None


def test_no_payload_is_a_batch_of_none(preprocess: Preprocess) -> None:
    for codec in IMAGE_CODECS:
        assert decode_images(codec, [], preprocess).shape == (0, 3, 224, 224)


@pytest.mark.parametrize("codec", IMAGE_CODECS)
def test_a_truncated_or_foreign_payload_is_refused(preprocess: Preprocess, codec: str) -> None:
    good = encode_image(codec, photograph(64, 64), preprocess)
    other = encode_image("png" if codec == "jpeg" else "jpeg", photograph(64, 64), preprocess)
    for bad in (b"", good[: len(good) // 2], b"\0" * 100, other):
        with pytest.raises(CodecError, match="bytes"):
            decode_images(codec, [good, bad], preprocess)


def test_a_png_that_claims_gigabytes_is_refused_by_its_header(preprocess: Preprocess) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 8000, 8000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    with pytest.raises(CodecError, match="8000x8000"):
        decode_images("png", [bomb], preprocess)


@pytest.mark.parametrize("codec", ["png", "jpeg"])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_damaged_file_is_an_image_or_a_codec_error(preprocess: Preprocess, codec: str, data: st.DataObject) -> None:
    payload = bytearray(encode_image(codec, photograph(24, 16), preprocess))
    for _ in range(data.draw(st.integers(1, 4))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    try:
        rows = decode_images(codec, [bytes(payload)], preprocess)
    except CodecError:
        return
    assert np.isfinite(rows).all()


def test_an_unknown_codec_and_a_quality_out_of_range_are_refused(preprocess: Preprocess) -> None:
    with pytest.raises(CodecError, match=r"'webp'.*jpeg"):
        encode_image("webp", photograph(8, 8), preprocess)
    with pytest.raises(CodecError, match="quality 100"):
        encode_image("jpeg", photograph(8, 8), preprocess, quality=100)
