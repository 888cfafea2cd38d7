"""`headtail report`: tables and pictures from records that were written before."""

from __future__ import annotations

from pathlib import Path

import click

from slicer.common import command_line
from slicer.common.command_line import Command, option


@click.command(
    "report",
    cls=Command,
    examples=(
        ("headtail report results/records.jsonl", "the tables of a load job again"),
        ("headtail report board1/records.jsonl board2/records.jsonl --out boards", "two devices on their own"),
    ),
    notes="Records say what became of each request, not how the server fared. What was emulated, "
    "a job's result.json beside its records says. "
    "Exit status: 0 written; 2 wrong input.",
)
@click.argument("records", nargs=-1, required=True, metavar="FILE...", shell_complete=command_line.files)
@option("--out", metavar="DIR", help="Write report.html, report.md, records.jsonl and plots there.")
@option("--overwrite", is_flag=True, default=None, help="Replace an earlier report there.")
@option("--json", is_flag=True, default=None, help="Print the JSON document on a terminal, too.")
def command(records: tuple[str, ...], out: str | None, overwrite: bool | None, json: bool | None) -> int:
    """Make tables and pictures from records.jsonl, of a load job or of devices on their own."""
    from actors.cli.load_command import finish
    from actors.report.files import reserved
    from actors.report.read_back import read_back

    result = read_back([Path(path) for path in records])
    directory = None if out is None else Path(out)
    requests = sum(len(run.records) for run in result.runs)
    with reserved(directory, requests, overwrite=bool(overwrite), say=command_line.say):
        return finish(result, directory, json_wanted=bool(json), called="headtail report")
