"""`headtail demo`: three questions, each answered by a sentence, a table and a picture."""

from __future__ import annotations

import importlib
import sys
from functools import partial
from pathlib import Path

import click

from slicer.common.command_line import Command, option
from slicer.errors import ConfigError


@click.command(
    "demo",
    cls=Command,
    examples=(
        ("headtail demo", "two minutes; pictures and a report in report/"),
        ("headtail demo --out elsewhere --json", "another folder; figures as a JSON document"),
    ),
    notes="Needs no GPU and no network. Exit status: 0 shown; 1 an answer differs, or a live point is INVALID; "
    "2 wrong input; 130 interrupted.",
    interrupted="interrupted; everything it started is taken down",
)
@option("--out", type=click.Path(file_okay=False, path_type=Path), default=None, help="Folder (default report).")
@option("--seed", type=int, metavar="N", default=None, help="Of everything random (default 0).")
@option("--json", is_flag=True, default=None, help="End with one JSON document.")
def command(out: Path | None, seed: int | None, json: bool | None) -> int:
    """Show what splitting and batching gain, and where they do not."""
    if seed is not None and seed < 0:
        raise ConfigError(f"--seed {seed}: a whole number from 0 on")
    demo = importlib.import_module("headtail.demo")  # torch and Ray come with it
    say = partial(print, file=sys.stderr if json else sys.stdout, flush=True)
    return int(demo.run_demo(out or Path("report"), say=say, json=bool(json), seed=seed or 0))
