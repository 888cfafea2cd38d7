"""``index.html``: one file that holds the answers, their pictures and tables; nothing is fetched from anywhere."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from headtail.demo.answer import Answer, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLE = """
:root { color-scheme: light dark; --back: #fff; --ink: #1b1b1b; --line: #ccc; --soft: #555; }
@media (prefers-color-scheme: dark) { :root { --back: #16181c; --ink: #e8e8e8; --line: #444; --soft: #aaa; } }
body { background: var(--back); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; margin: 0 auto;
  max-width: 60rem; padding: 1rem; }
table { border-collapse: collapse; font-size: .85rem; margin: .5rem 0 1rem; }
caption { text-align: left; color: var(--soft); }
td, th { border-bottom: 1px solid var(--line); padding: .2rem .6rem; text-align: right; white-space: nowrap; }
td:first-child, th:first-child { text-align: left; }
.wide { overflow-x: auto; }
svg { max-width: 100%; height: auto; }
.answer { font-size: 1.1rem; font-weight: 600; }
li, .soft { color: var(--soft); font-size: .9rem; }
pre { overflow-x: auto; border: 1px solid var(--line); padding: .6rem; }
"""


def svg(figure: Figure) -> str:
    """The figure as an element that follows the page's colours: black becomes the ink, the background is clear."""
    figure.patch.set_alpha(0.0)
    for axes in figure.axes:
        axes.patch.set_alpha(0.0)
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    # Axes and words; the words inside coloured fields are set in black, and stay so by their class.
    return re.sub(r"stroke: #000000", "stroke: currentColor", text)


def page(answers: Sequence[Answer], pictures: dict[str, str], verdict: Sequence[str], following: str) -> str:
    """The whole document. `pictures`: SVG elements by an answer's key."""
    parts = [
        "<h1>HeadTail: three questions</h1>",
        "<ol>" + "".join(f"<li class=answer>{html.escape(line)}</li>" for line in verdict) + "</ol>",
    ]
    for number, answer in enumerate(answers, start=1):
        parts += [
            f"<h2>{number}. {html.escape(answer.question)}</h2>",
            f"<p class=answer>{html.escape(answer.sentence)}</p>",
            pictures[answer.key],
            *map(_table, answer.tables),
            "<ul>" + "".join(f"<li>{html.escape(note)}</li>" for note in answer.notes) + "</ul>",
        ]
        parts += [f"<p class=answer>{html.escape(line)}</p>" for line in answer.bad]
    parts += ["<h2>What next</h2>", f"<pre>{html.escape(following)}</pre>"]
    body = "\n".join(parts)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>HeadTail demo</title><style>{_STYLE}</style></head><body>{body}</body></html>\n"
    )


def _table(table: Table) -> str:
    head = "".join(f"<th>{html.escape(one)}</th>" for one in table.headers)
    rows = "".join("<tr>" + "".join(f"<td>{html.escape(one)}</td>" for one in row) + "</tr>" for row in table.rows)
    return f"<div class=wide><table><caption>{html.escape(table.title)}</caption><tr>{head}</tr>{rows}</table></div>"
