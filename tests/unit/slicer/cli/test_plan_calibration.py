"""`headtail slice --plan --calibration DIR`: codecs with tables stand in the table, with the size that was found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from slicer import shards
from slicer.cli import slice_command
from slicer.core.protocol.calibration_index import FILE, CalibrationIndex, Measured
from slicer.errors import ConfigError
from slicer.slicing.slice_model import slice_model

GIVEN: dict[str, Any] = {
    name: None for name in (*vars(slice_command.SliceFlags("m")), *slice_command.PLAN_FLAGS) if name != "planner"
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    manifest = shards.export(slice_model("digits_vit", 4, verify=False), tmp_path)
    found = (Measured(2, "transform-995", 66.0, 0.996, 0.99, 1.0), Measured(0, "webp-75", 221.0, 0.9995, 0.99, 1.0))
    (tmp_path / FILE).write_text(CalibrationIndex(manifest.digest, 30, 10, (), found).to_json())
    return tmp_path


def planned(**given: Any) -> None:
    slice_command.run(**{**GIVEN, "model": "digits_vit", "plan": "fast-board", "execution_ms": [0.1], **given})


def test_what_calibration_found_is_offered_and_may_win(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    planned(calibration=str(folder), mbit_per_s=0.1)
    lines = capsys.readouterr().out.splitlines()
    (row,) = (line for line in lines if "transform-995" in line)
    assert row.split()[:3] == ["2", "transform-995", "66"]
    (chosen,) = (line for line in lines if "<- chosen" in line)
    assert "webp-75" in chosen or "transform-995" in chosen


def test_without_it_they_are_not_listed(capsys: pytest.CaptureFixture[str]) -> None:
    planned()
    said = capsys.readouterr().out
    assert "rgb8" in said and not [name for name in ("transform-", "webp-", "jpeg-") if name in said]


def test_a_folder_without_calibration_and_one_of_other_cuts_are_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="this one is cut at"):
        planned(calibration=str(folder), at=[0, 1, 2])
    (folder / FILE).unlink()
    with pytest.raises(ConfigError, match="holds no calibration"):
        planned(calibration=str(folder))
