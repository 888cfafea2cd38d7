"""Tables for people: the same cells as terminal text, Markdown and HTML."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

R = TypeVar("R")


@dataclass(frozen=True)
class Table:
    """A titled table. Every row has as many cells as the header; the first `left` columns are left-aligned."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: int = 1

    def text(self) -> str:
        """For a terminal: columns padded to their widest cell."""
        widths = [max(map(len, column)) for column in zip(self.header, *self.rows, strict=True)]
        lines = [self._line(self.header, widths), "  ".join("-" * width for width in widths)]
        lines += [self._line(row, widths) for row in self.rows]
        return "\n".join([self.title, *(line.rstrip() for line in lines)])

    def _line(self, cells: Sequence[str], widths: Sequence[int]) -> str:
        return "  ".join(
            cell.ljust(width) if index < self.left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )

    def markdown(self) -> str:
        """A Markdown section with a pipe table."""
        rule = [":--" if index < self.left else "--:" for index in range(len(self.header))]
        lines = ["| " + " | ".join(cells) + " |" for cells in (self.header, rule, *self.rows)]
        return "\n".join([f"## {self.title}", "", *lines])

    def html(self) -> str:
        """An HTML table without the title, in a box that scrolls by itself; cells are escaped."""
        head = "".join(f"<th>{html.escape(cell)}</th>" for cell in self.header)
        body = "\n".join(
            "<tr>"
            + "".join(f'<td class="{"l" if i < self.left else "r"}">{html.escape(c)}</td>' for i, c in enumerate(row))
            + "</tr>"
            for row in self.rows
        )
        table = f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table>"
        return f'<div class="scroll">{table}</div>'

    def folded(self) -> str:
        """The HTML table under its title, which opens it."""
        return f"<details><summary>{html.escape(self.title)}</summary>{self.html()}</details>"


@dataclass(frozen=True)
class Column(Generic[R]):
    """One column of a table whose rows are made from objects of type R.

    Attributes:
        header: above it.
        value: what a row has there; a text stands as it is.
        show: any other value as a cell, in the column's unit.
        unit: as the table's title states it; empty: the header says enough.
    """

    header: str
    value: Callable[[R], Any]
    show: Callable[[Any], str] = str
    unit: str = ""

    def cell(self, row: R) -> str:
        """The text in this column of a row."""
        value = self.value(row)
        return value if isinstance(value, str) else self.show(value)


def table(title: Callable[[Sequence[str]], str], columns: Sequence[Column[R]], rows: Sequence[R]) -> Table:
    """A table of these columns; `title` is given their units, each once."""
    units = list(dict.fromkeys(column.unit for column in columns if column.unit))
    cells = [[column.cell(row) for column in columns] for row in rows]
    return Table(title(units), [column.header for column in columns], cells)


def number(value: float | None, digits: int = 1) -> str:
    """A figure, or "-" where there is none: what is missing is missing, not zero."""
    return "-" if value is None else f"{value:.{digits}f}"


def share(value: float | None, digits: int = 1) -> str:
    """A share as per cent. 100 % is only said of all of them: what would round up to it shows its digits."""
    if value is None:
        return "-"
    text = f"{value:.{digits}%}"
    return f"{value:.4%}" if value < 1 and text.startswith("100") else text


def mib(value: float | None) -> str:
    """Bytes as MiB, or "-"."""
    return "-" if value is None else f"{value / 2**20:.1f}" if value < 100 * 2**20 else f"{value / 2**20:.0f}"


def kilobytes(value: float | None) -> str:
    """Bytes as kB (thousands), or "-"."""
    return number(None if value is None else value / 1e3)
