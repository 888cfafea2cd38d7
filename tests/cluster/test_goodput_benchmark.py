"""The goodput benchmark runs end to end, in a process and a Ray of its own; its figures mean nothing at this size."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.long
def test_the_benchmark_measures_serve_batch_and_continuous_and_says_that_it_is_emulated() -> None:
    command = [sys.executable, str(ROOT / "benchmarks/goodput/goodput.py"), "--quick", "--slo-x", "4"]
    done = subprocess.run(
        [*command, "--strategies", "serve_batch,continuous"], cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    document = json.loads(done.stdout.splitlines()[-1])
    assert document["emulated"] == ["accelerator: launch-bound, hypothetical profile"]
    assert document["hypothetical"] is True and document["manifest"]["seeds"] == [0]
    rows = {row["strategy"]: row for row in document["results"]}
    assert set(rows) == {"serve_batch", "continuous"}
    assert rows["serve_batch"]["grid"] and rows["serve_batch"]["simulated_rps"] is None
    continuous = rows["continuous"]
    assert continuous["simulated_rps"] == pytest.approx(485, rel=0.1)
    (half,) = continuous["at_half_bound"]
    assert sum(half["outcomes"].values()) == half["requests"] >= 300, "half of the bound is offered to the end"
    assert half["outcomes"] == {"answered": half["requests"]}
    assert half["steps"] > 0 and half["taken_over_planned"] >= 1.0, "an emulated step is never shorter than planned"
    assert half["simulated_ms"]["p50"] == pytest.approx(half["slo_clock_ms"]["p50"], rel=3.0)
