"""The peers' packages, in a virtual environment of their own: pytriton's pins would change those of the project."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from pathlib import Path

from benchmarks.common.results import ROOT

#: Ignored by git.
HOME = ROOT / ".peers"
PYTHON = HOME / "venv" / "bin" / "python"

#: The extra `peers` of pyproject.toml, word for word. LitServe brings FastAPI and uvicorn.
PACKAGES = ("nvidia-pytriton==0.7.0", "tritonclient[grpc]==2.73.0", "litserve==0.2.19")


def install() -> None:
    """Make the environment, or bring it up to date. Raises subprocess.CalledProcessError where pip fails."""
    if not PYTHON.exists():
        venv.create(HOME / "venv", with_pip=True)
    subprocess.run([str(PYTHON), "-m", "pip", "install", "--quiet", *PACKAGES], check=True)


def versions() -> dict[str, str]:
    """Of what is installed there, by lower-case name; empty: nothing."""
    if not PYTHON.exists():
        return {}
    asked = [str(PYTHON), "-m", "pip", "list", "--format=json", "--disable-pip-version-check"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    return {one["name"].lower(): one["version"] for one in json.loads(done.stdout or "[]")}


def site_packages() -> Path:
    """Where they lie."""
    return HOME / "venv" / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
