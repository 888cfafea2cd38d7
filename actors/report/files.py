"""The folder of a report: reserved before anything is measured, written piece by piece once all is.

Raw records come first. A piece that cannot be written costs that piece, never the figures: they are printed as well.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from actors.report.html_report import html_report
from actors.report.page import picture, png, svg_file
from actors.report.plots import draw
from actors.report.plots.draw import NAMES
from actors.report.report_tables import group_table, remarks, tables
from actors.report.result import Result, document
from actors.report.statistics import StrategyRun
from actors.report.verdict import verdict
from slicer.errors import ConfigError

#: What a report is made of. Nothing else in its folder is ever touched.
PICTURES = tuple(f"{name}.{ending}" for name in NAMES for ending in ("png", "svg"))
FILES = ("records.jsonl", "steps.jsonl", "result.json", "report.md", "report.html", *PICTURES)

#: On disk, of one record; and of everything else together, for what is set aside at the start.
RECORD_BYTES, REST_BYTES = 1000, 4_000_000

#: Holds the folder while its job runs: locked, and as large as what the report will need.
_HELD = ".headtail-load"


@contextlib.contextmanager
def reserved(
    directory: Path | None, requests: int, *, overwrite: bool, say: Callable[[str], None] = lambda line: None
) -> Iterator[None]:
    """Make the folder and hold it, with the space that a report of so many requests takes, while the job measures.

    An earlier report stays as it is until the new one is written. If the job fails, what was made here is gone again.

    Raises:
        ConfigError: it cannot be made or written, lacks the space, another job holds it, or it is not empty. The
            report of an earlier job may be replaced with `overwrite`, other files never.
    """
    if directory is None:
        yield
        return
    made = _make(directory)
    try:
        _look_into(directory, overwrite, say)
        with _held(directory, requests * RECORD_BYTES + REST_BYTES):
            yield
    except BaseException:
        for folder in made:
            with contextlib.suppress(OSError):  # not empty: somebody else's by now
                folder.rmdir()
        raise


def _make(directory: Path) -> list[Path]:
    """The folders that had to be made, the deepest first."""
    made = []
    try:
        for folder in (directory, *directory.parents):
            if folder.exists():
                break
            made.append(folder)
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"--out {directory}: no folder can be made there ({error.strerror}); give one that can be written"
        ) from None
    return made


def _look_into(directory: Path, overwrite: bool, say: Callable[[str], None]) -> None:
    try:
        there = sorted(path.name for path in directory.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise ConfigError(f"--out {directory}: cannot be read ({error.strerror}); give another folder") from None
    if not there:
        return
    if not is_report(directory, there):
        raise ConfigError(
            f"--out {directory}: holds other files ({', '.join(there[:3])}{', ...' if len(there) > 3 else ''}); give a "
            "new or an empty folder"
        )
    if not overwrite:
        raise ConfigError(
            f"--out {directory}: holds the report of an earlier job; give another folder, or --overwrite to replace it"
        )
    say(f"the earlier report in {directory} will be replaced")


def is_report(directory: Path, names: Sequence[str]) -> bool:
    """Whether a job of ours wrote there: its document is there, or only files of a report, some lost to a full disk."""
    if set(names) <= set(FILES) and {"records.jsonl", "result.json"} & set(names):
        return True
    try:
        found = json.loads((directory / "result.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(found, dict) and {"load", "strategies", "manifest"} <= found.keys()


@contextlib.contextmanager
def _held(directory: Path, size: int) -> Iterator[None]:
    path = directory / _HELD
    try:
        holder = path.open("wb")
    except OSError as error:
        raise ConfigError(f"--out {directory}: cannot be written ({error.strerror}); give another folder") from None
    with holder:
        try:
            fcntl.flock(holder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"--out {directory}: another job is writing there; give a folder of its own") from None
        except OSError:
            pass  # a file system without locks
        try:
            try:
                os.posix_fallocate(holder.fileno(), 0, size)
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                    raise ConfigError(
                        f"--out {directory}: no room for a report of about {size / 1e6:.0f} MB ({error.strerror}); "
                        "free some, give another folder, or ask for fewer requests"
                    ) from None
                # a file system that cannot set space aside
            yield
        finally:
            with contextlib.suppress(OSError):
                path.unlink()


def write(result: Result, directory: Path) -> list[str]:
    """All FILES into `directory`, which is made, each at once when it is whole. None of an earlier report stays beside
    the new records.

    Returns:
        What could not be written, and why, a line each; empty when all was.
    """
    problems: list[str] = []
    written: set[str] = set()

    def put(name: str, parts: Callable[[], Iterable[bytes]]) -> None:
        path, part = directory / name, directory / f".{name}.part"
        try:
            with part.open("wb") as file:
                file.writelines(parts())
            part.replace(path)
        except OSError as error:
            problems.append(f"{path} cannot be written ({error.strerror})")
            with contextlib.suppress(OSError):
                part.unlink()
        else:
            written.add(name)

    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return [f"{directory} cannot be made ({error.strerror})"]
    found = document(result)
    put("records.jsonl", lambda: (_bytes(line) for line in record_lines(result.runs)))
    put("steps.jsonl", lambda: (_bytes(line) for line in step_lines(result.runs)))
    put("result.json", lambda: [_bytes(json.dumps(found, indent=1) + "\n")])
    images: dict[str, bytes] = {}
    figures: dict[str, str] = {}
    try:
        for one in draw.draw(result):
            images[f"{one.name}.png"], images[f"{one.name}.svg"] = png(one.figure), svg_file(one.figure)
            figures[one.name] = picture(one.figure, one.caption, drawn=images[f"{one.name}.svg"])
    except Exception as error:  # whatever a plotting library meets: a missing font, no memory
        problems.append(f"the plots cannot be drawn ({type(error).__name__}: {error})")
    for name, image in images.items():
        put(name, lambda image=image: [image])  # type: ignore[misc]
    manifest = json.dumps(found["manifest"], indent=1)
    beside = [name for name in FILES if name in written]
    put("report.md", lambda: [_bytes(_markdown(result, manifest, [f"{name}.png" for name in figures]))])
    put("report.html", lambda: [_bytes(html_report(result, manifest, figures, [*beside, "report.md"]))])
    if "records.jsonl" in written:
        for name in set(FILES) - written:
            with contextlib.suppress(OSError):
                (directory / name).unlink(missing_ok=True)
    return problems


def record_lines(runs: Iterable[StrategyRun]) -> Iterator[str]:
    """One JSON object per line: the record, its strategy, seed, loop, and whether it belongs to the warm-up."""
    for run in runs:
        for record in run.records:
            about = {"strategy": run.strategy, "seed": run.seed, "loop": run.loop}
            about["warmup"] = record.scheduled_s < run.warmup_s
            yield json.dumps({**about, **record.to_json()}) + "\n"


def step_lines(runs: Iterable[StrategyRun]) -> Iterator[str]:
    """One JSON object per line: a step of the accelerator, its strategy and seed."""
    for run in runs:
        for step in run.steps:
            yield json.dumps({"strategy": run.strategy, "seed": run.seed, **step.to_json()}) + "\n"


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", errors="backslashreplace")  # a path need not be UTF-8


def _markdown(result: Result, manifest: str, images: Iterable[str]) -> str:
    said = verdict(result)
    lines = ["# HeadTail load report", "", f"**{said.headline}.** {' '.join(said.lines)} {said.trust}", ""]
    lines += [result.load, ""]
    lines += [line for note in remarks(result) for line in (f"> {note}", "")]
    lines += [line for table in (*tables(result), group_table(result)) for line in (table.markdown(), "")]
    lines += [line for name in images for line in (f"![{name}]({name})", "")]
    return "\n".join([*lines, "## Manifest", "", "```json", manifest, "```", ""])
