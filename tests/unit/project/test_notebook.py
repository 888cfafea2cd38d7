"""examples/tour.ipynb: its cells run in order, and print what the notebook shows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.paths import ROOT

NOTEBOOK = ROOT / "examples" / "tour.ipynb"


def test_the_notebook_runs_and_prints_what_it_shows(tmp_path: Path) -> None:
    """A script of all code cells; none of their figures is a time that was measured, so they are the same each time."""
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    script = tmp_path / "tour.py"
    script.write_text("\n".join("".join(cell["source"]) for cell in cells))
    shown = "".join(
        "".join(output["text"])
        for cell in cells
        for output in cell["outputs"]
        if output["output_type"] == "stream" and output["name"] == "stdout"
    )
    environment = {**os.environ, "MPLBACKEND": "Agg", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=200
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == shown
