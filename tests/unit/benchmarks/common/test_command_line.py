"""A benchmark's command line: lists, and mistakes in one line."""

from __future__ import annotations

import sys

import pytest

from benchmarks.common.command_line import decimals, integers, names, new_parser


def test_lists_are_given_with_commas() -> None:
    made = new_parser("What it does.\n\n    as it stands")
    made.add_argument("--seeds", type=integers, default="0,1")
    made.add_argument("--shares", type=decimals, default="")
    made.add_argument("--strategies", type=names, default="per_tail,lazy")
    args = made.parse_args([])
    assert (args.seeds, args.shares, args.strategies) == ((0, 1), (), ("per_tail", "lazy"))
    assert made.parse_args(["--shares", "0.5,1"]).shares == (0.5, 1.0)
    assert "    as it stands" in made.format_help()


def test_a_list_that_is_none_is_refused_with_the_option_and_the_text(capsys: pytest.CaptureFixture[str]) -> None:
    made = new_parser("")
    made.add_argument("--seeds", type=integers)
    with pytest.raises(SystemExit):
        made.parse_args(["--seeds", "0,x"])
    (line,) = capsys.readouterr().err.splitlines()
    assert "argument --seeds: invalid integers value: '0,x'" in line


def test_ctrl_c_shows_no_stack_trace_and_an_error_does(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    new_parser("")
    sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert capsys.readouterr().err == ""
    sys.excepthook(ValueError, ValueError("9 is too much"), None)
    assert "ValueError: 9 is too much" in capsys.readouterr().err
