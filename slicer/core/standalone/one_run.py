"""One device drives a server by itself: what it asks, and how the run goes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any

from ..device.device import Device
from ..device.device_run import DeviceRun
from ..images.folders import LabelledImages
from ..records.assignment import Assignment, Capture, Closed
from ..records.record import Record
from .summary import Sent, SoFar

#: Images of a warm-up, which no statistics hold.
WARMUP_IMAGES = 2


def assignment_of(
    images: LabelledImages,
    *,
    rate_rps: float | None,
    duration_s: float | None,
    requests: int | None,
    top_k: int,
    labelled: bool,
) -> Assignment:
    """With a rate: at equal distances, whatever the server does. Without: one after the other, each answer awaited.

    Args:
        duration_s, requests: how long; neither: each image once.
        labelled: the images' classes are the model's, so that answers can be right or wrong.
    """
    count = len(images) if requests is None else requests
    order = tuple(range(len(images)))
    labels = tuple(images.labels) if labelled else (None,) * len(images)
    arrivals: tuple[Capture, ...] = ()
    closed = None
    if rate_rps is None:
        closed = Closed(order, requests=None if duration_s is not None else count, duration_s=duration_s)
    else:
        if duration_s is not None:
            count = max(int(duration_s * rate_rps), 1)
        arrivals = tuple(Capture(number / rate_rps, number % len(images)) for number in range(count))
    warmup = tuple(number % len(images) for number in range(WARMUP_IMAGES))
    return Assignment("device", tuple(map(str, images.files)), labels, arrivals, closed, top_k=top_k, warmup=warmup)


async def drive(
    device: Device[Any],
    assignment: Assignment,
    ended: list[Record],
    *,
    emulated: tuple[str, ...] = (),
    every_second: Callable[[Sequence[Record]], None] = lambda records: None,
    so_far: SoFar | None = None,
) -> Sent:
    """Load the head, warm up, run the assignment, close the device.

    Args:
        ended: the device appends the records of requests that have ended to it.
        emulated: parts of the device and its link.
        every_second: is told the records that have ended so far.
        so_far: is filled while the run goes on, and stands when it is interrupted.

    Raises:
        HeadTailError: there is no such server, or the device does not go with it. A request's failure is its record's.
    """
    so_far = SoFar() if so_far is None else so_far
    try:
        await device.start()
        run = DeviceRun(device, assignment)
        await run.warm_up()
        ended.clear()
        assert device.cut.served is not None
        so_far.ended = ended
        so_far.emulated = (*emulated, *device.cut.served.emulated)
        so_far.labels = device.cut.served.labels
        running = asyncio.create_task(run.run())
        try:
            while not (await asyncio.wait([running], timeout=1.0))[0]:
                every_second(ended)
            records = running.result()
        finally:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running
        return Sent(tuple(records), so_far.emulated, so_far.labels)
    finally:
        await device.close()
