"""One device in this process, sending to a server that runs: no fleet, no job. `headtail device` is its command."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from actors.device.config import DeviceConfig
from actors.fleet.config import FleetConfig, parse_fleet
from actors.fleet.device_actor import device_class
from actors.load.schedule import WARMUP_IMAGES
from actors.network.auto_transport import make_transport
from actors.network.client import LinkedServer
from actors.network.link import make_link
from slicer.common.comparison import mean, percentile
from slicer.core.device.device_run import DeviceRun
from slicer.core.network.http_transport import HttpTransport, check_application
from slicer.core.records.assignment import Assignment, Capture, Closed
from slicer.core.records.record import Record
from slicer.errors import ConfigError
from slicer.models.images import LabelledImages

#: The phases of a request that the summary shows, as the record has them.
PHASES = ("wait_ms", "head_ms", "encode_ms", "network_ms", "admission_ms", "queue_ms", "execution_ms")


@dataclass(frozen=True)
class Sent:
    """What a run came to.

    Attributes:
        records: one per image.
        emulated: the parts of device, link and server that are.
        labels: of the model's classes; empty: the server knows none.
    """

    records: tuple[Record, ...]
    emulated: tuple[str, ...]
    labels: tuple[str, ...] = ()


@dataclass
class SoFar:
    """What a run has come to while it goes on, for whoever interrupts it.

    Attributes:
        ended: the requests that have their outcome, without those of the warm-up; filled by the run's event loop.
        emulated, labels: as in `Sent`; known once the run begins.
    """

    ended: list[Record] = field(default_factory=list)
    emulated: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()


def choose_device(fleet: FleetConfig, name: str | None, changed: Mapping[str, Any]) -> DeviceConfig:
    """One device of a fleet, with some of its keys changed.

    Args:
        name: such as ``camera-0``; None: the first.
        changed: keys of the device's group, as in the fleet file.

    Raises:
        ConfigError: there is no such device, a key does not go with the others, or it is a virtual one.
    """
    names = [device.name for group in fleet.groups for device in fleet.devices(group)]
    if name is not None and name not in names:
        raise ConfigError(f"--device {name}: the fleet has {', '.join(names[:20])}")
    wanted = names[0] if name is None else name
    group = next(group for group in fleet.groups for device in fleet.devices(group) if device.name == wanted)
    values = {**fleet.model_dump(exclude_unset=True, exclude={"directory", "groups"})}
    values["groups"] = [{**group.model_dump(exclude_unset=True), **changed}]
    made = parse_fleet(values, "device", fleet.directory)
    device = next(device for device in made.devices(made.groups[0]) if device.name == wanted)
    if device.virtual:
        raise ConfigError(f"{wanted} is a virtual device, many of which share a process; `headtail load` drives them")
    return device


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


async def send(
    config: DeviceConfig,
    assignment: Assignment,
    *,
    app: str = "",
    token: str | None = None,
    every_second: Callable[[Sequence[Record]], None] = lambda records: None,
    so_far: SoFar | None = None,
) -> Sent:
    """Load the head, warm up, run the assignment.

    Args:
        app: name of the Serve application, where the device's transport is not HTTP; Ray must be connected.
        token: of HTTP; None: HEADTAIL_TOKEN.
        every_second: is told the records that have ended so far.
        so_far: is filled while the run goes on, and stands when it is interrupted.

    Raises:
        HeadTailError: there is no such server, or the device does not go with it. A request's failure is its record's.
    """
    so_far = SoFar() if so_far is None else so_far
    if config.url:
        await check_application(config.url)
    transport = HttpTransport(config.url, token) if config.url else make_transport(config.transport, app)
    ended: list[Record] = []
    device = device_class(config.device)(
        config, LinkedServer(transport, make_link(config.link, config.link_options)), on_closed=ended.append
    )
    try:
        await device.start()
        run = DeviceRun(device, assignment)
        await run.warm_up()
        ended.clear()
        assert device.cut.served is not None
        link = make_link(config.link, config.link_options).emulated
        so_far.ended = ended
        so_far.emulated = (
            *config.profile.emulated,
            *([f"link {link}"] if link else []),
            *device.cut.served.emulated,
        )
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


def second_line(ended: Sequence[Record], before: int) -> str:
    """What a person sees each second: totals, and the times of what ended since `before` records were there."""
    answered = sum(record.outcome == "answered" for record in ended)
    new = [record.inference_ms for record in ended[before:] if record.inference_ms is not None]
    times = f"; last second {len(new)}, p50 {percentile(new, 50):.1f} ms, worst {max(new):.1f} ms" if new else ""
    return f"{answered} answered, {len(ended) - answered} missed{times}"


def document(config: DeviceConfig, sent: Sent, *, interrupted: bool = False) -> dict[str, Any]:
    """The summary as plain values; what nobody knows is None.

    Args:
        interrupted: the run was, and `sent` holds what had ended until then.
    """
    times = [record.inference_ms for record in sent.records if record.inference_ms is not None]
    judged = [record for record in sent.records if record.label is not None and record.outcome == "answered"]
    outcomes = ("answered", "refused", "dropped", "lost")
    phases = {name: [getattr(record, name) for record in sent.records] for name in PHASES}
    return {
        "device": config.name,
        "model": config.model,
        "cut": config.cut,
        "codec": config.codec,
        "emulated": list(sent.emulated),
        "interrupted": interrupted,
        "requests": len(sent.records),
        **{name: sum(record.outcome == name for record in sent.records) for name in outcomes},
        "inference_ms": {
            "mean": mean(times),
            "p50": percentile(times, 50),
            "p99": percentile(times, 99),
        },
        "phases_mean_ms": {
            name.removesuffix("_ms"): mean([value for value in values if value is not None])
            for name, values in phases.items()
        },
        "classes": classes_of(sent),
        "top1_right": sum(record.top1 == record.label for record in judged) if judged else None,
        "messages": list(dict.fromkeys(record.message for record in sent.records if record.message))[:5],
    }


def classes_of(sent: Sent, most: int = 5) -> list[dict[str, Any]]:
    """The classes that were answered most often: number, label (None: nobody knows it) and how often."""
    counted = Counter(record.top1 for record in sent.records if record.top1 is not None)
    return [
        {"class": index, "label": sent.labels[index] if index < len(sent.labels) else None, "answers": count}
        for index, count in counted.most_common(most)
    ]


def summary(found: Mapping[str, Any]) -> str:
    """The document for people."""
    times, phases = found["inference_ms"], found["phases_mean_ms"]
    emulated = "".join(f"\nEmulated: {part.removeprefix('emulated ')}." for part in found["emulated"])
    word = " (emulated)" if found["emulated"] else ""
    until = ", until it was interrupted" if found["interrupted"] else ""
    lines = [
        f"{found['device']}: {found['model']}, cut {found['cut']}, {found['codec']}{until}",
        ", ".join(f"{found[name]} {name}" for name in ("answered", "refused", "dropped", "lost")),
    ]
    if times["mean"] is not None:
        lines.append(
            f"inference time{word}: mean {times['mean']:.1f} ms, p50 {times['p50']:.1f} ms, p99 {times['p99']:.1f} ms"
        )
        lines.append(
            "of which, on average: " + ", ".join(f"{name} {ms:.1f} ms" for name, ms in phases.items() if ms is not None)
        )
    if found["classes"]:
        often = [
            f"{one['class'] if one['label'] is None else one['label']} ({one['answers']})" for one in found["classes"]
        ]
        lines.append(f"answered most often: {', '.join(often)}")
    if found["top1_right"] is not None:
        lines.append(f"top-1 right: {found['top1_right']} of {found['answered']}")
    lines += [f"missed: {message}" for message in found["messages"]]
    return "\n".join(lines) + emulated
