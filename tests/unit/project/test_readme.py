"""README's code runs, its YAML is valid, its commands and files exist, and so do those of docs/*.md.

Blocks are marked by what follows the fence: ``python run`` is run, ``yaml server`` and ``yaml fleet`` are parsed; every
line of a block without a language is a command, or output if the block has no command. Here commands are only read;
`tests/cluster/test_documented_commands.py` runs them.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from ray.scripts.scripts import cli as ray_cli

from actors.cli.load_command import LoadFlags
from actors.cli.load_command import command as load_command
from actors.cli.load_command import config_of as load_config_of
from actors.fleet.config import parse_fleet
from actors.fleet.placement import Beside, check, demands_of
from actors.load.job import Job
from deployments.cli import ServeFlags
from deployments.cli import command as serve_command
from deployments.cli import config_of as serve_config_of
from deployments.config import parse_config
from deployments.doctor.cli import command as doctor_command
from deployments.scheduling.registry import SHIPPED
from slicer.cli.slice_command import command as slice_command
from slicer.common.command_line import values
from slicer.errors import ConfigError
from tests import documented
from tests.paths import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = documented.blocks("README.md")

COMMANDS_OF_OURS: dict[str, click.Command] = {
    "headtail slice": slice_command,
    "headtail serve": serve_command,
    "headtail load": load_command,
    "headtail doctor": doctor_command,
    "python -m actors": load_command,
    "python -m deployments.doctor": doctor_command,
    "python -m deployments.cli": serve_command,
}


def blocks(kind: str) -> list[str]:
    return [text for info, text in BLOCKS if info == kind]


#: ``ray job submit -- X`` gives X as well.
COMMANDS = [
    part
    for command in documented.all_commands()
    for part in (command, *([command.partition(" -- ")[2]] if command.startswith("ray job submit") else []))
]


def ours(command: str) -> tuple[click.Command, list[str]] | None:
    for name, found in COMMANDS_OF_OURS.items():
        if command == name or command.startswith(name + " "):
            return found, shlex.split(command.removeprefix(name))
    return None


def given(command: str) -> dict[str, Any]:
    """What a command of ours comes to. Raises click.UsageError."""
    found = ours(command)
    assert found is not None
    return values(*found)


@pytest.mark.parametrize("source", blocks("python run"))
def test_python_runs(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(source, "README.md", "exec"), {"__name__": "readme"})


def test_every_block_is_of_a_kind_that_is_tested() -> None:
    assert {info for info, _ in BLOCKS} == {"", "python run", "yaml server", "yaml fleet"}


def test_there_is_something_to_run_and_to_parse() -> None:
    assert blocks("python run")
    assert {name for command in COMMANDS for name in COMMANDS_OF_OURS if command.startswith(name)} >= {
        "headtail slice",
        "headtail serve",
        "headtail load",
        "python -m actors",
        "python -m deployments.doctor",
    }


@pytest.mark.parametrize("command", [command for command in COMMANDS if ours(command)])
def test_our_commands_parse(command: str) -> None:
    try:
        given(command)
    except click.UsageError as error:
        pytest.fail(f"{command}: {error.format_message()}")


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files that README and the tutorial show are in the current folder."""
    documented.put_files(tmp_path)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize("command", [c for c in COMMANDS if (found := ours(c)) and found[0] is load_command])
def test_load_jobs_are_complete_up_to_what_needs_ray(command: str) -> None:
    assert Job(load_config_of(LoadFlags(**given(command)))).requests > 0


@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize("command", [c for c in COMMANDS if (found := ours(c)) and found[0] is serve_command])
def test_servers_are_complete_up_to_what_needs_ray(command: str) -> None:
    assert serve_config_of(ServeFlags(**given(command))).models


def test_a_load_job_without_a_load_would_be_found() -> None:
    with pytest.raises(ConfigError, match="--rate"):
        load_config_of(LoadFlags(out="report"))


def test_the_fleet_and_the_server_that_are_shown_fit_the_two_cores_that_are_asked_for() -> None:
    (fleet,), (config,) = map(blocks, ("yaml fleet", "yaml server"))
    machine = [{"Alive": True, "NodeID": "here", "Resources": {"CPU": 2.0}}]
    one = Beside("the server", {"CPU": parse_config(yaml.safe_load(config)).cpus}, ("here",))
    check(machine, demands_of(parse_fleet(yaml.safe_load(fleet))), beside=[one])


def test_a_wrong_flag_would_be_found() -> None:
    with pytest.raises(click.UsageError, match="--fleeet"):
        given("headtail load --server x --fleeet y")


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
