"""What runs on a machine with a GPU and no Ray can be imported there: the tests of it, and benchmarks of one engine."""

from __future__ import annotations

import subprocess
import sys
from functools import cache

import pytest

from tests.paths import ROOT

FOLDERS = ("tests/gpu", "benchmarks/accelerator", "benchmarks/paper", "benchmarks/common")
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for folder in FOLDERS
    for path in (ROOT / folder).glob("*.py")
    if path.name != "__init__.py"
)
ALL = """
import importlib, sys, traceback
sys.modules["ray"] = None
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except BaseException:
        print("FAILED", name, traceback.format_exc().replace("\\n", " | "))
    else:
        print("imported", name)
"""


@cache
def said() -> tuple[str, ...]:
    """A line per module, of one process that imports all of them."""
    done = subprocess.run(
        [sys.executable, "-c", ALL, *MODULES], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return tuple(done.stdout.splitlines())


@pytest.mark.parametrize("module", MODULES)
def test_it_is_imported_without_ray(module: str) -> None:
    assert f"imported {module}" in said(), [line for line in said() if line.startswith("FAILED")]
