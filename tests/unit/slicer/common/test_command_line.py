"""What commands share: one order of precedence, errors for people, stack traces for bugs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
import pytest

from slicer.common.command_line import BUG, INTERRUPTED, WRONG, Command, Parsed, main, option, progress, values
from slicer.common.plugins import load_object
from slicer.errors import ConfigError

RAISES: dict[str, BaseException] = {
    "wrong": ConfigError("--speed 9 is too much; give 3"),
    "bug": KeyError("inside"),
    "file": PermissionError(13, "Permission denied", "out.json"),
    "full": OSError(28, "No space left on device"),
    "stop": KeyboardInterrupt(),
}


def number(text: str) -> int:
    if not text.isdecimal():
        raise ValueError(f"{text!r} is no number of laps")
    return int(text)


@click.command("run", cls=Command, examples=(("headtail run --speed 3", "slowly"),), interrupted="all is taken down")
@click.argument("how", required=False)
@option("--speed", type=int, group="How fast", help="Of each lap.")
@option("--laps", type=Parsed("N", number), help="How many.")
def command(how: str | None, **given: Any) -> int:
    """Run laps."""
    if how is not None:
        raise RAISES[how]
    return 0


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    status = main(command, arguments)
    printed = capsys.readouterr()
    assert printed.out == ""
    return status, printed.err


def test_a_flag_wins_over_the_environment_and_that_over_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert values(command, [])["speed"] is None
    monkeypatch.setenv("HEADTAIL_RUN_SPEED", "4")
    assert values(command, [])["speed"] == 4
    assert values(command, ["--speed", "5"])["speed"] == 5


def test_modules_in_the_current_folder_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "of_this_folder.py").write_text("VALUE = 3\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    assert run(capsys) == (0, "")
    assert load_object("of_this_folder:VALUE", "model") == 3


def test_a_users_mistake_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "wrong") == (WRONG, "headtail run: --speed 9 is too much; give 3\n")


def test_the_line_says_where_a_flag_comes_from_that_nobody_typed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADTAIL_RUN_SPEED", "9")
    monkeypatch.setenv("HEADTAIL_RUN_LAPS", "2")
    assert run(capsys, "wrong")[1].endswith("give 3 (--speed comes from HEADTAIL_RUN_SPEED)\n")
    monkeypatch.setenv("HEADTAIL_RUN_SPEED", "fast")
    assert "'fast' is not a valid integer. (--speed comes from HEADTAIL_RUN_SPEED) (headtail" in run(capsys)[1]


def test_a_mistyped_variable_is_told(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADTAIL_RUN_SPED", "9")
    meant = "HEADTAIL_RUN_SPED is no flag's variable and does nothing; did you mean HEADTAIL_RUN_SPEED?"
    assert run(capsys) == (0, f"headtail run: {meant}\n")


def test_a_bug_is_one_line_with_what_to_report_and_a_stack_trace_with_debug(capsys: pytest.CaptureFixture[str]) -> None:
    status, said = run(capsys, "bug")
    assert status == BUG and said.count("\n") == 1
    assert "KeyError: 'inside'" in said and "test_command_line.py:" in said and "--debug" in said
    status, said = run(capsys, "bug", "--debug")
    assert status == BUG and said.startswith("Traceback") and "report" in said.splitlines()[-1]


def test_a_file_that_cannot_be_written_is_no_bug(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "file") == (WRONG, "headtail run: out.json: Permission denied\n")
    assert run(capsys, "full") == (WRONG, "headtail run: what it printed: No space left on device\n")


def test_ctrl_c_has_the_shells_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "stop") == (INTERRUPTED, "headtail run: all is taken down\n")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--sped", "3"], "No such option '--sped'"),
        (["--speed", "fast"], "'fast' is not a valid integer"),
        (["--laps", "many"], "'many' is no number of laps"),
    ],
)
def test_wrong_flags_are_one_line_with_where_help_is(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, said = run(capsys, *arguments)
    assert status == WRONG and said.count("\n") == 1
    assert said.startswith("headtail run: ") and says in said and "headtail run --help" in said


def test_help_shows_flags_by_group_and_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command, ["--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.index("How fast:") < shown.index("--speed") < shown.index("Options:") < shown.index("--laps")
    assert "headtail run --speed 3" in shown and "HEADTAIL_RUN_DEBUG" in shown


def test_a_bar_is_shown_to_a_terminal_only(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def shown() -> str:
        with progress("laps", 4) as bar:
            bar.to(3, "1 missed")
        return capsys.readouterr().err

    assert shown() == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert "3/4" in shown()
    with progress("laps"):
        pass
    assert "0/?" not in capsys.readouterr().err  # a total that is not known is not counted
