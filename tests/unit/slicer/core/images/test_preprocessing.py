"""Preprocessing without torch has the bits of timm's own, and a description says all of it or is refused."""

from __future__ import annotations

import io
import json
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from timm.models import get_pretrained_cfg, list_pretrained

from slicer.core.codecs.images import decode_images, encode_image
from slicer.core.images.preprocessing import CROP_MODES, INTERPOLATIONS, Preprocessing
from slicer.core.shards.spec import ModelSpec
from slicer.errors import ConfigError, ImageError, ModelError
from slicer.models import zoo
from slicer.models.data_config import DATA_KEYS, data_config, preprocessing_of
from slicer.models.images import Preprocess
from tests.paths import ROOT

VIT = "vit_tiny_patch16_224"
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
DESCRIPTION: dict[str, Any] = {
    "format": 1,
    "input_size": [3, 224, 224],
    "interpolation": "bicubic",
    "crop_pct": 0.9,
    "crop_mode": "center",
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
    "exif_orientation": True,
}


def both(spec: ModelSpec) -> tuple[Preprocessing, Preprocess]:
    """Ours, as a device gets it by the wire; and timm's."""
    return Preprocessing.from_json(preprocessing_of(spec).to_json()), Preprocess(spec)


def described(**data: Any) -> ModelSpec:
    channels = data["input_size"][0]
    return ModelSpec(VIT, {"in_chans": channels}, data_config={"mean": [0.5], "std": [0.5], **data})


def noise(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    """Of a mode: random samples; with an alpha channel where it has one."""
    rng = np.random.default_rng(seed)
    if mode == "I;16":
        return Image.fromarray(rng.integers(0, 65536, (height, width), dtype=np.uint16))
    bands = len(Image.new(mode, (1, 1)).getbands())
    if mode in ("1", "P"):
        return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).convert(mode)
    return Image.frombytes(
        mode, (width, height), rng.integers(0, 256, width * height * bands, dtype=np.uint8).tobytes()
    )


def in_file(image: Image.Image, orientation: int) -> Image.Image:
    exif = Image.Exif()
    exif[274] = orientation
    file = io.BytesIO()
    image.save(file, "TIFF" if image.mode in ("CMYK", "LA", "RGBA") else "PNG", exif=exif)
    return Image.open(file)


def assert_same(ours: npt.NDArray[np.float32], timms: npt.NDArray[np.float32]) -> None:
    assert ours.dtype == timms.dtype == np.float32 and ours.shape == timms.shape
    assert ours.flags["C_CONTIGUOUS"] and ours.tobytes() == timms.tobytes()


SIDES = st.integers(1, 48)
NUMBERS = st.floats(-1, 2)
DIVISORS = st.floats(1e-30, 1e30) | st.floats(-1, -1e-3)


@st.composite
def settings_of_a_model(draw: st.DrawFn) -> dict[str, Any]:
    channels = draw(st.sampled_from((1, 3)))
    square = draw(st.booleans())
    height = draw(SIDES)
    width = height if square else draw(SIDES)
    crop_pct = draw(st.sampled_from((1, 0.875, 0.9, 0.965, 1.15, 0.5, 1.5)) | st.floats(0.3, 2))
    assume(min(height, width) >= crop_pct)  # timm would scale images to nothing
    return {
        "input_size": [channels, height, width],
        "interpolation": draw(st.sampled_from(sorted(INTERPOLATIONS))),
        "crop_pct": crop_pct,
        "crop_mode": draw(st.sampled_from(CROP_MODES)),
        "mean": draw(st.lists(NUMBERS, min_size=channels, max_size=channels)),
        "std": draw(st.lists(DIVISORS, min_size=channels, max_size=channels)),
        "exif_orientation": draw(st.booleans()),
    }


# Exactness


