"""Videos as cameras: every device plays a file, and each frame is a request at its presentation timestamp.

Files are given to devices in turn. A file that ends before the run does begins again, its last frame shown for as long
as the file says. Cameras do not know of each other, so each begins up to one frame's time late, as the seed draws.
All that is asked is decoded once before anything starts: what is broken is known then.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from actors.load.arrivals import MAX_ARRIVALS
from actors.load.config import LoadConfig
from slicer.core.images.folders import LabelledImages
from slicer.core.records.assignment import Capture
from slicer.core.video import frames
from slicer.errors import ConfigError, ImageError

#: What to do with a file that is damaged.
_AGAIN = "ffmpeg -i FILE OUT.mp4 writes a file without damage"


@dataclass(frozen=True)
class Clip:
    """The frames of one file.

    Attributes:
        pts: timestamps in the stream's units; `at_s`: seconds after the first frame.
        period_s: the median time between frames.
        length_s: until it begins again; None: longer than was read.
        notes: what a person must know of it.
    """

    file: str
    pts: tuple[int, ...]
    at_s: tuple[float, ...]
    period_s: float
    length_s: float | None
    notes: tuple[str, ...] = ()


def read_clip(file: str, until_s: float | None) -> Clip:
    """Decode a file for so many seconds; None: to its end.

    Raises:
        ImageError: it is no video, PyAV is not installed, or there is nothing in it to play.
    """
    met, pts, at_s = frames.Decoded(), list[int](), list[float]()
    first_s, shown_s, whole = 0.0, 0.0, True
    for frame in frames.frames(file, met):
        first_s = first_s if pts else frame.time_s
        time_s = frame.time_s - first_s
        if until_s is not None and len(pts) > 1 and time_s >= until_s:
            whole = False
            break
        pts.append(frame.pts)
        at_s.append(time_s)
        shown_s = frame.duration_s
        if len(pts) > MAX_ARRIVALS:
            raise ConfigError(f"--video {file}: more than {MAX_ARRIVALS} frames in one run; give a --duration")
    if len(pts) < 2:
        broken = f", {met.broken} could not be decoded" if met.broken else ""
        raise ImageError(
            f"video {file}: it holds {len(pts)} frame{'s' * (len(pts) != 1)}{broken}; give one with at least two, "
            "or pictures by --images DIR"
        )
    period_s = median(later - earlier for earlier, later in pairwise(at_s))
    # The last frame's own time, where the file says it sensibly.
    last_s = shown_s if 0 < shown_s <= 100 * period_s else period_s
    length_s = at_s[-1] + last_s if whole else None
    notes = _notes(file, met)
    # Some say their length from the first frame, some from 0; sound may go on a little longer.
    end_s = at_s[-1] + last_s
    if whole and (met.ended_early or max(end_s, first_s + end_s) < met.stated_s - 0.5):
        why = met.ended_early or f"its header says {met.stated_s:.2f} s"
        notes.append(f"{file}: breaks off after {end_s:.2f} s ({why}); what is before is played ({_AGAIN})")
    return Clip(file, tuple(pts), tuple(at_s), period_s, length_s, tuple(notes))


def _notes(file: str, met: frames.Decoded) -> list[str]:
    notes = []
    if met.broken:
        notes.append(
            f"{file}: {met.broken} broken frame{'s' * (met.broken > 1)} left out, the first at "
            f"{met.broken_at_s or 0.0:.2f} s ({_AGAIN})"
        )
    if met.damaged:
        notes.append(
            f"{file}: {met.damaged} damaged frame{'s' * (met.damaged > 1)} asked as the decoder mends them ({_AGAIN})"
        )
    if met.turned:
        notes.append(f"{file}: turned upright, as its display matrix says")
    if met.skewed:
        notes.append(f"{file}: its display matrix is no quarter turn or mirror image, so the frames stay as stored")
    return notes


class Cameras:
    """The files of `--video`, played by a fleet.

    Args:
        config: its `video` holds at least one file.

    Attributes:
        images: every frame of every file, by name; without classes.
        duration_s: of the measured window; where none was asked for, what the longest file leaves after the warm-up.
        notes: what a person must know.

    Raises:
        ImageError, ConfigError: a file cannot be played, or is shorter than the warm-up and no duration was asked for.
    """

    def __init__(self, config: LoadConfig) -> None:
        until_s = None if config.duration_s is None else config.warmup_s + config.duration_s
        clips = {file: read_clip(file, until_s) for file in config.video}
        self._clips = [clips[file] for file in config.video]
        names = tuple(frames.name_of(clip.file, pts) for clip in clips.values() for pts in clip.pts)
        self.images = LabelledImages(names, (0,) * len(names), ("frame",))
        offset = 0
        self._offsets: dict[str, int] = {}
        for clip in clips.values():
            self._offsets[clip.file] = offset
            offset += len(clip.pts)
        longest_s = max(clip.length_s or 0.0 for clip in self._clips)
        self.duration_s = config.duration_s if config.duration_s is not None else longest_s - config.warmup_s
        if self.duration_s <= 0:
            raise ConfigError(
                f"--video {', '.join(config.video)}: {longest_s:.2f} s are not longer than the warm-up of "
                f"{config.warmup_s:g} s; give --warmup 0, or --duration S (the file is played again and again)"
            )
        self._until_s = config.warmup_s + self.duration_s
        self.notes = [note for clip in clips.values() for note in clip.notes]
        self.notes += [
            f"{clip.file}: {clip.length_s:.2f} s long, played again until the run's {self._until_s:.2f} s are over"
            for clip in clips.values()
            if clip.length_s is not None and clip.length_s < self._until_s - 1e-6
        ]

    def arrivals(self, devices: Sequence[str], seed: int) -> dict[str, tuple[Capture, ...]]:
        """Every device's frames until the end of the window, in order of time.

        Raises:
            ConfigError: they are too many, or there are more files than devices.
        """
        if len(self._clips) > len(devices):
            raise ConfigError(
                f"--video: {len(self._clips)} files for {len(devices)} devices, so {self._clips[len(devices)].file} "
                "would not be played; give fewer files, or a larger fleet"
            )
        made: dict[str, tuple[Capture, ...]] = {}
        total = 0
        for number, device in enumerate(devices):
            clip = self._clips[number % len(self._clips)]
            late_s = random.Random(f"video/{seed}/{device}").random() * clip.period_s
            made[device] = self._play(clip, late_s)
            total += len(made[device])
            if total > MAX_ARRIVALS:
                raise ConfigError(f"--video: more than {MAX_ARRIVALS} frames in one run; make shorter runs")
        return made

    def _play(self, clip: Clip, begin_s: float) -> tuple[Capture, ...]:
        captures, offset = list[Capture](), self._offsets[clip.file]
        while begin_s < self._until_s:
            for number, at_s in enumerate(clip.at_s):
                if begin_s + at_s >= self._until_s:
                    return tuple(captures)
                captures.append(Capture(begin_s + at_s, offset + number))
            if clip.length_s is None:
                break
            begin_s += clip.length_s
        return tuple(captures)
