"""README's code runs, its YAML is valid, its commands and files exist.

Blocks are marked by what follows the fence: ``python run`` is run, ``yaml server`` and ``yaml fleet`` are parsed; every
line of a block without a language is a command, or output if the block has no command.
"""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path

import pytest
import yaml
from ray.scripts.scripts import cli as ray_cli

from actors.cli import parser as load_parser
from actors.fleet_config import parse_fleet
from deployments.cli import parser as serve_parser
from deployments.config import STRATEGIES, parse_config
from deployments.doctor import parser as doctor_parser
from slicer.cli import parser as slice_parser

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```([^\n]*)\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)

PARSERS = {
    "headtail-slice": slice_parser,
    "headtail-serve": serve_parser,
    "headtail-load": load_parser,
    "headtail-doctor": doctor_parser,
    "python -m actors": load_parser,
    "python -m deployments.doctor": doctor_parser,
}
COMMAND = re.compile(r"^(headtail-|python -m |make |ray |\.venv/)")


def blocks(kind: str) -> list[str]:
    return [text for info, text in BLOCKS if info == kind]


def commands(text: str) -> list[str]:
    """Commands in a block, comments removed and chains taken apart; ``ray job submit -- X`` gives X as well."""
    found = []
    for line in text.splitlines():
        if COMMAND.match(line):
            for part in re.split(r"\s+&&\s+", re.sub(r"\s+#.*", "", line)):
                found.append(part)
                if part.startswith("ray job submit") and " -- " in part:
                    found.append(part.partition(" -- ")[2])
    return found


COMMANDS = [command for block in blocks("") for command in commands(block)]


def ours(command: str) -> tuple[argparse.ArgumentParser, list[str]] | None:
    for name, parser in PARSERS.items():
        if command == name or command.startswith(name + " "):
            return parser(), shlex.split(command.removeprefix(name))
    return None


@pytest.mark.parametrize("source", blocks("python run"))
def test_python_runs(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(source, "README.md", "exec"), {"__name__": "readme"})


def test_every_block_is_of_a_kind_that_is_tested() -> None:
    assert {info for info, _ in BLOCKS} == {"", "python run", "yaml server", "yaml fleet"}


def test_there_is_something_to_run_and_to_parse() -> None:
    assert blocks("python run")
    assert {name for command in COMMANDS for name in PARSERS if command.startswith(name)} >= {
        "headtail-slice",
        "headtail-serve",
        "headtail-load",
        "python -m actors",
        "python -m deployments.doctor",
    }


@pytest.mark.parametrize("command", [command for command in COMMANDS if ours(command)])
def test_our_commands_parse(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = ours(command)
    assert found is not None
    parser, arguments = found
    try:
        parser.parse_args(arguments)
    except SystemExit:
        pytest.fail(f"{command}: {capsys.readouterr().err}")


def test_a_wrong_flag_would_be_found() -> None:
    found = ours("headtail-load --server x --fleeet y")
    assert found is not None
    with pytest.raises(SystemExit):
        found[0].parse_args(found[1])


@pytest.mark.parametrize("parser", set(PARSERS.values()))
def test_help_is_printed(parser: object, capsys: pytest.CaptureFixture[str]) -> None:
    assert callable(parser)
    with pytest.raises(SystemExit) as stop:
        parser().parse_args(["--help"])
    assert stop.value.code == 0
    assert "usage: headtail-" in capsys.readouterr().out


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("ray ")])
def test_ray_has_the_command_and_its_flags(command: str) -> None:
    found = ray_cli
    words = shlex.split(command.partition(" -- ")[0])[1:]
    while words and words[0] in getattr(found, "commands", {}):
        found = found.commands[words.pop(0)]
    assert found is not ray_cli, command
    known = {option for parameter in found.params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("make ")])
def test_make_has_the_target(command: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^{re.escape(shlex.split(command)[1])}:", makefile, flags=re.MULTILINE)


@pytest.mark.parametrize("text", blocks("yaml server"))
def test_server_files_are_valid(text: str) -> None:
    assert parse_config(yaml.safe_load(text)).models


@pytest.mark.parametrize("text", blocks("yaml fleet"))
def test_fleet_files_are_valid(text: str) -> None:
    assert parse_fleet(yaml.safe_load(text)).groups


def test_every_strategy_has_its_row() -> None:
    table = README[README.index("## Strategies") : README.index("## Serve and load")]
    assert set(re.findall(r"^\| `(\w+)` \|", table, flags=re.MULTILINE)) == set(STRATEGIES)


def test_files_that_are_named_exist() -> None:
    named = re.findall(r"`((?:[\w.-]+/)*[\w-]+\.(?:md|yaml|py|toml))`", README)
    named += re.findall(r"`(docs/|examples/|tests/)`", README)
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []
