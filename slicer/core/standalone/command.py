"""`headtail-device`: be one device of a server that runs, without Ray and torch."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from ..common.version import headtail_version
from ..errors import ConfigError, HeadTailError, ImageError
from ..images.folders import EXTENSIONS, LabelledImages, find_images
from ..records.assignment import Assignment, Capture
from ..records.record import Record
from ..video import frames
from . import one_run, summary
from .camera import Camera
from .device import AsyncDevice
from .records_file import RecordsFile
from .settings import CACHE, Settings

#: How old a camera's frame may be when the device gets to it.
FRAME_AGE_MS = 200.0

#: A camera runs for days: so many images at the least, its last ones, are what line and summary are made of.
KEPT = 10_000


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; {self.prog} --help lists what there is\n")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = _Parser(
        "headtail-device",
        allow_abbrev=False,
        description="Be one device of a HeadTail server: run the first slices of a model here, send the rest there.",
        epilog="Exit status: 0 every image answered; 2 wrong input, no server, or images without an answer; "
        "130 interrupted, after a summary. A run that breaks off ends with one, too.",
    )
    made.add_argument("--url", required=True, help="of the application: http://host:port/application")
    made.add_argument("--token", help="what the server asks for; default: HEADTAIL_TOKEN, which ps does not show")
    made.add_argument("--model", help="default: the server's only one")
    made.add_argument("--cut", type=int, metavar="K", help="slices that run here; default: planned")
    made.add_argument("--codec", metavar="C", help="of what is sent: fp32, fp16, int8, ...; at cut 0 jpeg")
    made.add_argument("--alone", action="store_true", help="hold the whole model, and go on while the server is away")
    made.add_argument("--int8", action="store_true", help="heads with weights of 8 bits: smaller, not exact")
    made.add_argument("--threads", type=int, default=1, metavar="N", help="of the head (default 1)")
    made.add_argument(
        "--provider", action="append", default=[], metavar="P", help="onnxruntime's execution provider; may be repeated"
    )
    made.add_argument("--deadline-ms", type=float, metavar="MS", help="how long an answer is worth something")
    made.add_argument("--memory-mb", type=float, metavar="MB", help="what weights and activations may take")
    made.add_argument("--cache", default=CACHE, metavar="DIR", help=f"of heads (default {CACHE})")
    made.add_argument("--name", help="in records; default: this host's name")
    source = made.add_mutually_exclusive_group(required=True)
    source.add_argument("--images", metavar="DIR", help="DIR/class/file, or files in DIR")
    source.add_argument("--camera", metavar="N", help="such as 0: its newest frame, again and again (extra [video])")
    source.add_argument("--video", metavar="FILE", help="its frames, at their timestamps (extra [video])")
    made.add_argument("--rate", type=float, metavar="R", help="images per second, with --images")
    made.add_argument("--duration", type=float, metavar="S", help="stop after S seconds")
    made.add_argument("--requests", type=int, metavar="N", help="stop after N images")
    made.add_argument("--top-k", type=int, default=5, metavar="K", help="classes in an answer (default 5)")
    made.add_argument("--out", metavar="DIR", help="write records.jsonl there: one line per image")
    made.add_argument("--json", action="store_true", help="end with one JSON document instead of the summary")
    made.add_argument("--version", action="version", version=headtail_version())
    return made


@dataclass
class _Run:
    """What a run has come to, for whoever ends it.

    Attributes:
        told: what the device was told; None: it never began.
        earlier: outcomes of a camera's images that are not kept any more.
    """

    told: Settings | None = None
    so_far: summary.SoFar = field(default_factory=summary.SoFar)
    earlier: Counter[str] = field(default_factory=Counter)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; its exit status."""
    flags = parser().parse_args(argv)
    run = _Run()
    try:
        check(flags)
        records = None if flags.out is None else RecordsFile(flags.out)
        try:
            sent = asyncio.run(_run(flags, run, records))
        except (KeyboardInterrupt, HeadTailError):
            so_far = run.so_far
            if so_far.ended:
                _show(flags, run, summary.Sent(tuple(so_far.ended), so_far.emulated, so_far.labels), interrupted=True)
            raise
        else:
            found = _show(flags, run, sent)
        finally:
            if records is not None:
                records.close()
    except KeyboardInterrupt:
        return 130
    except HeadTailError as error:
        print(f"headtail-device: {error}", file=sys.stderr)
        return 2
    return 0 if found["answered"] == found["requests"] and run.earlier.keys() <= {"answered"} else 2


