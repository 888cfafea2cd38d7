"""Where the places of an activation are."""

from __future__ import annotations

import pytest

from slicer.calibration.layout import Layout, layout_of
from slicer.errors import CodecError


@pytest.mark.parametrize(
    ("shape", "axis", "image", "wanted"),
    [
        ((257, 384), 1, (224, 224), Layout("tokens", (16, 16), 1, 384)),  # DINOv2: a class token
        ((261, 384), 1, (224, 224), Layout("tokens", (16, 16), 5, 384)),  # and four registers
        ((198, 192), 1, (224, 224), Layout("tokens", (14, 14), 2, 192)),  # DeiT, distilled
        ((196, 192), 1, (224, 224), Layout("tokens", (14, 14), 0, 192)),
        ((99, 64), 1, (224, 448), Layout("tokens", (7, 14), 1, 64)),
        ((56, 28, 96), 2, (448, 224), Layout("grid", (56, 28), 0, 96)),  # Swin
        ((96, 56, 28), 0, (448, 224), Layout("planes", (56, 28), 0, 96)),
    ],
)
def test_places_of_known_models(shape: tuple[int, ...], axis: int, image: tuple[int, int], wanted: Layout) -> None:
    assert layout_of(shape, axis, image) == wanted


@pytest.mark.parametrize(("shape", "axis"), [((384,), 0), ((223, 384), 1), ((16, 384), 0)])
def test_what_has_no_places_is_refused(shape: tuple[int, ...], axis: int) -> None:
    with pytest.raises(CodecError, match="use int8 at this cut"):
        layout_of(shape, axis, (224, 224))
