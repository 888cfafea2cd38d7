"""Runs the JavaScript of ``clients/web``."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.paths import ROOT

WEB = ROOT / "clients" / "web"
NODE = shutil.which("node")
OLDEST_NODE = 20


def node(*arguments: str | Path, given: str = "") -> str:
    """Runs Node.js in ``clients/web`` and returns what it printed; skips where it is missing or too old, fails with all
    that it said.

    Args:
        given: its standard input.
    """
    if NODE is None:
        pytest.skip("node is not installed: the JavaScript client's own tests need Node.js 20 or newer")
    version = subprocess.run([NODE, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if int(version.removeprefix("v").split(".")[0]) < OLDEST_NODE:
        pytest.skip(f"node is {version}: the JavaScript client's own tests need Node.js {OLDEST_NODE} or newer")
    done = subprocess.run([NODE, *arguments], cwd=WEB, input=given, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
