"""What a claim's function says, and the lines and the file that become of it."""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Result = Literal["PASS", "FAIL", "NOT MEASURED"]


def now() -> str:
    """The time, for a person."""
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M")


@dataclass(frozen=True)
class Finding:
    """One claim and what was seen of it."""

    claim: str
    result: Result
    figure: str
    at: str = field(default_factory=now)

    def __str__(self) -> str:
        return f"{self.result:12}  {self.claim}: {self.figure}"

    def row(self) -> str:
        """As a row of a Markdown table."""
        return f"| {self.claim} | {self.result} | {self.figure.replace('|', '/')} | {self.at} |"


def judged(claim: str, holds: bool, figure: str) -> Finding:
    """PASS or FAIL."""
    return Finding(claim, "PASS" if holds else "FAIL", figure)


ROW = re.compile(r"^\| (.*) \| (PASS|FAIL|NOT MEASURED) \| (.*) \| (\d{4}-\d\d-\d\d \d\d:\d\d) \|$")


def unfinished(name: str, why: str) -> Finding:
    """What stands for the claims that `name` did not come to."""
    return Finding(f"{name}: the rest", "NOT MEASURED", why)


def merged(page: str, found: Sequence[Finding], ran: Sequence[str] = ()) -> str:
    """The page with these rows in its table: a claim's row is replaced, that of a new one comes last.

    Where all of a name in `ran` was measured this time, the row that said that it was not goes away.
    """
    mended = {unfinished(name, "").claim for name in ran} - {finding.claim for finding in found}
    rows = {finding.claim: finding.row() for finding in found}
    lines: list[str] = []
    last: int | None = None
    for line in page.splitlines():
        match = ROW.match(line)
        if match is not None and match.group(1) in mended:
            continue
        if match is not None:
            line = rows.pop(match.group(1), line)
            last = len(lines)
        elif line.startswith("|---"):
            last = len(lines)
        lines.append(line)
    at = len(lines) if last is None else last + 1
    return "\n".join([*lines[:at], *rows.values(), *lines[at:]]) + "\n"


def write(path: Path, found: Sequence[Finding], ran: Sequence[str]) -> None:
    """Put the findings of the claims in `ran` into the file's table, which must exist."""
    path.write_text(merged(path.read_text(encoding="utf-8"), found, ran), encoding="utf-8")
