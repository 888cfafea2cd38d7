"""`headtail device`: be one device of a server that runs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from actors.fleet.config import FleetConfig, load_fleet, parse_fleet
from actors.load.config import DIGITS
from slicer.common import command_line
from slicer.common.command_line import Command, Parsed, option, say
from slicer.core.common.addresses import application_url
from slicer.core.protocol.outputs import FURTHER, LOGITS
from slicer.errors import ConfigError

if TYPE_CHECKING:
    from slicer.core.records.record import Record

#: Flag -> the key of a fleet file's group that it sets.
OF_A_GROUP = ("cut", "codec", "outputs", "link", "profile", "alone")


@dataclass(frozen=True)
class DeviceFlags:
    """The flags of `headtail device`; None: not given."""

    url: str | None = None
    token: str | None = None
    server: str | None = None
    address: str | None = None
    fleet: str | None = None
    device: str | None = None
    model: str | None = None
    cut: int | None = None
    codec: str | None = None
    outputs: list[str] | None = None
    link: str | None = None
    profile: str | None = None
    alone: str | None = None
    images: str | None = None
    rate: float | None = None
    duration: float | None = None
    requests: int | None = None
    top_k: int | None = None
    json: bool | None = None


def check(flags: DeviceFlags) -> None:
    """Refuse what contradicts itself or would do nothing. Raises ConfigError."""
    if flags.url and flags.server:
        raise ConfigError(f"--url {flags.url} and --server {flags.server} both say where the server is; give one")
    if flags.server is None and flags.address is not None:
        raise ConfigError(f"--address {flags.address} is the Ray cluster of --server NAME; give that, or leave it out")
    if flags.server is not None and flags.token is not None:
        raise ConfigError("--token is for HTTP; with --server NAME, Ray's own token counts: leave it out")
    if flags.device is not None and flags.fleet is None:
        raise ConfigError(f"--device {flags.device} is a device of --fleet FILE; give that, or leave it out")
    if flags.url is not None:
        application_url(flags.url)
    if flags.duration is not None and flags.requests is not None:
        raise ConfigError("--duration and --requests both say when to stop; give one")
    for name, value in {"--rate": flags.rate, "--duration": flags.duration}.items():
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ConfigError(f"{name} {value:g}: give a positive number")
    for name, count in {"--requests": flags.requests, "--top-k": flags.top_k}.items():
        if count is not None and count < 1:
            raise ConfigError(f"{name} {count}: give a whole number from 1 on")


def fleet_of(flags: DeviceFlags) -> FleetConfig:
    """The file, or a fleet of one device. Raises ConfigError."""
    if flags.fleet is not None:
        return load_fleet(flags.fleet)
    return parse_fleet({"groups": [{"name": "device", "cut": 1}]}, "device", Path())


def changes(flags: DeviceFlags, in_file: str = "") -> dict[str, Any]:
    """The keys of the device's group that flags decide; where the server is included.

    Args:
        in_file: the address that the fleet file names, if it does.

    Raises:
        ConfigError: nobody says where the server is.
    """
    given = {name: getattr(flags, name) for name in (*OF_A_GROUP, "model") if getattr(flags, name) is not None}
    if flags.server is not None:
        return {**given, "transport": "auto", "url": ""}
    if not (flags.url or in_file):
        raise ConfigError(
            "no server; give --url http://host:port/application (`headtail serve` prints it), or --server NAME on a "
            "Ray cluster"
        )
    return {**given, "transport": "http", "url": flags.url or in_file}


_SERVER = "Server: one of --url and --server"
_DEVICE = "Device: of a fleet file, or by flags; a flag wins over the file"
_LOAD = "Load: each image once, one after the other, unless these say otherwise"


@click.command(
    "device",
    cls=Command,
    examples=(
        ("headtail device --url http://127.0.0.1:8000/headtail", "the 360 shipped digits, one after the other"),
        (
            "headtail device --url http://10.0.0.7:8000/cameras --cut 2 --codec int8 --rate 10 --duration 60",
            "a camera with ten images per second; HEADTAIL_TOKEN holds the server's token",
        ),
        ("headtail device --server cameras --fleet fleet.yaml --device camera-0", "through Ray, as a fleet has it"),
    ),
    notes="Exit status: 0 every image answered; 2 wrong input, no server, or images without an answer; "
    "130 interrupted, after a summary of what had ended until then.",
)
@option("--url", metavar="URL", help="Of the application; needs no Ray here.", group=_SERVER)
@option(
    "--token",
    metavar="T",
    help="What the server asks for by HTTP; default: HEADTAIL_TOKEN, which `ps` does not show.",
    group=_SERVER,
)
@option("--server", metavar="NAME", help="Name of the application on a Ray cluster.", group=_SERVER)
@option("--address", metavar="A", help="Of that cluster; default: the one that runs here.", group=_SERVER)
@option("--fleet", metavar="FILE", help="Fleet YAML, or a shipped one's name.", group=_DEVICE)
@option("--device", metavar="NAME", help="Such as camera-0; default: the first.", group=_DEVICE)
@option("--model", metavar="M", help="That the server serves (default digits_vit).", group=_DEVICE)
@option("--cut", type=click.IntRange(min=0), metavar="K", help="How many slices run here (default 1).", group=_DEVICE)
@option("--codec", metavar="C", help="Of what is sent: fp32 (default), int8, transform-995, ...", group=_DEVICE)
@option(
    "--outputs",
    type=Parsed("A,B", command_line.names),
    help=f"Whole outputs instead of classes: {', '.join((LOGITS, *FURTHER))} (default: classes).",
    group=_DEVICE,
)
@option("--link", metavar="L", help="Emulated: direct (default: none), lte, wifi, ...", group=_DEVICE)
@option("--profile", metavar="P", help="Emulated board: a file or a shipped name (default native).", group=_DEVICE)
@option("--alone", metavar="A", help="What answers while the server is away: tail, or a model's name.", group=_DEVICE)
@option("--images", metavar="DIR", help="DIR/class/file, or digits (default).", group=_LOAD)
@option("--rate", type=float, metavar="R", help="Images per second, whatever the server does.", group=_LOAD)
@option("--duration", type=float, metavar="S", help="Stop after S seconds, begin the images again.", group=_LOAD)
@option("--requests", type=int, metavar="N", help="Stop after N images.", group=_LOAD)
@option("--top-k", type=int, metavar="K", help="Classes in an answer (default 5).", group=_LOAD)
@option("--json", is_flag=True, default=None, help="End with one JSON document instead of the summary.")
def command(**given: Any) -> int:
    """Be one device: send images to a server that runs.

    One line per second and a summary. `headtail load` drives many devices and compares strategies.
    """
    flags = DeviceFlags(**given)
    check(flags)
    fleet = fleet_of(flags)
    asked = fleet.groups[0].name if flags.device is None else flags.device.rpartition("-")[0]
    at = next((group.url for group in fleet.groups if group.name == asked), "")
    changed = changes(flags, at)
    # Only here: torch and Ray's client take seconds to import.
    say("importing torch" if flags.server is None else "importing Ray and torch")
    from actors.load import one_device
    from actors.load.applications import ray_session
    from actors.load.job import DIGITS_DIRECTORY
    from slicer.core.images.folders import find_images
    from slicer.core.standalone import one_run, summary
    from slicer.models.images import write_digits

    config = one_device.choose_device(fleet, flags.device, changed)
    digits = (flags.images or DIGITS) == DIGITS
    images = write_digits(Path(DIGITS_DIRECTORY).expanduser()) if digits else find_images(str(flags.images))
    assignment = one_run.assignment_of(
        images,
        rate_rps=flags.rate,
        duration_s=flags.duration,
        requests=flags.requests,
        top_k=5 if flags.top_k is None else flags.top_k,
        labelled=digits,
    )
    seen = 0

    def tell(ended: Sequence[Record]) -> None:
        nonlocal seen
        line, seen = summary.second_line(ended, seen), len(ended)
        say(line)

    session = ray_session(flags.address, running=True) if flags.server else contextlib.nullcontext()
    so_far = summary.SoFar()

    def show(sent: summary.Sent, *, interrupted: bool = False) -> dict[str, Any]:
        found = summary.document(config, sent, interrupted=interrupted)
        print(json.dumps(found) if flags.json else summary.summary(found), flush=True)
        return found

    try:
        with session:
            say(f"{config.name}: loading the head of {config.model} at cut {config.cut}")
            sent = asyncio.run(
                one_device.send(
                    config, assignment, app=flags.server or "", token=flags.token, every_second=tell, so_far=so_far
                )
            )
    except KeyboardInterrupt:
        if so_far.ended:
            show(summary.Sent(tuple(so_far.ended), so_far.emulated, so_far.labels), interrupted=True)
        raise
    found = show(sent)
    return 0 if found["answered"] == found["requests"] else 2
