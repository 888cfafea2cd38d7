"""Codecs of images: what a device sends is what the name says, and the server gets the size that the model takes."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, JpegImagePlugin

from benchmarks.frontier.answers import Judge
from benchmarks.frontier.image_ways import OPPONENT, WAYS, ImageWay, ImageWays, inputs_of, native
from slicer import slice_model
from slicer.models.images import Preprocess, load_digits

SMALL = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
IMAGE = Image.fromarray(SMALL).resize((64, 64), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("name", WAYS)
def test_the_server_gets_the_size_that_the_model_takes(name: str) -> None:
    way = WAYS[name]
    sizes = [len(way.packed(IMAGE, quality)) for quality in way.qualities]
    assert sizes == sorted(sizes)
    back = way.unpacked(way.packed(IMAGE, way.qualities[-1]), IMAGE.size, IMAGE.mode)
    assert (back.size, back.mode) == (IMAGE.size, IMAGE.mode)
    assert np.abs(np.asarray(back, np.float64) - np.asarray(IMAGE)).mean() < 12


@pytest.mark.parametrize(("name", "sampling"), [("jpeg", 2), (OPPONENT, 2), ("jpeg 4:4:4", 0)])
def test_jpegs_keep_as_much_colour_as_their_names_say(name: str, sampling: int) -> None:
    assert JpegImagePlugin.get_sampling(Image.open(io.BytesIO(WAYS[name].packed(IMAGE, 75)))) == sampling


def test_optimised_tables_change_bytes_alone() -> None:
    plain, optimised = (WAYS[name].packed(IMAGE, 75) for name in ("jpeg", OPPONENT))
    assert len(optimised) < len(plain)
    assert Image.open(io.BytesIO(plain)).tobytes() == Image.open(io.BytesIO(optimised)).tobytes()


def test_a_shrunk_image_is_small_on_the_wire() -> None:
    way = WAYS["jpeg of 3/4 side"]
    assert Image.open(io.BytesIO(way.packed(IMAGE, 75))).size == (48, 48)


def test_small_images_go_in_their_own_size_and_large_ones_do_not() -> None:
    sliced = slice_model("digits_vit", at=[5], verify=False)
    assert sliced.spec is not None
    preprocess = Preprocess(sliced.spec)
    photos = [Image.fromarray(pixels) for pixels in load_digits()[0][:3]]
    crops = [preprocess.crop(photo) for photo in photos]
    inputs = inputs_of(crops, preprocess)
    judge = Judge(sliced, inputs, inputs)

    sent = native(photos, preprocess, judge)
    assert sent is not None
    assert sent.sizes.tolist() == [64] * 3  # 8 x 8 bytes: smaller than any file of them
    assert sent.worth.cosine == pytest.approx(1, abs=1e-6)
    as_large = [photo.resize((32, 32), Image.Resampling.BICUBIC) for photo in photos]
    assert (
        native(as_large, preprocess, judge) is not None
    )  # what is as large as the model's input, too, is the image itself
    assert native([*photos, Image.new("L", (33, 32))], preprocess, judge) is None

    found = ImageWays(crops, preprocess, judge).sent(ImageWay("JPEG", (20, 95)))
    assert [one.quality for one in found] == [20, 95]
    assert (found[0].sizes < found[1].sizes).all()
    assert found[0].worth.cosine.mean() < found[1].worth.cosine.mean()