def check(flags: argparse.Namespace) -> None:
    """Refuse what contradicts itself or would do nothing. Raises ConfigError."""
    if flags.rate is not None and flags.images is None:
        raise ConfigError("--rate is for --images; a camera and a video have a rate of their own")
    for name in ("rate", "duration", "requests", "top_k", "threads", "deadline_ms", "memory_mb"):
        value = getattr(flags, name)
        if value is not None and not 0 < value < float("inf"):
            raise ConfigError(f"--{name.replace('_', '-')} {value:g}: give a positive number")
    if flags.images is not None and flags.duration is not None and flags.requests is not None:
        raise ConfigError("--duration and --requests both say when to stop; give one")


def images_in(directory: str) -> tuple[LabelledImages, bool]:
    """Images in folders by class, or files in one folder, and whether the classes are the model's: folders that are
    named by its numbers. Raises ImageError: there are none."""
    root = Path(directory)
    if not root.is_dir():
        raise ImageError(f"images {root}: there is no such directory")
    entries = sorted(one for one in root.iterdir() if not one.name.startswith("."))
    if files := tuple(one for one in entries if one.suffix.lower() in EXTENSIONS and one.is_file()):
        return LabelledImages(files, (0,) * len(files), ("image",)), False
    if not any(one.is_dir() for one in entries):
        raise ImageError(
            f"images {root}: no image found; it must hold DIR/class/file, or files ({', '.join(EXTENSIONS)})"
        )
    found = find_images(root)
    if not all(name.isdecimal() for name in found.classes):
        return found, False
    return dataclasses.replace(found, labels=tuple(int(found.classes[label]) for label in found.labels)), True


async def _run(flags: argparse.Namespace, run: _Run, records: RecordsFile | None) -> summary.Sent:
    ended: list[Record] = []

    def closed(record: Record) -> None:
        ended.append(record)
        if records is not None:
            records.write(record)

    device = AsyncDevice(
        flags.url,
        flags.token,
        model=flags.model,
        cut=flags.cut,
        codec=flags.codec,
        alone=flags.alone,
        top_k=flags.top_k,
        deadline_ms=flags.deadline_ms,
        int8=flags.int8,
        threads=flags.threads,
        providers=flags.provider,
        memory_bytes=None if flags.memory_mb is None else int(flags.memory_mb * 1e6),
        cache=flags.cache,
        name=flags.name,
        on_closed=closed,
    )
    try:
        assignment = None if flags.camera is not None else await asyncio.to_thread(_assignment, flags)
        core = await device.start()
        run.told = core.config
        if assignment is None:
            return await _camera(flags, device, ended, run)
        tell = _Seconds(core, run.earlier)
        return await one_run.drive(core, assignment, ended, every_second=tell, so_far=run.so_far)
    finally:
        await device.close()


def _assignment(flags: argparse.Namespace) -> Assignment:
    """What is asked. Raises HeadTailError."""
    if flags.video is not None:
        return _of_video(flags)
    images, labelled = images_in(flags.images)
    made = one_run.assignment_of(
        images,
        rate_rps=flags.rate,
        duration_s=flags.duration,
        requests=flags.requests,
        top_k=flags.top_k,
        labelled=labelled,
    )
    return _with_deadline(made, flags)


