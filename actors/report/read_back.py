"""records.jsonl back to runs, whoever wrote it: a load job, or devices that ran on their own."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any, get_args

from actors.report.result import Result
from actors.report.statistics import StrategyRun
from slicer.core.records.record import Record, RequestOutcome
from slicer.errors import ConfigError

#: In place of a strategy in the records of devices on their own: they do not know it.
AS_SERVED = "as served"

_KEYS = {one.name: one for one in fields(Record)}
_NEEDED = {name for name, one in _KEYS.items() if one.default is MISSING}
_ABOUT = {"strategy", "seed", "loop", "warmup"}
_NUMBERS = tuple(name for name in _KEYS if name.endswith(("_ms", "_s")))
_COUNTS = ("cut", "image", "payload_bytes", "answer_bytes", "attempts")


def read_back(paths: Sequence[Path]) -> Result:
    """What the records of one or more files say; each file's runs are runs of their own.

    What no record knows is left out: the server's own figures, its steps, what was emulated, and how long a run was to
    be, so that a rate is up to the last answer.

    Raises:
        ConfigError: a file cannot be read, holds no records, or a line is none.
    """
    runs: list[StrategyRun] = []
    for path in paths:
        runs += _runs(path, len(runs))
    strategies = list(dict.fromkeys(run.strategy for run in runs))
    loops = " and ".join(dict.fromkeys("of devices on their own" if r.loop == "device" else r.loop for r in runs))
    named = ", ".join(dict.fromkeys(path.name for path in paths))
    devices = len({(number, record.device) for number, run in enumerate(runs) for record in run.records})
    load = f"read back: {len(paths)} {'file' if len(paths) == 1 else 'files'} ({named}), {len(runs)} runs ({loops}), "
    return Result(
        load + f"{devices} devices",
        tuple(runs),
        (),
        {"configuration": {"strategies": strategies}, "read_back": [path.name for path in paths]},
        strategies[0],
        ("Records do not say what was emulated, or how the server fared: the job's own result.json does.",),
    )


def _runs(path: Path, first: int) -> list[StrategyRun]:
    """Of one file. Records of devices on their own have no seed: runs are numbered from `first`."""
    found: dict[tuple[str, int, str], list[tuple[Record, bool]]] = {}
    for number, line in enumerate(_lines(path), start=1):
        record, about = _record(line, f"{path}, line {number}")
        found.setdefault((about["strategy"], about["seed"], about["loop"]), []).append((record, about["warmup"]))
    if not found:
        raise ConfigError(f"{path} holds no record; give the records.jsonl of a load job or of a device (--out)")
    made: list[StrategyRun] = []
    for (strategy, seed, loop), records in found.items():
        counted = [record.scheduled_s for record, warmup in records if not warmup]
        warm = any(warmup for _, warmup in records)
        run = StrategyRun(
            strategy or AS_SERVED,
            seed if strategy else first + len(made),
            loop,
            min(counted, default=float("inf")) if warm else 0.0,
            max(counted) - min(counted) if len(counted) > 1 and loop != "closed" else None,
            tuple(
                record for record, warmup in records if not (warmup and counted and record.scheduled_s >= min(counted))
            ),
        )
        made.append(run)
    return made


def _lines(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8") as file:
            yield from (line for line in file if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise ConfigError(f"{path} cannot be read ({why}); give a records.jsonl") from error


def _record(line: str, where: str) -> tuple[Record, dict[str, Any]]:
    """A line, and what stands beside the record. Raises ConfigError."""
    try:
        told = json.loads(line)
        about = {key: told.pop(key) for key in _ABOUT}
        if unknown := told.keys() - _KEYS.keys():
            raise ValueError(f"unknown keys: {', '.join(sorted(unknown))[:100]}")
        if missing := _NEEDED - told.keys():
            raise ValueError(f"missing keys: {', '.join(sorted(missing))}")
        _check(told, about)
        record = Record(**told)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{where} is no record ({error}); give a records.jsonl as it was written") from error
    return replace(record, rows_per_step=tuple(record.rows_per_step)), about


def _check(told: dict[str, Any], about: dict[str, Any]) -> None:
    if told.get("outcome", "lost") not in get_args(RequestOutcome):
        raise ValueError(f"outcome {told['outcome']!r}")
    for name in _NUMBERS:
        if not isinstance(told.get(name), (int, float, type(None))) or isinstance(told.get(name), bool):
            raise ValueError(f"{name} is {told[name]!r}")
    for name in _COUNTS:
        if not isinstance(told.get(name, 0), int):
            raise ValueError(f"{name} is {told[name]!r}")
    if not isinstance(told["scheduled_s"], (int, float)) or not isinstance(about["seed"], int):
        raise ValueError("scheduled_s and seed must be numbers")
    if not all(isinstance(about[name], str) for name in ("strategy", "loop")):
        raise ValueError("strategy and loop must be text")
