"""The index of a calibration travels as JSON, and a damaged one is refused with the remedy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from slicer.core.protocol.calibration_index import (
    FILE,
    CalibratedCut,
    CalibrationIndex,
    Measured,
    load_calibration,
)
from slicer.core.protocol.messages import ShardInfo
from slicer.errors import ShardError

INDEX = CalibrationIndex(
    "a" * 64,
    300,
    100,
    (
        CalibratedCut(1, ShardInfo("transform_1.safetensors", "b" * 64, 5000), {"transform-990": 0}, 900),
        CalibratedCut(2, ShardInfo("transform_2.safetensors", "c" * 64, 5000), {"transform-995": 1}, 900),
    ),
    (Measured(0, "jpeg-75", 6000.0, 0.994, 0.99, 1.0), Measured(1, "transform-990", 500.5, 0.991, 0.98, 0.97)),
)


def test_it_comes_back_as_it_was_and_equal_ones_have_equal_text() -> None:
    assert CalibrationIndex.from_json(INDEX.to_json()) == INDEX
    assert CalibrationIndex.from_json(INDEX.to_json()).to_json() == INDEX.to_json()
    assert INDEX.codecs == ("transform-990", "transform-995")


def test_a_folder_without_one_was_not_calibrated(tmp_path: Path) -> None:
    assert load_calibration(tmp_path) is None
    (tmp_path / FILE).write_text(INDEX.to_json())
    assert load_calibration(tmp_path) == INDEX


def damaged() -> list[Any]:
    def of(**changes: Any) -> dict[str, Any]:
        return {**json.loads(INDEX.to_json()), **changes}

    def cut(**changes: Any) -> dict[str, Any]:
        return of(cuts=[{**json.loads(INDEX.to_json())["cuts"][0], **changes}])

    def row(*places: tuple[int, Any]) -> dict[str, Any]:
        found = json.loads(INDEX.to_json())["measured"][0]
        for at, value in places:
            found[at] = value
        return of(measured=[found])

    file = {"file": "transform_1.safetensors", "sha256": "b" * 64, "size_bytes": 5}
    return [
        *(
            [],
            {},
            7,
            of(format=2),
            of(manifest="A" * 64),
            of(manifest=7),
            of(images="many"),
            of(images=float("inf")),
            of(cuts={"a": 1}),
        ),
        of(cuts=json.loads(INDEX.to_json())["cuts"] * 2),
        *(cut(cut=0), cut(qualities={"transform-990": 256}), cut(qualities=[1]), cut(most_bytes=-1)),
        *(cut(tables={**file, "file": "../x"}), cut(tables={**file, "sha256": "b"}), cut(tables=None)),
        *(row((2, -1)), row((3, None)), row((5, "inf")), row((0, []))),
        *(of(measured=[[1, "int8", 1.0, 1.0, 1.0]]), of(measured=[[]]), of(measured=[7])),
    ]


@pytest.mark.parametrize("document", damaged(), ids=lambda one: str(one)[:30])
def test_a_damaged_one_is_refused(document: Any) -> None:
    with pytest.raises(ShardError, match="calibrate again"):
        CalibrationIndex.from_json(json.dumps(document))


def test_text_that_is_no_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"\xff{")
    with pytest.raises(ShardError, match=FILE):
        load_calibration(tmp_path)
