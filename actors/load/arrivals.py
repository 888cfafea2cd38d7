"""When each device's camera takes which image: seeded schedules, made before anything runs.

Open loop: every arrival has an intended time, and nothing that the server does moves it. The same seed gives the same
times, images and devices, whatever strategy is measured, so that strategies are compared on identical arrivals.

The k-th image of every device is the same one (a shuffle of all images, begun again when it ends), so that every cut
sees the same images and accuracies at different cuts can be compared.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from slicer.core.records.assignment import Capture
from slicer.errors import ConfigError

#: Longest schedule of one run, all devices together: more does not fit a job's memory with its records.
MAX_ARRIVALS = 2_000_000


@dataclass(frozen=True)
class ArrivalProcess:
    """How arrivals are spread in time.

    Attributes:
        kind: "poisson", "periodic" or "trace".
        rate_rps: of the whole fleet; None (for a trace only): as recorded.
        trace: (time_s, device or None) per arrival, sorted by time; empty unless kind is "trace".
    """

    kind: str
    rate_rps: float | None
    trace: tuple[tuple[float, str | None], ...] = ()


def parse_process(text: str, rate_rps: float | None) -> ArrivalProcess:
    """`text` as on the command line: poisson, periodic or trace:FILE. `rate_rps` is the fleet's total.

    Raises:
        ConfigError: an unknown kind, a rate that is not a positive number, no rate for a kind that needs one, a bad
            trace file.
    """
    if rate_rps is not None and not (math.isfinite(rate_rps) and rate_rps > 0):
        raise ConfigError(f"rate {rate_rps:g}/s: give a positive number of images per second")
    if text in ("poisson", "periodic"):
        if rate_rps is None:
            raise ConfigError(f"{text} arrivals need a rate: give --rate (whole fleet) or --device-rate (one device)")
        return ArrivalProcess(text, rate_rps)
    if text.startswith("trace:"):
        return ArrivalProcess("trace", rate_rps, read_trace(Path(text.removeprefix("trace:"))))
    raise ConfigError(f"arrivals {text!r}: choose poisson, periodic or trace:FILE")


def read_trace(path: Path) -> tuple[tuple[float, str | None], ...]:
    """Read a trace: one `time_s` or `time_s,device` per line, `#` begins a comment; shifted to begin at 0, sorted.

    Raises:
        ConfigError: the file cannot be read, is empty, or a line is no number; the message names the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"trace {str(path)!r}: cannot be read ({error}); give a text file of times in s") from error
    arrivals: list[tuple[float, str | None]] = []
    for number, line in enumerate(lines, start=1):
        content = line.partition("#")[0].strip()
        if not content:
            continue
        time_text, _, device = content.partition(",")
        try:
            time_s = float(time_text)
        except ValueError:
            time_s = math.nan
        if not math.isfinite(time_s):
            raise ConfigError(f"trace {str(path)!r}, line {number}: {content!r} is not `time_s` or `time_s,device`")
        arrivals.append((time_s, device.strip() or None))
    if not arrivals:
        raise ConfigError(f"trace {str(path)!r}: holds no arrival; write one time in seconds per line")
    first_s = min(time_s for time_s, _ in arrivals)
    return tuple(sorted(((time_s - first_s, device) for time_s, device in arrivals), key=lambda arrival: arrival[0]))


def schedule(
    process: ArrivalProcess,
    devices: Sequence[str],
    *,
    images: int,
    seed: int,
    warmup_s: float = 0.0,
    duration_s: float | None = None,
    requests: int | None = None,
) -> dict[str, tuple[Capture, ...]]:
    """Arrivals of every device, sorted by time; those before `warmup_s` are there to warm up and are not counted.

    The measured window begins at `warmup_s`. It is `duration_s` long, or as long as `requests` arrivals take at the
    rate; these are then shared out evenly (the first devices take one more where that does not come out), and a Poisson
    process is conditioned on its count: the times are uniform. A trace is repeated until the window is full, and
    stretched when a rate is given.

    Raises:
        ConfigError: no devices or images, neither or both of duration and requests, too many arrivals, or a trace that
            names a device which is not in the fleet.
    """
    _check(devices, images, duration_s, requests)
    rate_rps = process.rate_rps or trace_rate_rps(process)
    window_s = duration_s if duration_s is not None else (requests or 0) / rate_rps
    if rate_rps * (warmup_s + window_s) > MAX_ARRIVALS:
        raise ConfigError(
            f"{rate_rps:g}/s for {warmup_s + window_s:g} s are more than {MAX_ARRIVALS} arrivals; make shorter runs"
        )
    rng = np.random.default_rng(seed)
    order = rng.permutation(images)
    if process.kind == "trace":
        times = _from_trace(process, devices, rng, rate_rps, warmup_s, window_s, requests)
    else:
        times = _from_rate(process, devices, rng, rate_rps, warmup_s, window_s, requests)
    return {device: _with_images(sorted(times[device]), order, warmup_s) for device in devices}


