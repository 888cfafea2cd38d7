"""A result says how it was made, and nothing of where its files lie on the machine that made it."""

from __future__ import annotations

import pytest

from actors.report.provenance import command, commit


def test_a_command_names_no_folder_of_the_machine() -> None:
    asked = [
        "/somewhere/benchmarks/goodput/goodput.py",
        "--slo-x",
        "2,4",
        "--out",
        "/somewhere/else.json",
        "--raw",
        "raw/here",
    ]
    assert command(asked) == ["goodput.py", "--slo-x", "2,4", "--out", "else.json", "--raw", "raw/here"]


def test_the_commit_can_be_told_where_the_history_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADTAIL_COMMIT", "c0ffee")
    assert commit() == "c0ffee"
