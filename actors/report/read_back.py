"""records.jsonl back to runs, whoever wrote it: a load job, or devices that ran on their own."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, fields
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

#: How a value of a key is written, by the annotation of the record's field. True and false are no numbers.
_WRITTEN: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "bool": (bool,),
    "int": (int,),
    "float": (int, float),
    "int | None": (int, type(None)),
    "float | None": (int, float, type(None)),
    "tuple[int, ...]": (list,),
    "RequestOutcome": (str,),
}
_ABOUT_WRITTEN: dict[str, tuple[type, ...]] = {"strategy": (str,), "seed": (int,), "loop": (str,), "warmup": (bool,)}


def read_back(paths: Sequence[Path]) -> Result:
    """What the records of one or more files say; each file's runs are runs of their own.

    What was emulated, a job's result.json beside its records says. What nobody knows is left out: the server's own
    figures, its steps, and how long a run was to be, so that a rate is up to the last answer.

    Raises:
        ConfigError: a file cannot be read, holds no records, or a line is none.
    """
    runs: list[StrategyRun] = []
    for path in paths:
        runs += _runs(path, len(runs))
    emulated = [_emulated(path) for path in paths]
    unknown = [path.name for path, parts in zip(paths, emulated, strict=True) if parts is None]
    strategies = list(dict.fromkeys(run.strategy for run in runs))
    loops = " and ".join(dict.fromkeys("of devices on their own" if r.loop == "device" else r.loop for r in runs))
    named = ", ".join(dict.fromkeys(path.name for path in paths))
    devices = len({(number, record.device) for number, run in enumerate(runs) for record in run.records})
    load = f"read back: {len(paths)} {'file' if len(paths) == 1 else 'files'} ({named}), {len(runs)} runs ({loops}), "
    return Result(
        load + f"{devices} devices",
        tuple(runs),
        tuple(dict.fromkeys(part for parts in emulated for part in parts or ())),
        {"configuration": {"strategies": strategies}, "read_back": [path.name for path in paths]},
        strategies[0],
        tuple(f"{path}: no result.json is beside it, so what was emulated is not known" for path in unknown),
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
            # A device's warm-up may be written with the time at which its run begins, and would count.
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
        about = {key: told.pop(key) for key in _ABOUT_WRITTEN}
        if unknown := told.keys() - _KEYS.keys():
            raise ValueError(f"unknown keys: {', '.join(sorted(unknown))[:100]}")
        if missing := _NEEDED - told.keys():
            raise ValueError(f"missing keys: {', '.join(sorted(missing))}")
        _check(told, about)
        record = Record(**{**told, "rows_per_step": tuple(told.get("rows_per_step", ()))})
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{where} is no record ({error}); give a records.jsonl as it was written") from error
    return record, about


def _check(told: dict[str, Any], about: dict[str, Any]) -> None:
    kinds = {name: _WRITTEN[str(_KEYS[name].type)] for name in told} | _ABOUT_WRITTEN
    for name, value in {**told, **about}.items():
        if not isinstance(value, kinds[name]) or (isinstance(value, bool) and bool not in kinds[name]):
            raise ValueError(f"{name} is {value!r}"[:100])
    if told.get("outcome", "lost") not in get_args(RequestOutcome):
        raise ValueError(f"outcome {told['outcome']!r}"[:100])
    if not all(type(rows) is int for rows in told.get("rows_per_step", ())):
        raise ValueError(f"rows_per_step is {told['rows_per_step']!r}"[:100])


def _emulated(path: Path) -> tuple[str, ...] | None:
    """What the job's result.json beside the records names as emulated; None: there is none that says it."""
    try:
        found = json.loads(path.with_name("result.json").read_bytes())["emulated"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return tuple(str(part) for part in found) if isinstance(found, list) else None
