"""Any image becomes 8-bit RGB or grey faithfully, or is refused before it costs anything."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from slicer.core.codecs.images import decode_images, encode_image
from slicer.core.images.pixels import MAX_ASPECT, plain
from slicer.core.shards.spec import ModelSpec
from slicer.errors import CodecError, ImageError
from slicer.models import zoo
from slicer.models.images import Preprocess

RAMP = np.linspace(0, 255, 256, dtype=np.uint8)[None].repeat(64, 0)
VIT = "vit_tiny_patch16_224"


@pytest.fixture(scope="module")
def preprocess() -> Preprocess:
    return Preprocess(zoo.resolve(VIT))


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def pgm(maxval: int) -> bytes:
    samples = np.round(RAMP.astype(float) * maxval / 255).astype(">u2" if maxval > 255 else "u1")
    return b"P5 256 64 %d\n" % maxval + samples.tobytes()


def tiff(samples: bytes, bits: int, photometric: int, sample_format: int = 1) -> bytes:
    """A grey TIFF of 256 x 64, as other programs write them and Pillow does not."""
    tags = [(256, 4, 256), (257, 4, 64), (258, 3, bits), (259, 3, 1), (262, 3, photometric), (273, 4, 8), (277, 3, 1)]
    tags += [(278, 4, 64), (279, 4, len(samples)), (339, 3, sample_format)]
    entries = b"".join(struct.pack("<HHIHH", tag, kind, 1, value & 65535, value >> 16) for tag, kind, value in tags)
    return b"II*\0" + struct.pack("<I", 8 + len(samples)) + samples + struct.pack("<H", len(tags)) + entries + bytes(4)


def twelve_bits() -> bytes:
    """The ramp, two samples in three bytes."""
    samples = np.round(RAMP * (4095 / 255)).astype(np.uint16)
    one, two = samples[:, ::2], samples[:, 1::2]
    return np.stack([one >> 4, (one & 15) << 4 | two >> 8, two & 255], -1).astype(np.uint8).tobytes()


UNDO = (None, None, *map(Image.Transpose, (0, 3, 1, 5, 2, 6, 4)))

DEEP = Image.fromarray(RAMP.astype(np.uint16) * 257)


@pytest.mark.parametrize(
    "image",
    [
        DEEP,
        opened(saved(DEEP, "PNG")),
        opened(saved(DEEP, "TIFF")),
        opened(pgm(65535)),
        opened(pgm(255)),
        Image.frombytes("I;16B", (256, 64), (RAMP.astype(">u2") * 257).tobytes()),
        Image.fromarray(RAMP).convert("LA"),
        Image.fromarray(RAMP).convert("LA").convert("La"),
        Image.fromarray(RAMP).convert("RGBA"),
        Image.fromarray(RAMP).convert("P"),
    ],
    ids=["I;16", "png16", "tiff16", "pgm16", "pgm8", "I;16B", "LA", "La", "RGBA", "P"],
)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_every_grey_image_is_the_same_ramp(image: Image.Image, mode: str) -> None:
    pixels = np.asarray(plain(image, mode).convert("L"))
    assert np.abs(pixels.astype(int) - RAMP).max() <= 1


@pytest.mark.parametrize(
    "data",
    [
        tiff((RAMP.astype("<u2") * 257).tobytes(), 16, 1),
        tiff((65535 - RAMP.astype("<u2") * 257).tobytes(), 16, 0),
        tiff(RAMP.tobytes(), 8, 1),
        tiff((255 - RAMP).tobytes(), 8, 0),
        tiff(twelve_bits(), 12, 1),
    ],
    ids=["16", "16 white is zero", "8", "8 white is zero", "12"],
)
def test_a_tiff_is_read_as_it_says(preprocess: Preprocess, tmp_path: Path, data: bytes) -> None:
    assert np.abs(np.asarray(plain(opened(data), "L")).astype(int) - RAMP).max() <= 1
    (tmp_path / "a.tif").write_bytes(data)  # the tags are still known when the file is closed
    np.testing.assert_allclose(preprocess(tmp_path / "a.tif"), preprocess(Image.fromarray(RAMP)), atol=0.01)


def test_a_tiff_on_its_side_is_still_read_as_it_says() -> None:
    image = opened(tiff((65535 - RAMP.astype("<u2") * 257).tobytes(), 16, 0))
    image.getexif()[0x0112] = 6
    assert np.abs(np.asarray(plain(image, "L")).astype(int) - np.rot90(RAMP, -1)).max() <= 1


@pytest.mark.parametrize("bits", [8, 16])
def test_signed_samples_are_refused(bits: int) -> None:
    samples = RAMP.astype("<u2").tobytes() if bits == 16 else RAMP.tobytes()
    with pytest.raises(ImageError, match="which of them is white"):
        plain(opened(tiff(samples, bits, 1, sample_format=2)), "RGB")


def test_a_pgm_of_ten_bits_is_scaled_by_its_own_maximum() -> None:
    assert np.abs(np.asarray(plain(opened(pgm(1023)), "L")).astype(int) - RAMP).max() <= 1


@pytest.mark.parametrize("mode", ["1", "CMYK", "YCbCr", "HSV", "RGBX", "RGBa", "PA", "LAB"])
def test_colour_modes_become_what_pil_makes_of_them(mode: str) -> None:
    colours = Image.effect_noise((8, 8), 60).convert("RGB")
    image = Image.new("LAB", (8, 8), (128, 128, 128)) if mode == "LAB" else colours
    image = image.convert({"PA": "P", "RGBa": "RGBA"}.get(mode, mode)).convert(mode)
    np.testing.assert_array_equal(np.asarray(plain(image, "RGB")), np.asarray(image.convert("RGB")))
    assert plain(image, "L").mode == "L"


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(RAMP.astype(np.float32) / 255),
        Image.fromarray(RAMP.astype(np.float32)),
        Image.fromarray(RAMP.astype(np.int32)),
        opened(saved(Image.fromarray(RAMP.astype(np.int32) << 20), "TIFF")),
        opened(saved(Image.fromarray(RAMP.astype(np.float32)), "TIFF")),
    ],
    ids=["F01", "F255", "I", "tiff32", "tiffF"],
)
def test_numbers_without_a_white_are_refused(image: Image.Image) -> None:
    with pytest.raises(ImageError, match="do not say which of them is white; save it as"):
        plain(image, "RGB")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_upright_once_on_their_whole_way(
    preprocess: Preprocess, tmp_path: Path, kind: str, orientation: int
) -> None:
    """A device's own input, and what it sends as an image at cut 0, are the upright image."""
    quarters = np.zeros((64, 96, 3), np.uint8)
    quarters[:32, :48], quarters[:32, 48:], quarters[32:, :48] = (250, 0, 0), (0, 250, 0), (0, 0, 250)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, dict[str, Any]] = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95, "subsampling": 0}}
    lossless = options.get(kind, {})
    file = tmp_path / f"camera.{kind.lower()}"
    undo = UNDO[orientation]  # the transposition that a camera held so has made
    stored = Image.fromarray(quarters)
    file.write_bytes(saved(stored if undo is None else stored.transpose(undo), kind, exif=exif, **lossless))

    want = preprocess(Image.fromarray(quarters))

    assert np.abs(preprocess(file) - want).mean() < 0.02
    for codec in ("rgb8", "png"):
        (row,) = decode_images(codec, [encode_image(codec, file, preprocess)], preprocess)
        np.testing.assert_array_equal(row, preprocess(file))


