"""One device in this process, sending to a server that runs: no fleet, no job. `headtail device` is its command."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from actors.device.config import DeviceConfig
from actors.fleet.config import FleetConfig, parse_fleet
from actors.fleet.device_actor import device_class
from actors.network.auto_transport import make_transport
from actors.network.client import LinkedServer
from actors.network.link import make_link
from slicer.core.network.http_transport import HttpTransport, check_application
from slicer.core.records.assignment import Assignment
from slicer.core.records.record import Record
from slicer.core.standalone.one_run import drive
from slicer.core.standalone.summary import Sent, SoFar
from slicer.errors import ConfigError


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


async def send(
    config: DeviceConfig,
    assignment: Assignment,
    *,
    app: str = "",
    token: str | None = None,
    every_second: Callable[[Sequence[Record]], None] = lambda records: None,
    so_far: SoFar | None = None,
) -> Sent:
    """Make the device and drive it (`slicer.core.standalone.one_run.drive`).

    Args:
        app: name of the Serve application, where the device's transport is not HTTP; Ray must be connected.
        token: of HTTP; None: HEADTAIL_TOKEN.
        every_second, so_far: as of `drive`.

    Raises:
        HeadTailError: there is no such server, or the device does not go with it. A request's failure is its record's.
    """
    if config.url:
        await check_application(config.url)
    transport = HttpTransport(config.url, token) if config.url else make_transport(config.transport, app)
    ended: list[Record] = []
    device = device_class(config.device)(
        config, LinkedServer(transport, make_link(config.link, config.link_options)), on_closed=ended.append
    )
    link = make_link(config.link, config.link_options).emulated
    emulated = (*config.profile.emulated, *([f"link {link}"] if link else []))
    return await drive(device, assignment, ended, emulated=emulated, every_second=every_second, so_far=so_far)
