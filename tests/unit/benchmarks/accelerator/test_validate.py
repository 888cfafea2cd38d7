"""The validation of the simulator runs end to end on a tiny model; its figures mean nothing at this size."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT


@pytest.mark.long
def test_it_calibrates_drives_and_replays_in_processes_of_their_own(tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(ROOT / "benchmarks/accelerator/validate.py"),
        "--model",
        "deployments.executors.emulated:chain",
    ]
    command += ["--model-kwargs", '{"img_size": 8, "in_chans": 1}', "--strategies", "per_slice,continuous"]
    command += ["--loads", "0.05", "--requests", "60", "--repeats", "3", "--budget-s", "1"]
    command += ["--profile", str(tmp_path / "profile.yaml"), "--out", str(tmp_path / "out.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    document = json.loads(done.stdout.splitlines()[-1])
    assert document == json.loads((tmp_path / "out.json").read_text())
    assert document["emulated"] == []
    assert [run["strategy"] for run in document["runs"]] == ["per_slice", "continuous"]
    for run in document["runs"]:
        assert run["real"]["p50_ms"] > 0 and run["simulated"]["p50_ms"] > 0
        assert run["ratio"]["p50_ms"] == round(run["simulated"]["p50_ms"] / run["real"]["p50_ms"], 3)
    assert "where: cpu" in (tmp_path / "profile.yaml").read_text(), "the table says where it was measured"
