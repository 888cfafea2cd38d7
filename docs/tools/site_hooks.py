"""What mkdocs calls: the site reads Markdown as GitHub does, where a list or a table may follow a line of text."""

from __future__ import annotations

import re
from typing import Any

_OPENS = re.compile(r"[-*] |1\. |\|")
_GOES_ON = re.compile(r"\s|[-*] |\d+\. |\||$")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """A blank line before each list and table, which Python-Markdown asks for. Blocks of code stay as they are."""
    lines: list[str] = []
    in_code = False
    for line in markdown.split("\n"):
        before = lines[-1] if lines else ""
        if not in_code and _OPENS.match(line) and not _GOES_ON.match(before):
            lines.append("")
        if line.startswith("```"):
            in_code = not in_code
        lines.append(line)
    return "\n".join(lines)
