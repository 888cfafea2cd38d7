"""The command `headtail`: what it gathers, how quickly it says so, and what all its commands share."""

from __future__ import annotations

import importlib
import io
import json
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest

from headtail.cli import main
from headtail.cli.bench_command import BENCHMARKS, module_of, show_without_document
from headtail.cli.group import COMMANDS, headtail
from slicer.common.command_line import Command, values
from slicer.errors import ConfigError
from tests.paths import ROOT


def command_of(name: str) -> Command:
    found = headtail.get_command(click.Context(headtail), name)
    assert isinstance(found, Command)
    return found


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_the_list_of_commands_needs_neither_torch_nor_ray_nor_numpy(arguments: list[str]) -> None:
    code = f"import sys\nfrom headtail.cli import main\nmain({arguments})\n"
    code += "print(sorted({'torch', 'ray', 'numpy', 'rich'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_needs_neither_torch_nor_ray(name: str) -> None:
    code = f"import sys\nfrom headtail.cli import main\nmain([{name!r}, '--help'])\n"
    code += "print(sorted({'torch', 'ray'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_says_of_itself_what_the_list_says_of_it(name: str) -> None:
    found = command_of(name)
    assert found.name == name
    assert (found.help or "").splitlines()[0] == COMMANDS[name][1]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_examples_that_parse_and_the_name_in_the_environment(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"HEADTAIL_{name.upper()}_" in shown and "Examples:" in shown
    for example, _ in command_of(name).examples:
        assert example in shown
        program, subcommand, *arguments = shlex.split(example)
        assert (program, subcommand) == ("headtail", name)
        if "--help" not in arguments:
            values(command_of(name), arguments)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_json_and_debug(name: str) -> None:
    assert {"--json", "--debug"} <= {flag for param in command_of(name).params for flag in param.opts}


def test_old_names_are_aliases() -> None:
    tomllib = pytest.importorskip("tomllib", reason="in the standard library since Python 3.11")
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts.pop("headtail") == "headtail.cli:main"
    assert set(scripts) == {f"headtail-{name}" for name in ("slice", "serve", "load", "doctor")}
    for name, target in scripts.items():
        module, _, function = target.partition(":")
        assert callable(getattr(importlib.import_module(module), function)), name


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["laod"], "headtail: No such command 'laod'; did you mean load?"),
        (["train"], "headtail: No such command 'train'; there are slice, serve, load"),
        (["load", "--ratee", "5"], "headtail load: No such option '--ratee'"),
        (["slice"], "headtail slice: Missing argument 'MODEL'"),
        (["load", "--duration", "2"], "headtail load: no load; give --rate"),
        (["bench", "speed"], "headtail bench: Invalid value for 'NAME': 'speed' is not one of 'goodput'"),
        (["demo", "--seed", "-1"], "headtail demo: --seed -1"),
    ],
)
def test_a_mistake_is_one_line_and_exit_status_2(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith(says)


def test_without_a_command_the_help_is_shown_as_a_page(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert main(["--help"]) == 0
    printed = capsys.readouterr()
    assert printed.err == printed.out and "\n  load " in printed.err


def test_a_value_comes_from_the_flag_else_the_environment_else_the_file_else_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from actors.cli import device_command
    from actors.fleet.config import DeviceConfig
    from actors.load.one_device import choose_device
    from deployments import cli as serve

    server, fleet = tmp_path / "server.yaml", tmp_path / "fleet.yaml"
    server.write_text("models: [{name: digits_vit, max_batch: 5}]\n")
    fleet.write_text("groups: [{name: camera, cut: 2}]\n")

    def served(*flags: str) -> int:
        return serve.config_of(serve.ServeFlags(**values(command_of("serve"), flags))).models[0].max_batch

    def device(*flags: str) -> DeviceConfig:
        given = device_command.DeviceFlags(**values(command_of("device"), ["--url", "http://h:1/a", *flags]))
        return choose_device(device_command.fleet_of(given), None, device_command.changes(given))

    assert (served(), device().cut) == (32, 1)
    assert (served(str(server)), device("--fleet", str(fleet)).cut) == (5, 2)
    monkeypatch.setenv("HEADTAIL_SERVE_MAX_BATCH", "6")
    monkeypatch.setenv("HEADTAIL_DEVICE_CUT", "3")
    assert (served(str(server)), device("--fleet", str(fleet)).cut) == (6, 3)
    assert served(str(server), "--max-batch", "7") == 7
    assert device("--fleet", str(fleet), "--cut", "4").cut == 4


def test_shells_complete_commands_and_flags() -> None:
    def completed(words: str) -> str:
        at = str(words.count(" "))
        environment = {"_HEADTAIL_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": at, "PATH": ""}
        done = subprocess.run(
            [sys.executable, "-m", "headtail"], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout

    assert "plain,serve" in completed("headtail s")
    assert "--strategy" in completed("headtail serve --str")
    assert completed("headtail load --strategy lazy,unb").split() == ["plain,lazy,unbatched"]
    assert completed("headtail serve serv").split() == ["file,serv"]
    assert completed("headtail slice m --export sha").split() == ["dir,sha"]


# ---- headtail demo ----


def test_the_demo_gets_its_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[str, Any] = {}

    def run_demo(out: Path, **given: Any) -> int:
        told.update(given, out=out)
        return 0

    demo = ModuleType("headtail.demo")
    demo.run_demo = run_demo  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "headtail.demo", demo)
    assert main(["demo"]) == 0
    assert (told["out"], told["json"], told["seed"]) == (Path("report"), False, 0)
    assert main(["demo", "--out", "x", "--json", "--seed", "3"]) == 0
    assert (told["out"], told["json"], told["seed"]) == (Path("x"), True, 3)


# ---- headtail bench ----


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_is_there_and_its_script_runs_as_a_module(name: str) -> None:
    module = module_of(name)
    source = (ROOT / f"{module.replace('.', '/')}.py").read_text()
    assert '__name__ == "__main__"' in source


def test_scripts_of_benchmarks_are_all_named() -> None:
    parts = {
        "benchmarks.paper.worker",
        "benchmarks.serving.engine_cost_worker",
        "benchmarks.serving.host",
        "benchmarks.models.train_digits",
        "benchmarks.accelerator.gpu",
    }
    scripts = {
        path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
        for path in (ROOT / "benchmarks").rglob("*.py")
        if '__name__ == "__main__"' in path.read_text()
    }
    named = {one.module for one in BENCHMARKS.values()}
    assert {script for script in scripts - parts if "peers" not in script} == named - {"benchmarks.peers.peers"}


def test_an_absent_benchmark_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headtail.cli.bench_command.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"peers: .* is not here"):
        module_of("peers")


class Script:
    """In place of a benchmark's process, and of what makes one; `ended` is how."""

    stdout = None

    def __init__(self, ended: int | BaseException) -> None:
        self.ended, self.called, self.waited_for = ended, list[str](), False

    def __call__(self, arguments: list[str], **_: Any) -> Script:
        self.called = arguments
        return self

    def __enter__(self) -> Script:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def wait(self) -> int:
        if isinstance(self.ended, BaseException):
            raise self.ended
        return self.ended

    def communicate(self) -> None:
        self.waited_for = True


def test_a_benchmark_gets_what_follows_its_name_and_its_exit_status_is_the_commands(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    script = Script(ended=3)
    monkeypatch.setattr(subprocess, "Popen", script)
    assert main(["bench", "simulate", "--rate", "9", "--json", "--help"]) == 3
    assert script.called == [sys.executable, "-m", "benchmarks.accelerator.simulate", "--rate", "9", "--help"]


@pytest.mark.parametrize("name", ["paper", "coverage", "hugging-face"])
def test_the_help_of_a_benchmark_calls_it_as_it_was_called(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "headtail", "bench", name, "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith(f"usage: headtail bench {name} [-h]")
    assert f"headtail bench {name} --f" in done.stdout and f"{name}.py" not in done.stdout


def test_ctrl_c_waits_until_a_benchmark_has_taken_down_what_it_started(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(ended=KeyboardInterrupt())
    monkeypatch.setattr(subprocess, "Popen", script)
    assert main(["bench", "goodput", "--json"]) == 130
    assert script.waited_for


@pytest.mark.parametrize(
    ("lines", "shown"),
    [
        (["a table", json.dumps({"figures": 1})], "a table\n--json prints all figures as one JSON document\n"),
        (["{not the last}", "a table"], "{not the last}\na table\n"),
        ([], ""),
    ],
)
def test_on_a_terminal_the_document_of_a_benchmark_is_left_out(lines: list[str], shown: str) -> None:
    screen = io.StringIO()
    show_without_document(io.StringIO("".join(f"{line}\n" for line in lines)), screen)
    assert screen.getvalue() == shown