def test_a_camera_s_own_file_is_turned_by_the_server_unless_the_model_wants_it_as_timm_has_it() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    payload = saved(Image.fromarray(RAMP).convert("RGB"), "PNG", exif=exif)
    pixels = opened(payload)
    upright = Preprocess(zoo.resolve(VIT))
    spec = zoo.check(ModelSpec(VIT, data_config={"exif_orientation": False}))
    as_timm = Preprocess(spec)
    assert not np.array_equal(upright(opened(payload)), as_timm(opened(payload)))
    np.testing.assert_array_equal(decode_images("png", [payload], as_timm)[0], as_timm(pixels.convert("RGB")))
    np.testing.assert_array_equal(decode_images("png", [payload], upright)[0], upright(opened(payload)))


def test_a_damaged_exif_block_does_not_cost_the_image(preprocess: Preprocess) -> None:
    payload = saved(Image.fromarray(RAMP).convert("RGB"), "PNG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert decode_images("png", [payload], preprocess).shape == (1, 3, 224, 224)


def header_only(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(1, 33), (33, 1), (1, 65000), (3, 9999), (10, 321), (2000, 1), (60000, 60000)])
@pytest.mark.parametrize("codec", ["png", "jpeg"])
def test_a_thin_or_huge_image_is_refused_by_its_header(
    preprocess: Preprocess, codec: str, size: tuple[int, int]
) -> None:
    if codec == "jpeg" and max(size) > 65000 // 2:
        pytest.skip("JPEG has no such size, or Pillow does not write it")
    payload = header_only(*size) if codec == "png" else saved(Image.new("RGB", size), "JPEG")
    tracemalloc.start()
    with pytest.raises(CodecError, match=r"times the shorter one: crop it|are decoded: make it smaller"):
        decode_images(codec, [payload], preprocess)
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


def test_the_longest_that_is_taken_stays_small(preprocess: Preprocess) -> None:
    payload = saved(Image.new("RGB", (1, MAX_ASPECT)), "PNG")
    assert decode_images("png", [payload], preprocess).shape == (1, 3, 224, 224)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF", "WEBP", "JPEG"])
def test_a_thin_file_of_any_format_is_refused_by_name(preprocess: Preprocess, tmp_path: Path, kind: str) -> None:
    file = tmp_path / f"thin.{kind.lower()}"
    file.write_bytes(saved(Image.new("RGB", (1, 5000)), kind))
    for use in (preprocess, lambda path: encode_image("rgb8", path, preprocess)):
        with pytest.raises(ImageError, match=r"thin\.\w+: an image of 1x5000 pixels"):
            use(file)


def test_whatever_a_reader_raises_is_a_codec_error(preprocess: Preprocess, monkeypatch: pytest.MonkeyPatch) -> None:
    payload = saved(Image.new("RGB", (9, 9)), "PNG")
    for error in (MemoryError(), RecursionError("deep"), struct.error("short"), KeyError("x"), zlib.error("bad")):

        def load(self: Any, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", load)
        with pytest.raises(CodecError, match="damaged"):
            decode_images("png", [payload], preprocess)


def test_a_value_that_is_no_switch_is_refused() -> None:
    from slicer.errors import ModelError

    with pytest.raises(ModelError, match="exif_orientation is 'no'; it must be true or false"):
        zoo.check(ModelSpec(VIT, data_config={"exif_orientation": "no"}))
