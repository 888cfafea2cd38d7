"""A result says how it was made, and nothing of where its files lie on the machine that made it."""

from __future__ import annotations

from actors.provenance import command


def test_a_command_names_no_folder_of_the_machine() -> None:
    asked = ["/somewhere/benchmarks/goodput.py", "--slo-x", "2,4", "--out", "/somewhere/else.json", "--raw", "raw/here"]
    assert command(asked) == ["goodput.py", "--slo-x", "2,4", "--out", "else.json", "--raw", "raw/here"]