def _of_video(flags: argparse.Namespace) -> Assignment:
    pts, captures = list[int](), list[Capture]()
    first_s = None
    for frame in frames.frames(flags.video):
        first_s = frame.time_s if first_s is None else first_s
        at_s = frame.time_s - first_s
        if (flags.duration is not None and at_s >= flags.duration) or len(pts) == flags.requests:
            break
        captures.append(Capture(at_s, len(pts)))
        pts.append(frame.pts)
    if not pts:
        raise ImageError(f"video {flags.video}: it holds no frame; give another file")
    names = tuple(str(frames.name_of(flags.video, one)) for one in pts)
    made = Assignment(
        "device",
        names,
        (None,) * len(names),
        tuple(captures),
        max_age_ms=FRAME_AGE_MS,
        top_k=flags.top_k,
        warmup=(0,) * one_run.WARMUP_IMAGES,
        in_order=True,
    )
    return _with_deadline(made, flags)


def _with_deadline(made: Assignment, flags: argparse.Namespace) -> Assignment:
    return dataclasses.replace(made, deadline_ms=flags.deadline_ms)


async def _camera(flags: argparse.Namespace, device: AsyncDevice, ended: list[Record], run: _Run) -> summary.Sent:
    """The newest frame, again and again: while one is at work or on its way, the others are let go."""
    camera = await asyncio.to_thread(Camera, flags.camera)
    try:
        core, so_far = await device.start(), run.so_far
        served = core.cut.served
        so_far.ended = ended
        so_far.emulated, so_far.labels = (served.emulated, served.labels) if served is not None else ((), ())
        began_s, told_s, tell = core.clock.now_s(), core.clock.now_s(), _Seconds(core, run.earlier)
        while True:
            now_s = core.clock.now_s()
            asked = len(ended) + run.earlier.total()
            if flags.requests is not None and asked >= flags.requests:
                break
            if flags.duration is not None and now_s - began_s >= flags.duration:
                break
            picture = await asyncio.to_thread(camera.newest)
            await device.answer(picture, began_s)
            if core.clock.now_s() - told_s >= 1:
                told_s = core.clock.now_s()
                tell(ended)
                if len(ended) >= 2 * KEPT:
                    run.earlier.update(record.outcome for record in ended[:-KEPT])
                    del ended[:-KEPT]
                    tell.seen = len(ended)
        return summary.Sent(tuple(ended), so_far.emulated, so_far.labels)
    finally:
        await asyncio.to_thread(camera.close)


class _Seconds:
    """The live line: what ended since the last one, and what the last image was taken for.

    Attributes:
        seen: so many records were there at the last line.
    """

    def __init__(self, core: Any, earlier: Counter[str]) -> None:
        self._core, self._earlier, self.seen = core, earlier, 0

    def __call__(self, ended: Sequence[Record]) -> None:
        line, new = summary.second_line(ended, self.seen, self._earlier), ended[self.seen :]
        self.seen = len(ended)
        choice, served = self._core.cut.choice, self._core.cut.served
        last = next((one.top1 for one in reversed(new) if one.top1 is not None), None)
        labels = served.labels if served is not None else ()
        seen = "" if last is None else f"; {labels[last] if last < len(labels) else f'class {last}'}"
        print(f"cut {choice.cut} {choice.codec}: {line}{seen}", file=sys.stderr, flush=True)


def _show(flags: argparse.Namespace, run: _Run, sent: summary.Sent, *, interrupted: bool = False) -> dict[str, Any]:
    assert run.told is not None, "records come from a device that began"
    used = {name: _used(getattr(record, name) for record in sent.records) for name in ("cut", "codec")}
    found = summary.document(run.told, sent, interrupted=interrupted) | used | {"earlier": dict(run.earlier)}
    text = json.dumps(found) if flags.json else summary.summary(found)
    if run.earlier and not flags.json:
        before = ", ".join(f"{count} {outcome}" for outcome, count in run.earlier.items())
        text += f"\nof the last {len(sent.records)} images; before them: {before}"
    print(text, flush=True)
    return found


def _used(values: Iterable[Any]) -> str:
    return ", ".join(dict.fromkeys(map(str, values)))
