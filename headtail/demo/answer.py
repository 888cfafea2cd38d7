"""What the demo says to one question: plain text and numbers, so that terminal, page and document show the same."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from actors.report.tables import Table


@dataclass(frozen=True)
class Answer:
    """One question and what was found.

    Attributes:
        key: name of its picture's files.
        sentence: the answer; derived from the figures, rounded so that the noise of a machine does not change it.
        tables: the figures behind it.
        notes: what has to be known beside it, what is emulated first.
        caption: of the picture.
        figures: all numbers, for the document.
        bad: what makes the demo fail: answers that differ or are missing; empty where all is well.
    """

    key: str
    question: str
    sentence: str
    tables: tuple[Table, ...]
    notes: tuple[str, ...]
    caption: str
    figures: dict[str, Any] = field(default_factory=dict)
    bad: tuple[str, ...] = ()


def about(value: float) -> str:
    """A figure for a sentence, with two digits that count: 488.2 -> 490, 17.03 -> 17, 1.23 -> 1.2."""
    if value == 0:
        return "0"
    return f"{float(f'{value:.2g}'):.10g}"
