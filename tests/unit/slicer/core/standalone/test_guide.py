"""What docs/guide/devices.md and the package's README show is what there is."""

from __future__ import annotations

import dataclasses
import re
import shlex
import sys
from pathlib import Path

import pytest
from PIL import Image

import slicer.core
from slicer.core.records.record import Record
from slicer.core.standalone import command
from tests.documented import blocks
from tests.paths import ROOT
from tests.unit.slicer.core.standalone.conftest import TOKEN

GUIDE, README, UNIT = "docs/guide/devices.md", "clients/python/README.md", "clients/python/headtail-device.service"
COMMANDS = [
    line.partition("#")[0]
    for document in (GUIDE, README)
    for info, text in blocks(document)
    if info in ("", "text")
    for line in text.splitlines()
    if " --url " in line
]


@pytest.mark.parametrize("document", [GUIDE, README])
def test_the_first_lines_of_python_run(
    document: str,
    url: str,
    digits: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Image.open(digits[0]).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEADTAIL_TOKEN", TOKEN)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setitem(sys.modules, "headtail_device", slicer.core)
    program = next(text for info, text in blocks(document) if info == "python")
    exec(program.replace("http://10.0.0.7:8000/headtail", url), {})
    assert capsys.readouterr().out.startswith("digit: ")
    assert (tmp_path / ".cache/headtail-device/files").is_dir()


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_is_understood(line: str) -> None:
    words = shlex.split(line)
    at = next(number for number, word in enumerate(words) if word.endswith("headtail-device"))
    command.check(command.parser().parse_args(words[at + 1 :]))


def test_options_in_the_table_are_those_of_the_command() -> None:
    text = (ROOT / GUIDE).read_text(encoding="utf-8")
    shown = set(re.findall(r"--[a-z0-9-]+", "".join(re.findall(r"^\| (`--.*?) \|", text, flags=re.MULTILINE))))
    assert shown and shown <= set(re.findall(r"--[a-z0-9-]+", command.parser().format_help()))


def test_every_key_of_a_record_has_its_line() -> None:
    (rows,) = re.findall(
        r"^\| key \|.*?\n\n", (ROOT / GUIDE).read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL
    )
    named = set(re.findall(r"`(\w+)`", "".join(line.split("|")[1] for line in rows.splitlines() if line)))
    assert named == {field.name for field in dataclasses.fields(Record)} | {"strategy", "seed", "loop", "warmup"}


def test_the_service_runs_a_command_that_is_understood() -> None:
    unit = (ROOT / UNIT).read_text(encoding="utf-8")
    (started,) = re.findall(r"^ExecStart=\S+ (.*)$", unit, flags=re.MULTILINE)
    given = dict(re.findall(r"^#   (\w+)=(.*)$", unit, flags=re.MULTILINE))
    for name, value in given.items():
        started = started.replace(f"${{{name}}}", value).replace(f"${name}", value)
    assert "$" not in started
    command.check(command.parser().parse_args(shlex.split(started.replace("%C", "/var/cache"))))
