"""Every benchmark says how it is called, from any folder, without Ray."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.paths import ROOT

#: Those with a parser of their own; a worker's command line is for its benchmark only.
SCRIPTS = sorted(
    str(path.relative_to(ROOT))
    for path in (ROOT / "benchmarks").glob("*/*.py")
    if 'if __name__ == "__main__":' in (text := path.read_text(encoding="utf-8")) and ".parse_args(" in text
)

#: One process for all, so that torch and Ray are imported once. What a script needs of the repository is taken away
#: before each: its folder on sys.path, as `python SCRIPT` has it, must do.
ALL = """
import contextlib, io, json, os, runpy, sys, time, traceback
root, folders, scripts = sys.argv[1], sys.argv[2:4], sys.argv[4:]
path = [entry for entry in sys.path[1:] if os.path.realpath(entry or ".") != root]
for script in scripts:
    said = []
    for folder in folders:
        os.chdir(folder)
        full = os.path.join(root, script)
        sys.path[:] = [os.path.dirname(full), *path]
        for name in [name for name in sys.modules if name.split(".")[0] == "benchmarks"]:
            del sys.modules[name]
        sys.argv, out, code, began_s = [full, "--help"], io.StringIO(), None, time.process_time()
        try:
            with contextlib.redirect_stdout(out):
                runpy.run_path(full, run_name="__main__")
        except SystemExit as end:
            code = end.code
        except BaseException:
            out.write(traceback.format_exc())
        ray = sys.modules.get("ray")
        said.append({
            "code": code,
            "out": out.getvalue(),
            "cpu_s": time.process_time() - began_s,
            "ray_runs": ray is not None and ray.is_initialized(),
        })
    print(json.dumps([script, said]), flush=True)
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """By script: what ``--help`` did at the repository's root, and in an empty folder."""
    folders = [str(ROOT), str(tmp_path_factory.mktemp("elsewhere"))]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", ALL, str(ROOT), *folders, *SCRIPTS],
        capture_output=True,
        text=True,
        timeout=200,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(map(json.loads, done.stdout.splitlines()))


def test_the_scripts_are_found() -> None:
    assert len(SCRIPTS) >= 12
    assert "benchmarks/goodput/goodput.py" in SCRIPTS and "benchmarks/paper/worker.py" not in SCRIPTS


@pytest.mark.parametrize("script", SCRIPTS)
def test_it_says_how_it_is_called(script: str, answers: dict[str, list[dict[str, Any]]]) -> None:
    for said in answers[script]:
        assert said["code"] == 0, said["out"]
        assert said["out"].startswith(f"usage: {Path(script).name}")
        assert not said["ray_runs"]
        assert said["cpu_s"] < 10
        assert str(ROOT) not in said["out"], "a path of this machine is no help"
