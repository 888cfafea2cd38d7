"""What docs/models.md says of timm's models is what benchmarks/models/coverage.py found."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from slicer import slice_model
from slicer.errors import NotSliceable
from tests.paths import ROOT

REPORT: dict[str, Any] = json.loads((ROOT / "tests" / "data" / "coverage.json").read_text())


def test_at_least_92_of_98_model_files_are_exact() -> None:
    outcomes = [row["outcome"] for row in REPORT["files"].values()]
    assert len(outcomes) == 98
    assert outcomes.count("exact") >= 92
    assert set(outcomes) <= {"exact", "refused"}, "nothing is sliced wrongly"


@pytest.mark.parametrize(
    "file", ["vision_transformer", "deit", "eva", "beit", "cait", "swin_transformer", "swin_transformer_v2"]
)
def test_the_named_families_are_exact(file: str) -> None:
    row = REPORT["files"][file]
    assert row["outcome"] == "exact"
    assert row["boundaries"] == len(row["names"]) >= 12
    assert row["row_difference"] <= 1e-4


def test_each_family_of_hugging_face_and_torchvision_that_the_table_names_is_exact() -> None:
    rows = json.loads((ROOT / "tests" / "data" / "coverage_hugging_face.json").read_text())["families"]
    wanted = {"ViT", "DeiT", "Swin", "DINOv2", "DINOv2 with registers", "BEiT", "CLIP tower", "SigLIP tower"}
    assert wanted <= rows.keys()
    assert {name: row["outcome"] for name, row in rows.items()} == dict.fromkeys(rows, "exact")
    assert all(row["boundaries"] >= 3 and row["row_difference"] <= 1e-4 for row in rows.values())


def test_the_table_is_made_from_the_report(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("coverage_of_timm", ROOT / "benchmarks/models/coverage.py")
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    committed = script.TABLE.read_text()
    script.TABLE = tmp_path / "models.md"
    script.write_table(REPORT)
    assert script.TABLE.read_text() == committed


def test_a_model_of_two_branches_is_refused_as_the_table_says() -> None:
    with pytest.raises(NotSliceable, match="CrossVit offers no boundary") as caught:
        slice_model("crossvit_tiny_240")
    assert str(caught.value) == REPORT["files"]["crossvit"]["reason"]
