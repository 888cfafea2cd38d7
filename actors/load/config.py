"""What one load job is asked to do: typed, frozen, checked on construction."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from slicer.core.codecs.registry import CODECS
from slicer.core.codecs.transform.names import NAMES as TRANSFORMS
from slicer.core.common.addresses import application_name
from slicer.errors import ConfigError

#: `--images` that means the held-out digits shipped with the package.
DIGITS = "digits"

#: What `images` and `arrivals` say where both come from `--video`.
VIDEO = "video"

#: A camera's frame that is older when its turn comes is dropped, where neither --max-age-ms nor --deadline-ms says so.
FRAME_AGE_MS = 1000.0


@dataclass(frozen=True)
class LoadConfig:
    """One load job. Exactly one of `rate_rps`, `device_rate_rps` and `concurrency` is given, except for a trace and
    for videos.

    Attributes:
        strategies: in the order of the tables; empty with `server`: whatever it serves.
        fleet: a fleet file, or the name of a shipped one.
        model: replaces the fleet's model; None: the fleet's own.
        server: name of a running application; None: the job starts its own and takes them down.
        rate_rps: open loop, images per second of the whole fleet; `device_rate_rps`: of each device.
        concurrency: closed loop, clients of the whole fleet; `think_ms`: their pause after an answer.
        arrivals: open loop: poisson, periodic or trace:FILE; ``video`` with `video`.
        video: files that the devices play, one each in turn; empty: none. `images` is ``video`` then, and without
            `duration_s` the longest file is played once, its beginning as warm-up.
        duration_s: length of the measured window; or `requests`: how many, of the whole fleet.
        warmup_s: load before the window, not counted; `drain_s`: how long open requests are waited for after it.
        seeds: one run of every strategy for each.
        images: a directory of class/file, or ``digits``; `labels`: CSV of file,label instead of class directories.
        max_age_ms: devices drop images older than this; None: never.
        deadline_ms: how long after the capture an answer is worth something; None: for ever.
        slices, accelerator, max_batch: of the application that the job starts.
        accelerator_profile: its accelerator is emulated, with the times of this cost profile; None: it is a real one.
        resident: "one" application at a time, each in a fresh process (memory and accelerator are its own); "all" of
            them loaded from the start, idle except for the one that is measured (saves starts).
        top_k: classes in an answer; codec: replaces the fleet's codecs; outputs: its outputs.
        out: directory of the report; None: none is written. `overwrite`: an earlier report there is replaced.
        address: Ray cluster to join; None: a running one, else one is started here; "local": always start one.

    Raises:
        ConfigError: on construction, when a value is out of range or values contradict each other.
    """

    strategies: tuple[str, ...] = ()
    fleet: str = "demo"
    model: str | None = None
    server: str | None = None
    rate_rps: float | None = None
    device_rate_rps: float | None = None
    concurrency: int | None = None
    think_ms: float = 0.0
    arrivals: str = "poisson"
    duration_s: float | None = None
    requests: int | None = None
    warmup_s: float = 2.0
    drain_s: float = 30.0
    seeds: tuple[int, ...] = (0,)
    images: str = DIGITS
    video: tuple[str, ...] = ()
    labels: str | None = None
    max_age_ms: float | None = None
    deadline_ms: float | None = None
    slices: int = 4
    accelerator: Literal["auto", "cuda", "cpu"] = "auto"
    accelerator_profile: str | None = None
    max_batch: int = 32
    resident: Literal["one", "all"] = "one"
    top_k: int = 5
    codec: str | None = None
    outputs: tuple[str, ...] | None = None
    out: Path | None = None
    overwrite: bool = False
    address: str | None = None

    def __post_init__(self) -> None:
        if self.server is not None:
            application_name(self.server)
        self._check_load()
        self._check_numbers()
        if self.overwrite and self.out is None:
            raise ConfigError("--overwrite replaces the report in --out DIR; give --out, too")
        if not self.server and not self.strategies:
            raise ConfigError("no strategy; give --strategy, such as per_slice, a list, or all")
        doubled = sorted({name for name in self.strategies if self.strategies.count(name) > 1})
        if doubled:
            raise ConfigError(f"strategy {doubled[0]!r} is given twice; name each once")
        if self.server and len(self.strategies) > 1:
            raise ConfigError(
                f"--server {self.server} serves one strategy, but {', '.join(self.strategies)} are asked for; name "
                "that one, or leave out --server so that the job starts an application for each"
            )
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ConfigError(f"seeds {self.seeds}: give a count, or different whole numbers from 0 on, such as 3,7")
        if self.codec is not None and self.codec not in (known := (*CODECS, *TRANSFORMS)):
            raise ConfigError(f"unknown codec {self.codec!r}; this build has {', '.join(known)}")
        if self.labels is not None and self.images == DIGITS:
            raise ConfigError(
                f"--labels {self.labels} goes with --images DIR; the shipped digits have their own labels"
            )

    def _check_load(self) -> None:
        given = {
            "--rate": self.rate_rps,
            "--device-rate": self.device_rate_rps,
            "--concurrency": self.concurrency,
        }
        named = [name for name, value in given.items() if value is not None]
        if self.video:
            self._check_video([f"{name} {given[name]:g}" for name in named])
            return
        if len(named) > 1:
            raise ConfigError(
                f"{' and '.join(named)} are given; open loop (--rate or --device-rate) and closed loop (--concurrency) "
                "are never mixed: give one"
            )
        if not named and not self.arrivals.startswith("trace:"):
            raise ConfigError("no load; give --rate or --device-rate (open loop), or --concurrency (closed loop)")
        if self.concurrency is not None and self.arrivals != "poisson":
            raise ConfigError(
                f"--arrivals {self.arrivals} is for an open loop; a closed loop has no arrivals of its own"
            )
        if self.think_ms and self.concurrency is None:
            raise ConfigError(f"--think-ms {self.think_ms:g} is for a closed loop; give --concurrency")
        if self.max_age_ms is not None and self.concurrency is not None:
            raise ConfigError(f"--max-age-ms {self.max_age_ms:g} is for an open loop; a closed loop has no old images")
        if (self.duration_s is None) == (self.requests is None):
            raise ConfigError("give one of --duration (seconds) and --requests (images of the whole fleet)")

    def _check_video(self, named: list[str]) -> None:
        others = {"--images": self.images, "--arrivals": self.arrivals, "--labels": self.labels or VIDEO}
        named = [*named, *(f"{name} {given}" for name, given in others.items() if given != VIDEO)]
        if self.requests is not None:
            named.append(f"--requests {self.requests}")
        if named:
            raise ConfigError(
                f"{' and '.join(named)} beside --video {self.video[0]}: frames are the images, and come at their own "
                f"timestamps; leave out {' and '.join(named)} (--duration says how long)"
            )

    def _check_numbers(self) -> None:
        positive = {
            "--rate": self.rate_rps,
            "--device-rate": self.device_rate_rps,
            "--duration": self.duration_s,
            "--max-age-ms": self.max_age_ms,
            "--deadline-ms": self.deadline_ms,
            "--drain": self.drain_s,
        }
        for name, value in positive.items():
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ConfigError(f"{name} {value:g}: give a positive number")
        for name, value in {"--warmup": self.warmup_s, "--think-ms": self.think_ms}.items():
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"{name} {value:g}: give a number from 0 on")
        counts = {
            "--concurrency": self.concurrency,
            "--requests": self.requests,
            "--slices": self.slices,
            "--top-k": self.top_k,
            "--max-batch": self.max_batch,
        }
        for name, count in counts.items():
            if count is not None and count < 1:
                raise ConfigError(f"{name} {count}: give a whole number from 1 on")

    @property
    def loop(self) -> str:
        """ "open" or "closed"."""
        return "open" if self.concurrency is None else "closed"

    def fleet_rate_rps(self, devices: int) -> float | None:
        """The fleet's total rate; None in closed loop, and for a trace at its own rate."""
        return self.device_rate_rps * devices if self.device_rate_rps is not None else self.rate_rps

    def describe(self, devices: int) -> str:
        """The load in one line; begins with the kind of loop."""
        length = f"{round(self.duration_s, 2):g} s" if self.duration_s is not None else f"{self.requests} images"
        seeds = f"{len(self.seeds)} seed{'s' if len(self.seeds) > 1 else ''}"
        if self.concurrency is not None:
            what = f"closed loop: {self.concurrency} clients on {devices} devices, think time {self.think_ms:g} ms"
        elif self.video:
            what = f"open loop: frames of {', '.join(self.video)} at their timestamps, from {devices} devices"
        else:
            rate = self.fleet_rate_rps(devices)
            speed = "at its own rate" if rate is None else f"{rate:g} images/s"
            what = f"open loop: {self.arrivals} arrivals, {speed} from {devices} devices"
        return f"{what}; {length} per run after {self.warmup_s:g} s of warm-up, {seeds}"

    def to_json(self) -> dict[str, Any]:
        """The configuration as plain values, for the manifest."""
        return {**asdict(self), "out": None if self.out is None else str(self.out)}
