"""``index.html``: the answers with their pictures and tables in one file; nothing is fetched from anywhere."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

from actors.report import page as shell
from headtail.demo.answer import Answer


def page(answers: Sequence[Answer], pictures: Mapping[str, str], verdict: Sequence[str], following: str) -> str:
    """The whole document. `pictures`: figure elements by an answer's key."""
    parts = [
        "<h1>HeadTail: three questions</h1>",
        "<ol>" + "".join(f"<li>{html.escape(line)}</li>" for line in verdict) + "</ol>",
    ]
    for number, answer in enumerate(answers, start=1):
        parts += [
            f"<h2>{number}. {html.escape(answer.question)}</h2>",
            f'<p class="lead">{html.escape(answer.sentence)}</p>',
        ]
        parts += [f'<p class="note">{html.escape(line)}</p>' for line in answer.bad]
        notes = "".join(f"<li>{html.escape(note)}</li>" for note in answer.notes)
        parts += [pictures[answer.key], f'<ul class="faint">{notes}</ul>', *(table.folded() for table in answer.tables)]
    parts += ["<h2>What next</h2>", f"<pre>{html.escape(following)}</pre>"]
    return shell.page("HeadTail demo", "\n".join(parts))