def closed_loop_clients(concurrency: int, devices: Sequence[str]) -> dict[str, int]:
    """Clients per device in closed loop: shared out evenly; with fewer clients than devices, spread over the fleet.

    Raises:
        ConfigError: `concurrency` below 1.
    """
    if concurrency < 1:
        raise ConfigError(f"concurrency {concurrency}: give at least 1 client")
    clients = dict.fromkeys(devices, concurrency // len(devices))
    left = concurrency % len(devices)
    for extra in range(left):
        # Evenly spaced through the list, which is ordered by group: few clients still touch several cuts.
        clients[devices[extra * len(devices) // left]] += 1
    return clients


def _check(devices: Sequence[str], images: int, duration_s: float | None, requests: int | None) -> None:
    if not devices:
        raise ConfigError("the fleet has no device; add a group to the fleet file")
    if images < 1:
        raise ConfigError("there are 0 images; give a folder with images by --images")
    if (duration_s is None) == (requests is None):
        raise ConfigError(f"duration {duration_s} and requests {requests}: give exactly one of the two")
    if duration_s is not None and not (math.isfinite(duration_s) and duration_s > 0):
        raise ConfigError(f"duration {duration_s:g} s: give a positive number of seconds")
    if requests is not None and requests < 1:
        raise ConfigError(f"requests {requests}: give at least 1")


def trace_rate_rps(process: ArrivalProcess) -> float:
    """Mean rate of the trace, in arrivals per second; the period is the span plus one mean gap."""
    span_s = process.trace[-1][0]
    if span_s <= 0:
        raise ConfigError("all arrivals of the trace have one time, so it has no rate; give --rate as well")
    return (len(process.trace) - 1) / span_s


def _from_rate(
    process: ArrivalProcess,
    devices: Sequence[str],
    rng: np.random.Generator,
    rate_rps: float,
    warmup_s: float,
    window_s: float,
    requests: int | None,
) -> dict[str, list[float]]:
    each_rps = rate_rps / len(devices)
    times: dict[str, list[float]] = {}
    for index, device in enumerate(devices):
        count = None if requests is None else requests // len(devices) + (index < requests % len(devices))
        if process.kind == "periodic":
            times[device] = _periodic(rng, each_rps, warmup_s, window_s, count)
        else:
            times[device] = _poisson(rng, each_rps, 0.0, warmup_s, None)
            times[device] += _poisson(rng, each_rps, warmup_s, window_s, count)
    return times


def _poisson(
    rng: np.random.Generator, rate_rps: float, start_s: float, window_s: float, count: int | None
) -> list[float]:
    """A Poisson process in [start, start + window): its count is Poisson (or given), its times are then uniform."""
    if count is None:
        count = int(rng.poisson(rate_rps * window_s))
    return [float(time_s) for time_s in start_s + window_s * rng.random(count)]


def _periodic(
    rng: np.random.Generator, rate_rps: float, warmup_s: float, window_s: float, count: int | None
) -> list[float]:
    """A camera's fixed period from a random phase on, since cameras do not know of each other."""
    period_s = 1 / rate_rps
    phase_s = float(rng.random()) * period_s
    if count is None:
        count = max(0, math.ceil((window_s - phase_s) / period_s - 1e-9))
    warm = int((warmup_s + phase_s) / period_s)
    return [time_s for k in range(-warm, count) if (time_s := warmup_s + phase_s + k * period_s) >= 0]


def _from_trace(
    process: ArrivalProcess,
    devices: Sequence[str],
    rng: np.random.Generator,
    rate_rps: float,
    warmup_s: float,
    window_s: float,
    requests: int | None,
) -> dict[str, list[float]]:
    unknown = sorted({device for _, device in process.trace if device is not None} - set(devices))
    if unknown:
        raise ConfigError(f"the trace names {unknown[0]!r}, which is not in the fleet: {', '.join(devices)}")
    one_instant = process.trace[-1][0] <= 0
    scale = 1.0 if process.rate_rps is None or one_instant else trace_rate_rps(process) / rate_rps
    period_s = len(process.trace) / rate_rps
    times: dict[str, list[float]] = {device: [] for device in devices}
    taken, offset_s = 0, 0.0
    while True:
        for trace_s, device in process.trace:
            time_s = offset_s + trace_s * scale
            measured = time_s >= warmup_s
            if (requests is None and time_s >= warmup_s + window_s) or (measured and taken == requests):
                return times
            taken += measured
            times[device if device is not None else devices[int(rng.integers(len(devices)))]].append(time_s)
        offset_s += period_s


def _with_images(times: Sequence[float], order: npt.NDArray[np.int64], warmup_s: float) -> tuple[Capture, ...]:
    """The k-th measured arrival takes image order[k]; warm-up counts backwards, so that it takes nothing from it."""
    warm = sum(time_s < warmup_s for time_s in times)
    return tuple(Capture(time_s, int(order[(k - warm) % len(order)])) for k, time_s in enumerate(times))
