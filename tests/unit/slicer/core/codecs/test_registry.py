"""The registry of codecs: what it lists is what all others list, and what a codec of one's own goes through."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
import pytest

from actors.fleet.config import parse_fleet
from slicer.core.codecs import activations, codec, images
from slicer.core.codecs.registry import CODECS, IMAGE_CODECS, any_codec, as_taken, register
from slicer.core.codecs.transform.names import NAMES
from slicer.core.planning.cut_planner import (
    Choice,
    DeviceView,
    Goal,
    LinkView,
    ModelFacts,
    ServerView,
    choose,
    estimate,
    estimate_all,
    offered,
)
from slicer.errors import CodecError, ConfigError
from tests.paths import ROOT

Array = npt.NDArray[np.float32]


class Rounded(codec.Codec):
    """Whole numbers of 8 bits."""

    name = "rounded"

    def encoded_bytes(self, shape: Any, axis: int | None) -> int:
        return int(np.prod(shape))

    def encode(self, activation: npt.NDArray[np.floating], axis: int | None) -> bytes:
        codec.check_finite(activation)
        return np.rint(activation).astype(np.int8).tobytes()

    def decode(self, raw: codec.Bytes, out: Array, axis: int | None) -> None:
        out[...] = raw.view(np.int8).reshape(out.shape)

    def error_bound(self, activation: Array, axis: int | None) -> npt.NDArray[np.float64]:
        return np.full(activation.shape, 0.5)


@pytest.fixture
def rounded() -> Iterator[Rounded]:
    own = Rounded()
    with mock.patch.dict(CODECS), mock.patch.dict(IMAGE_CODECS):
        register(own)
        yield own


def test_the_built_in_codecs_in_the_order_in_which_they_are_offered() -> None:
    assert list(CODECS) == ["fp32", "fp16", "bf16", "int8", "int4"]
    cropped = ["jpeg-50", "jpeg-75", "jpeg-90", "webp-50", "webp-75", "webp-90"]
    assert list(IMAGE_CODECS) == ["rgb8", "png", "jpeg", "pixels", *cropped]
    for name, one in (*CODECS.items(), *IMAGE_CODECS.items()):
        assert one.name == name and any_codec(name) is one
        assert one.carries_images is (name in IMAGE_CODECS)
        assert (one.agreement == 0 if name in cropped else 0 < one.agreement <= 1) and one.encode_ns >= 0
    assert [name for name in (*CODECS, *IMAGE_CODECS) if as_taken(name)] == ["png", "jpeg", "pixels"]


def test_pixels_can_be_named_but_no_planner_chooses_them() -> None:
    assert parse_fleet({"groups": [{"name": "a", "cut": 0, "codec": "pixels"}]}).groups[0].codec == "pixels"
    facts = ModelFacts(((3, 4, 4), (3,)), (1,), (0,), (*CODECS, *IMAGE_CODECS))
    assert offered(facts, 0)[:8] == ["fp32", "fp16", "bf16", "int8", "int4", "rgb8", "png", "jpeg"]
    assert "pixels" not in offered(facts, 0)
    # Where it would be the best, known and free of charge, it is not among what is compared.
    device = DeviceView((1e3,), 5.0, image_bytes={"pixels": 1.0, "png": 1e9, "jpeg": 1e9})
    chosen = choose(estimate_all(facts, device, LinkView(1e3, 1.0), ServerView({}, {}), Goal()), Goal())
    assert chosen is not None and chosen.choice.codec != "pixels"
    named = estimate(facts, Choice(0, "pixels"), device, LinkView(1e3, 1.0), ServerView({}, {}), Goal())
    assert named.cost < chosen.cost


def test_an_own_codec_needs_no_more_than_its_registration(rounded: Rounded) -> None:
    activation = np.array([[1.2, -3.4]], np.float32)
    (row,) = activations.decode_batch("rounded", [activations.encode("rounded", activation)], (1, 2))
    assert (np.abs(row - activation) <= activations.error_bound("rounded", activation)).all()
    with pytest.raises(CodecError, match="NaN"):
        activations.encode("rounded", np.array([np.nan], np.float32))
    with pytest.raises(CodecError, match=r"3 bytes; rounded of shape \(1, 2\) has 2"):
        activations.decode_into("rounded", b"123", np.empty((1, 2), np.float32))
    fleet = parse_fleet({"groups": [{"name": "a", "cut": 1, "codec": "rounded"}]})
    assert fleet.groups[0].codec == "rounded"
    assert "rounded" in offered(ModelFacts(((1, 2), (3,)), (1,), (0,), tuple(CODECS)), 0)


def test_a_name_that_is_taken_or_missing_is_refused(rounded: Rounded) -> None:
    with pytest.raises(ConfigError, match=r"'rounded' is registered already.*another name"):
        register(Rounded())
    nameless = Rounded()
    nameless.name = ""
    with pytest.raises(ConfigError, match="Rounded has no name"):
        register(nameless)


def test_the_documents_name_every_codec_and_no_other() -> None:
    def first_column(module: Any) -> list[str]:
        return re.findall(r"^\| ([\w-]+) +\|", inspect.getdoc(module) or "", re.MULTILINE)[1:]

    assert first_column(activations) == list(CODECS)
    assert first_column(images) == list(IMAGE_CODECS)
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    lines = [line for page in pages for line in page.read_text(encoding="utf-8").splitlines()]
    rows = [line for line in lines if re.match(r"\| (`cut`, `codec`|codec) \|", line)]
    assert rows, "no page says which codecs there are"
    for row in rows:
        named = set(re.findall(r"`([\w-]+)`", row.split("|", 2)[2])) - {*NAMES}
        assert named == {*CODECS, *(name for name in IMAGE_CODECS if "-" not in name)}, row
    (page,) = (ROOT / "docs/guide").glob("small-activations.md")
    small = page.read_text(encoding="utf-8")
    assert all(f"`{name}`" in small for name in IMAGE_CODECS if "-" in name)
