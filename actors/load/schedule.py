"""From a load configuration to what every device does under one seed: the same assignments for every strategy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from actors.load import arrivals
from actors.load.arrivals import ArrivalProcess
from actors.load.config import LoadConfig
from actors.load.video import Cameras
from slicer.core.records.assignment import Assignment, Capture, Closed
from slicer.core.standalone.one_run import WARMUP_IMAGES


def assignments(
    config: LoadConfig,
    process: ArrivalProcess | None,
    devices: Sequence[str],
    files: Sequence[Path],
    seed: int,
    cameras: Cameras | None = None,
) -> dict[str, Assignment]:
    """An assignment per device, by name, for one seed. The labels stay with the job.

    Args:
        process: None in closed loop, and of videos.
        cameras: of videos, which have their own times.

    Raises:
        ConfigError: the load cannot be scheduled.
    """
    made = {} if process is None else _open(config, process, devices, len(files), seed)
    made = made if cameras is None else cameras.arrivals(devices, seed)
    closed = _closed(config, devices, len(files), seed) if config.loop == "closed" else {}
    paths = tuple(map(str, files))
    return {
        device: Assignment(
            run_id=f"seed{seed}",
            images=paths,
            labels=(None,) * len(files),
            arrivals=made.get(device, ()),
            closed=closed.get(device),
            max_age_ms=config.max_age_ms,
            deadline_ms=config.deadline_ms,
            top_k=config.top_k,
            # A video's decoder shall stand where the device's camera begins.
            warmup=tuple(
                index % len(files) if cameras is None or not made[device] else made[device][0].image
                for index in range(WARMUP_IMAGES)
            ),
            drain_s=config.drain_s,
            in_order=cameras is not None,
        )
        for device in devices
    }


def warmup_s(config: LoadConfig) -> float:
    """Where the measured window begins; a closed loop that ends by its number of requests has no such time."""
    return 0.0 if config.loop == "closed" and config.requests is not None else config.warmup_s


def window_s(config: LoadConfig, process: ArrivalProcess | None) -> float | None:
    """How long the measured arrival window is; None in closed loop by requests."""
    if config.duration_s is not None:
        return config.duration_s
    if process is None or config.requests is None:
        return None
    return config.requests / (process.rate_rps or arrivals.trace_rate_rps(process))


def asked(assignment: Assignment) -> set[int]:
    """The images that an assignment asks."""
    closed = assignment.closed
    return set(closed.images) if closed is not None else {arrival.image for arrival in assignment.arrivals}


def _open(
    config: LoadConfig, process: ArrivalProcess, devices: Sequence[str], images: int, seed: int
) -> dict[str, tuple[Capture, ...]]:
    return arrivals.schedule(
        process,
        devices,
        images=images,
        seed=seed,
        warmup_s=config.warmup_s,
        duration_s=config.duration_s,
        requests=config.requests,
    )


def _closed(config: LoadConfig, devices: Sequence[str], images: int, seed: int) -> dict[str, Closed]:
    """A loop for each device that has a client; the requests are shared out like the clients."""
    assert config.concurrency is not None, "a closed loop has clients"
    clients = arrivals.closed_loop_clients(config.concurrency, devices)
    requests = _share(config.requests, clients) if config.requests is not None else {}
    duration_s = None if config.duration_s is None else config.warmup_s + config.duration_s
    order = tuple(int(index) for index in np.random.default_rng(seed).permutation(images))
    return {
        device: Closed(
            images=order,
            clients=count,
            requests=requests.get(device),
            duration_s=duration_s,
            think_s=config.think_ms / 1000,
        )
        for device, count in clients.items()
        if count and requests.get(device, 1)
    }


def _share(requests: int, clients: dict[str, int]) -> dict[str, int]:
    """`requests` shared out in proportion to the clients; the first devices take what does not come out even."""
    total = sum(clients.values())
    shares = {device: requests * count // total for device, count in clients.items()}
    left = requests - sum(shares.values())
    for device in [device for device, count in clients.items() if count][:left]:
        shares[device] += 1
    return shares
