"""Answers as text: with colour and lines where a person looks on, plain where the output goes into a file."""

from __future__ import annotations

import io
import shutil
import sys
import textwrap
from dataclasses import replace

from actors.report.tables import Table
from headtail.demo.answer import Answer

_WIDTH = 110


def width() -> int:
    """Columns to write into."""
    return min(shutil.get_terminal_size((_WIDTH, 24)).columns, _WIDTH)


def wrapped(text: str, indent: str = "", first: str | None = None) -> str:
    """Text of several lines."""
    return textwrap.fill(text, width(), initial_indent=indent if first is None else first, subsequent_indent=indent)


def table_text(table: Table, terminal: bool) -> str:
    """The table under its title."""
    if not terminal:
        return replace(table, title=f"({table.title})").text()
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable

    made = RichTable(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
        title=table.title,
        title_justify="left",
        title_style="dim",
    )
    for number, header in enumerate(table.header):
        made.add_column(header, justify="left" if number == 0 else "right", no_wrap=number == 0)
    for row in table.rows:
        made.add_row(*row)
    file = io.StringIO()
    Console(file=file, force_terminal=True, width=max(width(), 80)).print(made)
    return file.getvalue().rstrip()


def answer_text(number: int, answer: Answer, picture: str) -> str:
    """Question, sentence, tables, notes, and where the picture is."""
    terminal = sys.stdout.isatty()
    bold, plain = ("\033[1m", "\033[0m") if terminal else ("", "")
    parts = ["", f"{bold}{number}. {answer.question}{plain}", bold + wrapped(answer.sentence, "   ") + plain, ""]
    for table in answer.tables:
        parts += [textwrap.indent(table_text(table, terminal), "   "), ""]
    parts += [wrapped(note, "     ", "   - ") for note in answer.notes]
    parts += [wrapped(line, "   ") for line in answer.bad]
    parts.append(f"   Picture: {picture}")
    return "\n".join(parts)
