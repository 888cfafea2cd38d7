"""Puts slicer/core into the wheel as headtail_device, without what is compiled: the wheel is for every machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

CORE = Path(__file__).resolve().parents[2] / "slicer/core"


class Core(BuildHookInterface):
    """Called by hatchling. A plain force-include of the folder would take what `pip install -e` built there."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Names every file of it."""
        for path in CORE.rglob("*"):
            if path.is_file() and path.suffix != ".pyc" and not path.name.startswith("_compiled."):
                build_data["force_include"][str(path)] = f"headtail_device/{path.relative_to(CORE).as_posix()}"