@settings(max_examples=300, deadline=None)
@given(
    data=settings_of_a_model(),
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    mode=st.sampled_from(("RGB", "L", "P", "1", "RGBA", "LA", "CMYK", "I;16")),
    orientation=st.integers(1, 8),
    seed=st.integers(0, 2**32),
)
def test_any_image_for_any_model_has_the_bits_of_timms_transform(
    data: dict[str, Any], size: tuple[int, int], mode: str, orientation: int, seed: int
) -> None:
    assume(max(size) <= 32 * min(size))
    ours, timms = both(described(**data))
    image = in_file(noise(*size, mode, seed), orientation)
    try:
        expected = timms(image.copy() if seed % 2 else image)
    except ValueError as error:  # timm would scale the shorter edge to nothing
        assert "must be > 0" in str(error)
        with pytest.raises(ImageError, match="would become"):
            ours(image)
        return
    image = in_file(noise(*size, mode, seed), orientation)
    assert_same(ours(image.copy() if seed % 2 else image), expected)
    assert (ours.shape, ours.mode) == (timms.shape, timms.mode)
    assert ours.plain(image) == timms.plain(image)
    crops = ours.crop(image), timms.crop(image)
    assert crops[0] == crops[1] and crops[0].mode == ours.mode


@settings(max_examples=200, deadline=None)
@given(data=settings_of_a_model(), height=st.integers(1, 4000), width=st.integers(1, 4000))
@example(data={**DESCRIPTION, "input_size": [3, 225, 224], "crop_pct": 1.15}, height=333, width=500)
@example(data={**DESCRIPTION, "input_size": [3, 1024, 768], "crop_pct": 1.0}, height=768, width=1024)
def test_sizes_of_photographs_are_rounded_as_timm_rounds_them(data: dict[str, Any], height: int, width: int) -> None:
    """Of one colour, so that only the geometry shows: which pixels are image and which are border."""
    assume(max(height, width) <= 32 * min(height, width))
    data = {key: value for key, value in data.items() if key != "format"}
    ours, timms = both(described(**{**data, "interpolation": "nearest"}))
    image = Image.new("L", (width, height), 200)
    try:
        expected = timms.crop(image)
    except ValueError:
        with pytest.raises(ImageError, match="would become"):
            ours.crop(image)
        return
    assert ours.crop(image) == expected


@settings(max_examples=100, deadline=None)
@given(st.lists(NUMBERS, min_size=3, max_size=3), st.lists(DIVISORS, min_size=3, max_size=3))
def test_every_pixel_value_becomes_the_same_float(mean: list[float], std: list[float]) -> None:
    ours, timms = both(described(input_size=[3, 16, 16], crop_pct=1, mean=mean, std=std))
    ramp = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, -1)
    batch = np.concatenate([ramp, ramp[:, ::-1], 255 - ramp])
    before = batch.copy()
    assert_same(ours.normalise(batch), timms.normalise(batch))
    assert_same(ours.normalise(batch[:, :, ::-1]), timms.normalise(batch[:, :, ::-1]))
    assert np.array_equal(batch, before)
    assert_same(ours.normalise(ramp)[0], timms(Image.fromarray(ramp[0])))


def distinct_configs() -> dict[tuple[Any, ...], str]:
    """Of all pretrained models of timm: one name for each set of values."""
    found: dict[tuple[Any, ...], str] = {}
    for name in list_pretrained():
        config = get_pretrained_cfg(name)
        found.setdefault(tuple(getattr(config, key) for key in DATA_KEYS[:-1]), name)
    return found


def test_each_configuration_of_timms_models_has_the_bits_of_timms_transform() -> None:
    names = sorted(distinct_configs().values())
    assert len(names) > 100
    photo = noise(357, 281)
    for name in names:
        ours, timms = both(ModelSpec(name))
        assert ours.to_json() == preprocessing_of(ModelSpec(name)).to_json()
        assert_same(ours(photo), timms(photo))


