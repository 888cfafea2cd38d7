"""The index of ONNX files: read without torch and onnx, and refused unless it is whole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from slicer.core.protocol.onnx_index import FILE, OnnxFile, OnnxIndex, OnnxSlice, load_index
from slicer.errors import CutError, ShardError
from tests.paths import ROOT


def slice_entry(**changed: Any) -> OnnxSlice:
    file = OnnxFile("slice_1.onnx", "0" * 64, 10, 1e-6, 1e-6)
    return OnnxSlice(
        **{"input": "pixels", "output": "output", "input_shape": (4,), "output_shape": (4,), "fp32": file} | changed
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[]", "no valid index"),
        ("{", "no valid index"),
        ('{"format": 2}', "not of format 1"),
        (OnnxIndex("no digest", 18, (slice_entry(),)).to_json(), "'no digest' is no sha256"),
        (OnnxIndex("0" * 64, 18, ()).to_json(), "at least one"),
        (OnnxIndex("0" * 64, 18, (slice_entry(), slice_entry())).to_json(), "each file once"),
        (
            OnnxIndex("0" * 64, 18, (slice_entry(fp32=OnnxFile("../x", "0" * 64, 1, 0, 0)),)).to_json(),
            "'../x' has a bad",
        ),
        (OnnxIndex("0" * 64, 18, (slice_entry(fp32=OnnxFile("x", "0" * 64, 1, -1, 0)),)).to_json(), "not negative"),
    ],
)
def test_an_index_that_is_none_is_refused(text: str, says: str) -> None:
    with pytest.raises(ShardError, match=says):
        OnnxIndex.from_json(text)


def test_slices_that_do_not_fit_each_other_are_refused() -> None:
    other = slice_entry(fp32=OnnxFile("slice_2.onnx", "0" * 64, 10, 0, 0), input_shape=(5,))
    with pytest.raises(ShardError, match=r"\[4\] leaves a slice and \[5\] enters the next"):
        OnnxIndex.from_json(OnnxIndex("0" * 64, 18, (slice_entry(), other)).to_json())


def test_an_index_comes_back_from_its_folder_with_the_same_digest(tmp_path: Path) -> None:
    file = OnnxFile("slice_2.int8.onnx", "1" * 64, 5, 0.01, 0.02)
    index = OnnxIndex("0" * 64, 18, (slice_entry(int8=file),))
    (tmp_path / FILE).write_text(index.to_json())
    assert load_index(tmp_path) == index and load_index(tmp_path).digest == index.digest
    assert index.files(0, 1, int8=True) == (file,) and index.files(1, 1) == ()
    assert index.all_files == (slice_entry().fp32, file)


def test_a_folder_without_an_index_and_a_span_that_is_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="an interrupted export has no index"):
        load_index(tmp_path)
    with pytest.raises(CutError, match="span 0:2 is none of 1 slices"):
        OnnxIndex("0" * 64, 18, (slice_entry(),)).files(0, 2)


def test_the_reader_needs_neither_torch_nor_onnx_nor_numpy_nor_pydantic() -> None:
    code = (
        "import slicer.core.protocol.onnx_index, sys; "
        "print(sorted({'torch', 'onnx', 'onnxruntime', 'numpy', 'pydantic'} & sys.modules.keys()))"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
