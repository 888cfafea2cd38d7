"""What people see: page and terminal show the same words and figures."""

from __future__ import annotations

import shlex
import xml.etree.ElementTree as ElementTree

import click
import pytest

from actors.report.tables import Table
from headtail.cli.group import headtail
from headtail.demo import terminal
from headtail.demo.answer import Answer, about
from headtail.demo.page import page
from headtail.demo.verdict import NEXT, following, verdict
from slicer.common import command_line
from tests.paths import ROOT

TABLE = Table("a <title>", ("name", "figure"), (("first", "1"), ("second & last", "20")))
ANSWER = Answer("key", "Is it so?", "Yes, it is.", (TABLE,), ("Emulated: nothing.",), "A caption.")


def test_two_digits_count_in_a_sentence() -> None:
    assert [about(value) for value in (488.2, 17.03, 1.23, 0.0)] == ["490", "17", "1.2", "0"]


def test_the_page_is_well_formed_fetches_nothing_and_holds_all_words() -> None:
    made = page([ANSWER], {"key": "<figure/>"}, ["First & last."], following())
    ElementTree.fromstring(made.replace("<!DOCTYPE html>\n", ""))
    for words in ("Is it so?", "Yes, it is.", "a &lt;title&gt;", "second &amp; last", "First &amp; last."):
        assert words in made
    assert "src=" not in made and "<script" not in made


def test_without_a_terminal_a_table_is_plain_and_aligned() -> None:
    text = terminal.table_text(TABLE, terminal=False)
    assert text.splitlines()[1:] == [
        "name           figure",
        "-------------  ------",
        "first               1",
        "second & last      20",
    ]


def test_on_a_terminal_it_holds_the_same_cells() -> None:
    text = terminal.table_text(TABLE, terminal=True)
    assert all(word in text for word in ("first", "second & last", "20"))


def test_the_verdict_has_four_lines_and_admits_a_difference() -> None:
    same = Answer("same", "", "", (), (), "", {"same": 9, "asked": 10}, bad=("x",))
    highest = {"continuous": 520.0, "per_tail_shared": 430.0, "server-only": 310.0}
    batching = Answer("batching", "", "", (), (), "", {"highest_rps": highest})
    cells = [{"verdict": "split"}, {"verdict": "server-only"}, {"verdict": "device-only"}]
    splitting = Answer("splitting", "", "", (), (), "", {"cells": cells})
    lines = verdict(same, batching, splitting)
    assert len(lines) == 4
    assert "9 of 10: ANSWERS THAT DIFFER" in lines[0]
    assert "1.2 times" in lines[1]
    assert "520 requests/s at mixed cuts, 310" in lines[2]
    assert "2 of 3 cases" in lines[3]


@pytest.mark.parametrize("command", [command for _, commands, _ in NEXT for command in commands])
def test_what_comes_next_can_be_typed(command: str) -> None:
    program, name, *arguments = (word for word in shlex.split(command) if not word.startswith("PYTHONPATH="))
    assert program == "headtail"
    found = headtail.get_command(click.Context(headtail), name)
    assert found is not None
    command_line.values(found, arguments)


@pytest.mark.parametrize("where", sorted({where for _, _, where in NEXT}))
def test_what_comes_next_is_explained(where: str) -> None:
    assert (ROOT / where).exists()
