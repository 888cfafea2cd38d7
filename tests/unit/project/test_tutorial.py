"""The tutorial's files work as they stand, and what it shows of exact output is what comes."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from actors.fleet.config import parse_fleet
from deployments.config import parse_config
from deployments.engine.engine import Engine
from deployments.scheduling.registry import make_policy
from deployments.scheduling.scheduler import Scheduler
from deployments.testing.fakes import FakeClock, FakeExecutor, rows_at
from headtail.cli import main
from slicer.profiles.device_profile import load_device_profile
from tests import documented
from tests.paths import ROOT

PAGE = "docs/guide/tutorial.md"
FILES = documented.files()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The reader's."""
    documented.put_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    for name in FILES:
        sys.modules.pop(name.removesuffix(".py"), None)


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


def test_the_refusal(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (text,) = (text for info, text in documented.blocks(PAGE) if info == "console")
    command, said = text.splitlines()
    assert main(shlex.split(command.removeprefix("$ headtail"))) == 2
    assert capsys.readouterr().err.strip() == said.replace(".../", f"{folder}/")


def test_the_message_about_another_size_of_images_names_the_flag(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["slice", "my_model:build"]) == 2
    said = capsys.readouterr().err
    assert "inputs of shape (3, 224, 224)" in said and "--img-size" in said


def test_head_and_tail_in_python(capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(FILES["cut.py"], "cut.py", "exec"), {"__name__": "tutorial"})
    assert f"It prints `{capsys.readouterr().out.strip()}`." in (ROOT / PAGE).read_text(encoding="utf-8")


def test_the_server_and_the_profile_fit_the_model_and_the_fleet_fits_both() -> None:
    (model,) = parse_config(yaml.safe_load(FILES["small-server.yaml"])).models
    fleet = parse_fleet(yaml.safe_load(FILES["small-fleet.yaml"]))
    assert fleet.model == model.name
    assert max(group.cut for group in fleet.groups if group.cut is not None) < model.num_slices
    assert len(load_device_profile("board.yaml").slices_ms) == model.num_slices


def test_the_strategy_takes_the_fullest_queue_unless_somebody_has_waited_for_too_long() -> None:
    sys.path.append("")
    policy = make_policy(
        "my_strategy:FullestTail", model="small", num_slices=4, max_batch=3, options={"patience_s": 0.05}
    )
    clock = FakeClock()
    executor = FakeExecutor(clock, lambda step: 0.04)
    engine = Engine(Scheduler({"small": policy}), executor, lambda ended: None, clock=clock)
    engine.submit("small", 2, rows_at(20), [0.0], [None])
    engine.submit("small", 0, rows_at(*range(9)), [0.01] * 9, [None] * 9)
    while engine.step_once():
        pass
    # At 0.00 and 0.04 entry 0 is fuller; at 0.08 the row at entry 2 has waited for more than 0.05 s.
    assert executor.batches == [(0, 4, 3), (0, 4, 3), (2, 4, 1), (0, 4, 3)]
