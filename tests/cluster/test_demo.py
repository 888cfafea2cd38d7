"""The demo as a newcomer runs it, in a process of its own with a Ray of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.long
@pytest.mark.timeout(600)
def test_the_demo_answers_three_questions_and_leaves_a_page_with_their_pictures(tmp_path: Path) -> None:
    out = tmp_path / "report"
    done = subprocess.run(
        [sys.executable, "-m", "headtail", "demo", "--json", "--out", str(out)],
        capture_output=True,
        text=True,
        timeout=500,
    )
    document = json.loads(done.stdout)
    same, batching, splitting = (document["demo"][key] for key in ("same", "batching", "splitting"))
    assert same["same"] == same["asked"] == 360 * 4 * 7
    assert batching["highest_rps"]["continuous"] > batching["highest_rps"]["per_tail_shared"]
    assert splitting["cells"]
    assert not same["bad"] and not batching["bad"] and not splitting["bad"]
    assert done.returncode == 0
    for name in ("index.html", *(f"{key}.{form}" for key in document["demo"] for form in ("svg", "png"))):
        assert (out / name).stat().st_size > 1000
    for sentence in (one["sentence"] for one in document["demo"].values()):
        assert sentence[:60] in done.stderr.replace("\n   ", " ")
