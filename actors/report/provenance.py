"""Where a result comes from: commit, versions, hardware. Nothing here raises; what is not known is None."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

_PACKAGES = ("headtail", "ray", "torch", "torchvision", "timm", "numpy", "safetensors")


def provenance() -> dict[str, Any]:
    """The part of a manifest that is the same for every job on this machine at this commit."""
    return {
        "commit": commit(),
        "date_utc": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": command(sys.argv),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}},
        "hardware": hardware(),
    }


def command(argv: list[str]) -> list[str]:
    """The command line without where things lie on this machine: of an absolute path only the last part."""
    program, *rest = argv
    return [Path(program).name, *(Path(word).name if Path(word).is_absolute() else word for word in rest)]


def commit() -> str | None:
    """The commit of the source tree that runs, with `+changes` if it was edited; None outside a git checkout.

    HEADTAIL_COMMIT of the environment goes first: for a copy whose history is missing, or behind its files.
    """
    if told := os.environ.get("HEADTAIL_COMMIT"):
        return told
    root = Path(__file__).resolve().parents[2]

    def git(*args: str) -> str:
        called = subprocess.run(["git", "-C", str(root), *args], capture_output=True, text=True, timeout=10, check=True)
        return called.stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != root:
            return None  # a checkout of something else that holds this package
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def hardware() -> dict[str, Any]:
    """This machine: the driver's; the server's accelerator and the devices' nodes are told by themselves."""
    return {
        "machine": platform.machine(),
        "system": platform.platform(terse=True),
        "cpu": _cpu_model(),
        "cpus_usable": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": _memory_bytes(),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return None
