"""benchmarks/models/codecs.py: its arithmetic, and one small run from end to end."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.models import codecs


def test_outliers_are_drawn_along_the_channels_and_repeat_with_the_seed() -> None:
    factors = codecs.outliers((16, 96), 0.02, seed=5, axis=1)
    assert factors.shape == (1, 1, 96) and sorted(factors.ravel())[-3:] == [1, 100, 100]
    np.testing.assert_array_equal(factors, codecs.outliers((16, 96), 0.02, seed=5, axis=1))
    assert codecs.outliers((3, 8, 8), 0.02, seed=0, axis=0).shape == (1, 3, 1, 1)


def test_the_baselines_round_each_row_as_their_names_say() -> None:
    rows = np.array([[[0.0, 255.0], [1.4, 100.6]]], dtype=np.float32)
    np.testing.assert_array_equal(codecs.per_tensor(8)(rows), [[[0, 255], [1, 101]]])
    rows = np.array([[[0.6, 127.0], [0.6, 12.7]]], dtype=np.float32)
    np.testing.assert_allclose(codecs.per_token(8)(rows), [[[1, 127], [0.6, 12.7]]], rtol=1e-6)


def test_a_small_run_reports_every_codec_and_ends_with_one_json_document(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "codecs.json"
    options = ["--models", "digits_vit", "--limit", "12", "--every", "9", "--repeats", "3", "--out", str(out)]

    assert codecs.main(options) == 0

    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert document == json.loads(out.read_text(encoding="utf-8"))
    plain = {"fp32", "fp16", "bf16", "int8", "int4", "rgb8", "png", "jpeg", "pixels"}
    cropped = {f"{form}-{quality}" for form in ("jpeg", "webp") for quality in (50, 75, 90)}
    assert set(document["codecs"]) == plain | cropped
    assert document["codecs"]["int8"]["bytes"] == 197 * 768 + 2 * 768
    for exact in ("fp32", "rgb8", "png", "pixels"):
        assert document["codecs"][exact]["agreement_top1_min"] == 1
    assert document["reached"]["int8_holds_with_outliers"] and document["manifest"]["seeds"] == [0]