def test_a_file_is_read_and_refused_as_by_timms(tmp_path: Path) -> None:
    ours, timms = both(ModelSpec(VIT))
    file = tmp_path / "photo.jpg"
    noise(300, 200).save(file, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0")
    assert_same(ours(file), timms(file))
    assert_same(ours(str(file)), timms(file))
    assert ours.plain(file).size == (200, 300), "upright"
    (tmp_path / "damaged.jpg").write_bytes(file.read_bytes()[:200])
    Image.fromarray(np.zeros((4, 4), dtype=np.float32)).save(tmp_path / "float.tiff")
    Image.new("L", (330, 10)).save(tmp_path / "long.png")
    for name, says in (
        ("absent.jpg", "there is no such file"),
        ("damaged.jpg", "cannot be read"),
        ("float.tiff", "mode F"),
        ("long.png", "32 times"),
    ):
        with pytest.raises(ImageError, match=f"{name}.*{says}") as refused:
            ours(tmp_path / name)
        with pytest.raises(ImageError) as by_timms:
            timms(tmp_path / name)
        assert str(refused.value) == str(by_timms.value)


@pytest.mark.parametrize("codec", ["rgb8", "png", "jpeg", "pixels"])
def test_image_codecs_take_it_in_place_of_timms(codec: str) -> None:
    ours, timms = both(ModelSpec(VIT))
    photo = noise(300, 260)
    sent = encode_image(codec, photo, ours)
    assert sent == encode_image(codec, photo, timms)
    assert_same(decode_images(codec, [sent, sent], ours), decode_images(codec, [sent, sent], timms))


def test_threads_and_processes_may_share_it() -> None:
    ours = preprocessing_of(ModelSpec(VIT))
    assert pickle.loads(pickle.dumps(ours)) == ours and hash(ours) == hash(replace(ours))


# The description


def test_a_description_says_what_timm_resolves() -> None:
    made = preprocessing_of(ModelSpec(VIT)).to_dict()
    config = data_config(ModelSpec(VIT))
    assert made == {"format": 1, "exif_orientation": True, **json.loads(json.dumps(config))}
    assert list(made) == list(DESCRIPTION)


def test_own_models_and_those_of_hugging_face_have_descriptions(tmp_path: Path) -> None:
    own = ModelSpec("my.models:net", data_config={"input_size": [1, 28, 20], "exif_orientation": False})
    assert preprocessing_of(own) == Preprocessing(
        (1, 28, 20), "bicubic", 0.875, "center", (sum(IMAGENET["mean"]) / 3,), (sum(IMAGENET["std"]) / 3,), False
    )
    said = {"input_size": [3, 32, 32], "mean": [0.1, 0.2, 0.3], "std": [1, 1, 1], "crop_mode": "squash", "crop_pct": 1}
    hf = ModelSpec("hf:./vit", data_config={**said, "interpolation": "bilinear"})
    assert preprocessing_of(hf) == Preprocessing((3, 32, 32), "bilinear", 1, "squash", (0.1, 0.2, 0.3), (1, 1, 1))
    for spec in (own, hf):
        assert_same(both(spec)[0](noise(50, 41)), both(spec)[1](noise(50, 41)))


def test_the_demo_models_too() -> None:
    spec = zoo.resolve("digits_vit")
    assert_same(both(spec)[0](noise(8, 8, "L")), both(spec)[1](noise(8, 8, "L")))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"interpolation": "random"}, "interpolation is 'random'; it must be one of nearest"),
        ({"crop_mode": "centre"}, "crop_mode is 'centre'; it must be one of center"),
        ({"input_size": [2, 32, 32]}, "images become 3 channels"),
        ({"crop_pct": 1e-3}, "crop_pct is 0.001; height and width"),
        ({"std": [0.0]}, "std is .*not 0"),
    ],
)
def test_what_a_description_cannot_say_is_refused(data: dict[str, Any], says: str) -> None:
    with pytest.raises(ModelError, match=f"model vit_tiny_patch16_224: preprocessing .*{says}"):
        preprocessing_of(described(**{"input_size": [3, 32, 32], **data}))


