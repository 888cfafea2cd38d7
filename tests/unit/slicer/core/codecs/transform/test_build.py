"""What is compiled is compiled where there is a compiler, and missed nowhere else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.paths import ROOT


def built(folder: Path, compiler: str | None) -> list[str]:
    """Names of what `setup.py build_ext` leaves; it must not fail."""
    environment = os.environ | ({} if compiler is None else {"CC": compiler, "CXX": compiler})
    ran = subprocess.run(
        [sys.executable, "setup.py", "build_ext", "--force", "--build-lib", folder / "lib", "--build-temp", folder],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return [path.name for path in (folder / "lib").rglob("_compiled*")]


def test_an_install_goes_on_without_a_compiler(tmp_path: Path) -> None:
    assert built(tmp_path, str(tmp_path / "no-such-compiler")) == []


@pytest.mark.skipif(
    shutil.which("cc") is None or not Path(sysconfig.get_paths()["include"], "Python.h").exists(),
    reason="no C compiler or no headers of Python",
)
def test_with_a_compiler_the_loops_are_built(tmp_path: Path) -> None:
    assert built(tmp_path, None) == [f"_compiled{sysconfig.get_config_var('EXT_SUFFIX')}"]
