"""The page of a load job: the answer in words and one picture, what must be known, pictures, tables folded below."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

from actors.report.page import page
from actors.report.report_tables import group_table, remarks, tables
from actors.report.result import Result
from actors.report.verdict import verdict

#: More remarks than these are folded.
_SHOWN = 4


def html_report(result: Result, manifest: str, pictures: Mapping[str, str], files: Sequence[str]) -> str:
    """The whole document.

    Args:
        manifest: as JSON.
        pictures: HTML figures by name, in order; "summary" goes to the top. May be empty.
        files: names of what lies beside the page.
    """
    said = verdict(result)
    words = [f"<h1>{html.escape(said.headline)}{' (emulated)' if result.emulated else ''}</h1>"]
    words += [f'<p class="lead">{html.escape(line)}</p>' for line in said.lines[:2]]
    words += [f"<p>{html.escape(line)}</p>" for line in said.lines[2:]]
    words += [f"<p><strong>{html.escape(said.trust)}</strong></p>", f'<p class="load">{html.escape(result.load)}</p>']
    top = f'<div class="beside">\n<div>{"".join(words)}</div>\n{pictures.get("summary", "")}\n</div>'
    others = [picture for name, picture in pictures.items() if name != "summary"]
    body = [top, *_remarks(result)]
    if others:
        body += ["<h2>In pictures</h2>", '<div class="pictures">', *others, "</div>"]
    body.append("<h2>In figures</h2>")
    body += [table.folded() for table in (*tables(result), group_table(result))]
    body.append(f"<details><summary>Manifest</summary><pre>{html.escape(manifest)}</pre></details>")
    beside = ", ".join(f'<a href="{html.escape(name)}">{html.escape(name)}</a>' for name in files)
    body.append(f'<p class="faint">HeadTail load report. Beside this page: {beside}.</p>')
    return page(f"HeadTail: {said.headline}", "\n".join(body))


def _remarks(result: Result) -> list[str]:
    notes = [f'<p class="note">{html.escape(note)}</p>' for note in remarks(result)]
    if len(notes) <= _SHOWN:
        return notes
    more = len(notes) - _SHOWN
    folded = f"<details><summary>{more} more remark{'s' * (more > 1)}</summary>{''.join(notes[_SHOWN:])}</details>"
    return [*notes[:_SHOWN], folded]
