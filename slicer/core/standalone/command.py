"""`headtail-device`: be one device of a server that runs, without Ray and torch."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..common.version import headtail_version
from ..errors import ConfigError, HeadTailError, ImageError
from ..images.folders import EXTENSIONS, LabelledImages, find_images
from ..records.assignment import Assignment, Capture
from ..records.record import Record
from ..video import frames
from . import one_run, summary
from .camera import Camera
from .device import AsyncDevice
from .settings import CACHE, Settings

#: How old a camera's frame may be when the device gets to it.
FRAME_AGE_MS = 200.0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        "headtail-device",
        description="Be one device of a HeadTail server: run the first slices of a model here, send the rest there.",
        epilog="Exit status: 0 every image answered; 2 wrong input, no server, or images without an answer; "
        "130 interrupted, after a summary.",
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


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; its exit status."""
    flags = parser().parse_args(argv)
    so_far, told = summary.SoFar(), list[Settings]()
    try:
        check(flags)
        sent = asyncio.run(_run(flags, so_far, told))
    except KeyboardInterrupt:
        if so_far.ended:
            _show(flags, told[0], summary.Sent(tuple(so_far.ended), so_far.emulated, so_far.labels), interrupted=True)
        return 130
    except HeadTailError as error:
        print(f"headtail-device: {error}", file=sys.stderr)
        return 2
    found = _show(flags, told[0], sent)
    return 0 if found["answered"] == found["requests"] else 2


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
    """Images in folders by class, or files in one folder, whose classes nobody knows; and whether they are known."""
    root = Path(directory)
    files = sorted(one for one in root.iterdir() if one.suffix.lower() in EXTENSIONS) if root.is_dir() else []
    if files:
        return LabelledImages(tuple(files), (0,) * len(files), ("image",)), False
    return find_images(root), True


async def _run(flags: argparse.Namespace, so_far: summary.SoFar, told: list[Settings]) -> summary.Sent:
    ended: list[Record] = []
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
        on_closed=ended.append,
    )
    try:
        assignment = None if flags.camera is not None else await asyncio.to_thread(_assignment, flags)
        core = await device.start()
        told.append(core.config)
        if assignment is None:
            return await _camera(flags, device, ended, so_far)
        return await one_run.drive(core, assignment, ended, every_second=_Seconds(core), so_far=so_far)
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
        labelled=labelled and all(name.isdecimal() for name in images.classes),
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


async def _camera(
    flags: argparse.Namespace, device: AsyncDevice, ended: list[Record], so_far: summary.SoFar
) -> summary.Sent:
    """The newest frame, again and again: while one is at work or on its way, the others are let go."""
    camera = await asyncio.to_thread(Camera, flags.camera)
    try:
        core = await device.start()
        served = core.cut.served
        so_far.ended = ended
        so_far.emulated, so_far.labels = (served.emulated, served.labels) if served is not None else ((), ())
        began_s, told_s, tell = core.clock.now_s(), core.clock.now_s(), _Seconds(core)
        while True:
            now_s = core.clock.now_s()
            if (flags.duration is not None and now_s - began_s >= flags.duration) or len(ended) == flags.requests:
                break
            picture = await asyncio.to_thread(camera.newest)
            await device.answer(picture, began_s)
            if core.clock.now_s() - told_s >= 1:
                told_s = core.clock.now_s()
                tell(ended)
        return summary.Sent(tuple(ended), so_far.emulated, so_far.labels)
    finally:
        await asyncio.to_thread(camera.close)


class _Seconds:
    """The live line: what ended since the last one, and what the last image was taken for."""

    def __init__(self, core: Any) -> None:
        self._core, self._seen = core, 0

    def __call__(self, ended: Sequence[Record]) -> None:
        line, new = summary.second_line(ended, self._seen), ended[self._seen :]
        self._seen = len(ended)
        choice, served = self._core.cut.choice, self._core.cut.served
        last = next((one.top1 for one in reversed(new) if one.top1 is not None), None)
        labels = served.labels if served is not None else ()
        seen = "" if last is None else f"; {labels[last] if last < len(labels) else f'class {last}'}"
        print(f"cut {choice.cut} {choice.codec}: {line}{seen}", file=sys.stderr, flush=True)


def _show(
    flags: argparse.Namespace, told: Settings, sent: summary.Sent, *, interrupted: bool = False
) -> dict[str, Any]:
    used = {name: _used(getattr(record, name) for record in sent.records) for name in ("cut", "codec")}
    found = summary.document(told, sent, interrupted=interrupted) | used
    if flags.out is not None:
        _write(Path(flags.out), sent.records)
    print(json.dumps(found) if flags.json else summary.summary(found), flush=True)
    return found


def _used(values: Iterable[Any]) -> str:
    return ", ".join(dict.fromkeys(map(str, values)))


def _write(directory: Path, records: Iterable[Record]) -> None:
    """records.jsonl, as a load job's report has it. Raises ConfigError: it cannot be written."""
    about = {"strategy": "", "seed": 0, "loop": "device", "warmup": False}
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with (directory / "records.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(json.dumps({**about, **record.to_json()}) + "\n" for record in records)
    except OSError as error:
        raise ConfigError(f"--out {directory}: records.jsonl cannot be written ({error.strerror})") from error
