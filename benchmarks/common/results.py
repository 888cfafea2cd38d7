"""Where a benchmark's document goes: into a results file named theme_hardware_date, and as the last line of stdout."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from actors.report import provenance
from slicer.common.comparison import Ratio

#: The repository.
ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"


def put(document: dict[str, Any], out: Path | None) -> None:
    """Write it to `out`, where that is asked for, and print it."""
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(document))


def publish(document: dict[str, Any], out: Path | None, theme: str) -> Path:
    """Write it to `out`, by default to THEME-CPUScpu_DATE.json, and print it; returns the file.

    It goes among the results; where the package is installed without them, into the current folder.
    """
    if out is None:
        cpus = provenance.hardware()["cpus_usable"]
        today = datetime.datetime.now(datetime.timezone.utc)
        out = (RESULTS if RESULTS.is_dir() else Path()) / f"{theme}-{cpus}cpu_{today:%Y-%m-%d}.json"
    put(document, out)
    return out


def machine() -> str:
    """This machine's architecture as a part of a file's name, such as ``x86-64``."""
    return re.sub("[^a-z0-9]+", "-", (platform.machine() or "host").lower())


def ci95(interval: tuple[float, float] | None) -> list[float] | None:
    """A confidence interval as it stands in a document; None stays None."""
    return None if interval is None else [round(bound, 4) for bound in interval]


def ratio_figures(found: Ratio) -> dict[str, Any]:
    """A paired ratio as it stands in a document: ``ratio``, ``ci95`` (None with one pair) and ``by_seed``."""
    bounds = None if found.low is None or found.high is None else (found.low, found.high)
    return {
        "ratio": round(found.ratio, 4),
        "ci95": ci95(bounds),
        "by_seed": [round(one, 4) for one in found.by_pair],
    }


def manifest(
    args: argparse.Namespace,
    load_before: float | None = None,
    *,
    seeds: Sequence[int] | None = None,
    without: Sequence[str] = ("out",),
) -> dict[str, Any]:
    """Where a benchmark's figures come from.

    Args:
        load_before: the host's load average when it began: other work on the machine shows in it.
        seeds: None: one, `args.seed`.
        without: what of `args` decides about no figure, such as paths of this machine.
    """
    load = {} if load_before is None else {"load_average_1m_before_and_after": [load_before, os.getloadavg()[0]]}
    return {
        **provenance.provenance(),
        "configuration": {key: _text(value) for key, value in vars(args).items() if key not in without},
        "seeds": list(seeds) if seeds is not None else [args.seed],
        **load,
    }


def _text(value: object) -> str:
    """As it was given on the command line; of a path from the root its end, since the rest is this machine's."""
    if isinstance(value, Path) and value.is_absolute():
        return value.name
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
