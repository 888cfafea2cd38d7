"""The tutorial's files work as they stand, and what it shows of exact output is what comes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from actors.fleet.config import parse_fleet
from deployments.config import parse_config
from headtail.cli import main
from slicer import slice_model
from slicer.profiles.device_profile import load_device_profile
from tests import documented

PAGE = "docs/guide/tutorial.md"
FILES = documented.files()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The reader's."""
    documented.put_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before & {"my_model", "early", "my_strategy"}:
        del sys.modules[name]


def shown(command: str) -> str:
    """What the page shows below a command, up to the end of the block."""
    (found,) = (
        text
        for info, text in documented.blocks(PAGE)
        if info in ("", "text") and text.splitlines()[0].partition("  #")[0].strip() == command
    )
    return "\n".join(found.splitlines()[1:])


@pytest.mark.parametrize("model", ["deit_tiny_patch16_224", "my_model:build --img-size 64"])
def test_the_tables_of_slices(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["slice", *model.split()]) == 0
    assert capsys.readouterr().out.strip() == shown(f"headtail slice {model}")


@pytest.mark.parametrize("source", [text for info, text in documented.blocks(PAGE) if info == "python run"])
def test_python_runs(source: str) -> None:
    exec(compile(source, PAGE, "exec"), {"__name__": "tutorial"})


def test_the_server_and_the_profile_fit_the_model_and_the_fleet_fits_both() -> None:
    (model,) = parse_config(yaml.safe_load(FILES["small-server.yaml"])).models
    fleet = parse_fleet(yaml.safe_load(FILES["small-fleet.yaml"]))
    assert fleet.model == model.name
    assert max(group.cut for group in fleet.groups if group.cut is not None) < model.num_slices
    assert len(load_device_profile("board.yaml").slices_ms) == model.num_slices
    sys.path.append("")
    assert slice_model(model.model, model.num_slices, **{"timm_kwargs": model.kwargs}).num_slices == model.num_slices
