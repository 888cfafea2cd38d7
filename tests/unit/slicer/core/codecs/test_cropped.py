"""jpeg-75 and its like: the model's own crop as a small file, which the server takes as it is."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from slicer.core.codecs.registry import image_codec_named
from slicer.errors import CodecError
from slicer.models.images import Preprocess
from slicer.slicing.slice_model import slice_model

NAMES = [f"{form}-{quality}" for form in ("jpeg", "webp") for quality in (50, 75, 90)]


@pytest.fixture(scope="module")
def preprocess() -> Preprocess:
    spec = slice_model("digits_vit", 2, verify=False).spec
    assert spec is not None
    return Preprocess(spec)


def photo(seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    return small.resize((80, 60), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("name", NAMES)
def test_the_server_has_the_pixels_that_the_file_holds(name: str, preprocess: Preprocess) -> None:
    codec = image_codec_named(name)
    payload = codec.encode(photo(), preprocess, 1)
    held = np.asarray(Image.open(io.BytesIO(payload)).convert("RGB"))
    assert held.shape == (32, 32, 3)
    np.testing.assert_array_equal(codec.decode([payload], preprocess), preprocess.normalise(held[np.newaxis]))


@pytest.mark.parametrize("form", ["jpeg", "webp"])
def test_a_higher_quality_takes_more_bytes_and_is_nearer(form: str, preprocess: Preprocess) -> None:
    exact = preprocess(photo())
    sizes, errors = [], []
    for quality in (50, 75, 90):
        codec = image_codec_named(f"{form}-{quality}")
        payload = codec.encode(photo(), preprocess, 1)
        sizes.append(len(payload))
        errors.append(float(np.abs(codec.decode([payload], preprocess)[0] - exact).mean()))
    assert sizes == sorted(sizes) and errors == sorted(errors, reverse=True)


def test_an_image_of_another_size_is_refused_with_both_sizes(preprocess: Preprocess) -> None:
    file = io.BytesIO()
    photo().save(file, "JPEG")
    with pytest.raises(CodecError, match="is 80 x 60; the model takes 32 x 32"):
        image_codec_named("jpeg-75").decode([file.getvalue()], preprocess)


@pytest.mark.parametrize("name", NAMES)
def test_no_planner_takes_one_before_somebody_measured_it(name: str) -> None:
    codec = image_codec_named(name)
    assert codec.agreement == 0 and codec.payload_bytes((3, 32, 32)) is None and not codec.as_taken