@given(settings_of_a_model())
def test_a_description_comes_back_from_json_as_it_was(data: dict[str, Any]) -> None:
    one = Preprocessing.from_dict({"format": 1, **data})
    assert Preprocessing.from_json(one.to_json()) == one == Preprocessing.from_json(one.to_json().encode())
    assert one.to_dict() == {"format": 1, **data}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format": 2}, "format is 2; this build reads 1"),
        ({"format": None}, "format is None; this build reads 1"),
        ({"format": True}, "format is True"),
        ({"zoom": 2}, "'zoom': unknown key; there are input_size"),
        ({"input_size": 224}, "input_size is 224; it must be channels, height and width"),
        ({"input_size": "3,2"}, "input_size is '3,2'"),
        ({"input_size": [3, 224]}, "input_size is "),
        ({"input_size": [3, 224.0, 224]}, "input_size is "),
        ({"input_size": [3, True, 224]}, "input_size is "),
        ({"input_size": [4, 224, 224]}, "images become 3 channels .* or 1"),
        ({"input_size": [3, 0, 224]}, "from 1 to 16384"),
        ({"input_size": [3, 224, 16385]}, "from 1 to 16384"),
        ({"interpolation": "area"}, "interpolation is 'area'; it must be one of nearest, bilinear"),
        ({"interpolation": ["bicubic"]}, "interpolation is "),
        ({"crop_mode": "top"}, "crop_mode is 'top'; it must be one of center, squash, border"),
        ({"crop_pct": 0}, "crop_pct is 0; it must be a number above 0"),
        ({"crop_pct": -1.0}, "crop_pct is -1.0; "),
        ({"crop_pct": "0.9"}, "crop_pct is '0.9'; it must be a number"),
        ({"crop_pct": True}, "crop_pct is True"),
        ({"crop_pct": None}, "crop_pct is None"),
        ({"crop_pct": float("nan")}, "crop_pct is nan"),
        ({"crop_pct": 10**400}, "crop_pct is 10000"),
        ({"crop_pct": 300}, "crop_pct is 300; height and width divided by it must be from 1"),
        ({"crop_pct": 5e-324}, "crop_pct is 5e-324; height and width"),
        ({"mean": [0.5]}, "mean is .*; it must be 3 numbers"),
        ({"mean": 0.5}, "mean is 0.5; it must be 3 numbers"),
        ({"mean": ["a", 1, 1]}, "mean is "),
        ({"mean": [float("inf"), 0, 0]}, "mean is "),
        ({"mean": [1e39, 0, 0]}, "mean is .*; each number must be finite as float32"),
        ({"std": [1, 0, 1]}, "std is .*; each number must be finite and not 0 as float32"),
        ({"std": [1, 1e-60, 1]}, "std is .*; each number must be finite and not 0 as float32"),
        ({"std": [1, 1e-40, 1]}, "std is .*; pixels would become infinite: give larger ones"),
        ({"exif_orientation": 1}, "exif_orientation is 1; it must be true or false"),
    ],
)
def test_a_wrong_description_is_refused_with_its_value_and_the_remedy(change: dict[str, Any], says: str) -> None:
    Preprocessing.from_dict(DESCRIPTION)
    with pytest.raises(ConfigError, match=f"preprocessing .*{says}"):
        Preprocessing.from_dict({**DESCRIPTION, **change})
    with pytest.raises(ConfigError, match=f"preprocessing .*{says}"):
        Preprocessing.from_json(json.dumps({**DESCRIPTION, **change}))


@pytest.mark.parametrize("key", [key for key in DESCRIPTION if key != "format"])
def test_every_key_must_be_there(key: str) -> None:
    with pytest.raises(ConfigError, match=f"lacks {key}; give all of"):
        Preprocessing.from_dict({name: value for name, value in DESCRIPTION.items() if name != key})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is no JSON"),
        ("{", "is no JSON"),
        (b"\xff\xfe\xfd", "is no JSON"),
        ("[" * 9000, "is no JSON"),
        ("[1]", "is no mapping"),
        ("null", "is no mapping"),
        (" " * 10_001, "10001 characters; at most 10000"),
    ],
)
def test_what_is_no_description_is_refused(text: str | bytes, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Preprocessing.from_json(text)


# Where it runs


def test_it_needs_neither_torch_nor_timm_nor_pydantic() -> None:
    code = (
        "import sys, slicer.core.images.preprocessing as p\n"
        f"made = p.Preprocessing.from_json({json.dumps(DESCRIPTION)!r})\n"
        "from PIL import Image\n"
        "assert made(Image.new('RGB', (300, 200))).shape == (3, 224, 224)\n"
        "found = {'torch', 'torchvision', 'timm', 'pydantic', 'av', 'ray'} & set(sys.modules)\n"
        "assert not found, found"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=120)
