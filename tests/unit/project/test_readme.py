"""README's code runs, its YAML is valid, its commands and files exist, and so do those of docs/*.md.

Blocks are marked by what follows the fence: ``python run`` is run, ``yaml server`` and ``yaml fleet`` are parsed; every
line of a block without a language is a command, or output if the block has no command. Here commands are only read;
`tests/cluster/test_documented_commands.py` runs them.
"""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path

import pytest
import yaml
from ray.scripts.scripts import cli as ray_cli

from actors.cli import config_of as load_config_of
from actors.cli import parser as load_parser
from actors.fleet.config import parse_fleet
from actors.fleet.placement import Beside, check, demands_of
from actors.load.job import Job
from deployments.cli import config_of as serve_config_of
from deployments.cli import parser as serve_parser
from deployments.config import parse_config
from deployments.doctor.cli import parser as doctor_parser
from deployments.scheduling.registry import SHIPPED
from slicer.cli import parser as slice_parser
from slicer.errors import ConfigError
from tests import documented
from tests.paths import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = documented.blocks("README.md")

PARSERS = {
    "headtail-slice": slice_parser,
    "headtail-serve": serve_parser,
    "headtail-load": load_parser,
    "headtail-doctor": doctor_parser,
    "python -m actors": load_parser,
    "python -m deployments.doctor": doctor_parser,
    "python -m deployments.cli": serve_parser,
}


def blocks(kind: str) -> list[str]:
    return [text for info, text in BLOCKS if info == kind]


#: ``ray job submit -- X`` gives X as well.
COMMANDS = [
    part
    for command in documented.all_commands()
    for part in (command, *([command.partition(" -- ")[2]] if command.startswith("ray job submit") else []))
]


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


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """README's server.yaml and fleet.yaml are in the current folder."""
    documented.put_files(tmp_path)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize("command", [c for c in COMMANDS if (found := ours(c)) and found[0].prog == "headtail-load"])
def test_load_jobs_are_complete_up_to_what_needs_ray(command: str) -> None:
    found = ours(command)
    assert found is not None
    assert Job(load_config_of(found[0].parse_args(found[1]))).requests > 0


@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize("command", [c for c in COMMANDS if (found := ours(c)) and found[0].prog == "headtail-serve"])
def test_servers_are_complete_up_to_what_needs_ray(command: str) -> None:
    found = ours(command)
    assert found is not None
    assert serve_config_of(found[0].parse_args(found[1])).models


def test_a_load_job_without_a_load_would_be_found() -> None:
    with pytest.raises(ConfigError, match="--rate"):
        load_config_of(load_parser().parse_args(["--out", "report"]))


def test_the_fleet_and_the_server_that_are_shown_fit_the_two_cores_that_are_asked_for() -> None:
    (fleet,), (config,) = map(blocks, ("yaml fleet", "yaml server"))
    machine = [{"Alive": True, "NodeID": "here", "Resources": {"CPU": 2.0}}]
    one = Beside("the server", {"CPU": parse_config(yaml.safe_load(config)).cpus}, ("here",))
    check(machine, demands_of(parse_fleet(yaml.safe_load(fleet))), beside=[one])


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


def test_every_strategy_has_its_row_as_the_registry_describes_it() -> None:
    table = README[README.index("## Strategies") : README.index("## Serve and load")]
    rows = re.findall(r"^\| `(\w+)` \| (.*) \| (.*) \|$", table, flags=re.MULTILINE)
    assert rows == [(strategy.name, strategy.summary, strategy.when) for strategy in SHIPPED.values()]


def test_files_that_are_named_exist() -> None:
    named = re.findall(r"`((?:[\w.-]+/)*[\w-]+\.(?:md|yaml|py|toml))`", README)
    named += re.findall(r"`(docs/|examples/|tests/)`", README)
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []
