"""The fleet file: which devices there are. A small YAML, checked on reading, unknown keys refused.

::

    model: digits_vit
    groups:
      - {name: camera, count: 4, cut: 1}
      - {name: board, count: 2, cut: 2, profile: boards.yaml, codec: fp16, placement: STRICT_SPREAD}
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from actors.network.emulated_link import resolve
from actors.planning.online_planner import PlanConfig
from slicer.codecs.activations import CODECS, IMAGE_CODECS
from slicer.common.addresses import application_url
from slicer.common.validation import Strict, explain, nearest
from slicer.common.yaml_files import read_yaml, shown
from slicer.errors import ConfigError
from slicer.planning.link_presets import PRESETS
from slicer.profiles.device_profile import Profile, load_profile

#: Of `alone`: the same model's own tail.
TAIL = "tail"

_SHIPPED = Path(__file__).parent / "shipped"


class Retry(Strict):
    """When a request is sent again: the server vanished, or refused with a code that a pause may cure.

    Each pause is drawn from half to one and a half of its length, so that a fleet does not come back all at once.

    Attributes:
        attempts: most sendings of one request to a server that is overloaded; one that vanished is waited for.
        first_pause_s: before the second sending; doubles each time up to `max_pause_s`. While the server is away these
            are the device's pauses, for all its requests together (`actors.device.circuit_breaker`).
        budget_s: from the first sending to giving up, all attempts and their queueing together.
    """

    attempts: int = Field(default=5, ge=1)
    first_pause_s: float = Field(default=0.05, ge=0)
    max_pause_s: float = Field(default=2.0, ge=0)
    budget_s: float = Field(default=60.0, gt=0)

    def pause_s(self, attempt: int) -> float:
        """The pause after attempt 1, 2, ..., before its jitter."""
        return min(self.first_pause_s * 2.0 ** (attempt - 1), self.max_pause_s)


class CacheConfig(Strict):
    """Where the devices of one host keep the shards they fetched, together at most `max_bytes`."""

    directory: str = "~/.cache/headtail/devices"
    max_bytes: int = Field(default=4_000_000_000, gt=0)


class GroupConfig(Strict):
    """Devices of one kind.

    Attributes:
        name: devices are named `<name>-0`, `<name>-1`, ...
        model: what to ask the application for; default: the fleet's.
        cut: how many slices the device runs; 0: the image goes to the server; n: nothing does.
        profile: ``native``, a shipped one's name, or a path to a profile file.
        codec: of the activation on the wire.
        cpus: CPU that Ray reserves per device: a share for placement, not a limit.
        gpus: GPU that Ray reserves per device; `accelerator` cuda needs some.
        torch_threads: threads of the head; an emulated device has one, since its times are those of its profile.
        link, link_options: ``direct``; a preset such as ``lte``, or ``emulated``, with the options of
            `actors.network.emulated_link`; or ``package.module:Class`` and its keyword arguments.
        plan: the devices choose cut and codec themselves, beginning with those given here; see
            `actors.planning.online_planner.PlanConfig`. Without it they keep them.
        alone: what a device answers with when the server does not: ``tail``: the rest of the same model, whose slices
            it then holds as well, if its memory allows; or the name of another model that the server serves.
        transport: ``handle``: the Serve handle; ``http``: HTTP at `url`; ``auto``: HTTP where the server offers it,
            which is faster, else the handle.
        device: ``native`` for `actors.device.device.Device`, or ``package.module:Class``, a class derived from it.
        virtual: the devices live together, up to `per_actor` of them in one process (`actors.device.virtual`); `cpus`
            is then what each process reserves. Needs an emulated profile.
        parcel_ms: requests of one process that begin within so many ms go in one call; 0: each goes by itself.
        placement: SPREAD over the edge nodes as far as possible; STRICT_SPREAD: one per node; PACK: on few nodes.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    count: int = Field(default=1, ge=1)
    model: str | None = None
    cut: int = Field(ge=0)
    profile: str = "native"
    codec: str = "fp32"
    cpus: float = Field(default=0.1, gt=0)
    gpus: float = Field(default=0.0, ge=0)
    accelerator: Literal["cpu", "cuda"] = "cpu"
    torch_threads: int = Field(default=1, ge=1)
    link: str = "direct"
    link_options: dict[str, Any] = Field(default_factory=dict)
    transport: Literal["auto", "handle", "http"] = "auto"
    url: str = ""
    plan: PlanConfig | None = None
    alone: str = ""
    virtual: bool = False
    per_actor: int = Field(default=250, ge=1)
    parcel_ms: float = Field(default=0.0, ge=0)
    device: str = "native"
    placement: Literal["SPREAD", "STRICT_SPREAD", "PACK"] = "SPREAD"

    @model_validator(mode="after")
    def _no_contradiction(self) -> GroupConfig:
        known = CODECS + IMAGE_CODECS
        if self.codec not in known:
            raise ValueError(
                f"group {self.name!r}: unknown codec {self.codec!r}{nearest(self.codec, known)}; "
                f"this build has {', '.join(known)}"
            )
        if self.codec in IMAGE_CODECS and self.cut:
            raise ValueError(f"group {self.name!r}: codec {self.codec} carries images, so it goes with cut 0 only")
        if self.accelerator == "cuda" and not self.gpus:
            raise ValueError(f"group {self.name!r}: accelerator cuda without a GPU; set gpus, 0.1 for a share of one")
        if self.gpus and self.accelerator == "cpu":
            raise ValueError(f"group {self.name!r}: gpus {self.gpus:g} with accelerator cpu; set accelerator: cuda")
        if self.device != "native" and ":" not in self.device:
            raise ValueError(f"group {self.name!r}: unknown device {self.device!r}; native, or package.module:Class")
        if (self.transport == "http") != bool(self.url):
            raise ValueError(
                f"group {self.name!r}: transport {self.transport} with url {self.url!r}; transport http needs the url, "
                "http://host:port/application, and the others none"
            )
        if self.url:
            application_url(self.url)
        if self.link not in ("direct", "emulated", *PRESETS) and ":" not in self.link:
            raise ValueError(
                f"group {self.name!r}: unknown link {self.link!r}; direct, emulated, {', '.join(PRESETS)}, or "
                "package.module:Class"
            )
        return self


class DeviceConfig(Strict):
    """Everything one device needs to know, its profile included; what a `DeviceActor` is started with."""

    name: str
    group: str
    model: str
    cut: int
    profile: Profile
    codec: str = "fp32"
    accelerator: Literal["cpu", "cuda"] = "cpu"
    torch_threads: int = 1
    link: str = "direct"
    link_options: dict[str, Any] = Field(default_factory=dict)
    transport: Literal["auto", "handle", "http"] = "auto"
    url: str = ""
    plan: PlanConfig | None = None
    alone: str = ""
    virtual: bool = False
    parcel_ms: float = 0.0
    device: str = "native"
    cache_directory: str
    cache_max_bytes: int
    seed: int = 0
    retry: Retry = Retry()


class FleetConfig(Strict):
    """The whole file. `directory` is where relative profile paths start; the reader sets it.

    Attributes:
        model: what groups without a model of their own ask for.
        seed: of the emulated times and the jitter of retries; each device's own seed follows from it and its name.
        resource: the custom resource of edge nodes.
        place_timeout_s: how long the cluster may take to find room for the devices.
        start_timeout_s: how long they may take to import, fetch and load their heads.
    """

    model: str = "digits_vit"
    groups: tuple[GroupConfig, ...]
    cache: CacheConfig = CacheConfig()
    retry: Retry = Retry()
    seed: int = 0
    resource: str = "edge"
    place_timeout_s: float = Field(default=60.0, gt=0)
    start_timeout_s: float = Field(default=300.0, gt=0)
    directory: Path = Path()

    @model_validator(mode="after")
    def _no_contradiction(self) -> FleetConfig:
        if not self.groups:
            raise ValueError("groups is empty; give at least one, such as {name: camera, count: 1, cut: 1}")
        names = [group.name for group in self.groups]
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise ValueError(f"two groups are named {doubled[0]!r}; give each a name of its own")
        return self

    def processes(self, group: GroupConfig) -> list[list[DeviceConfig]]:
        """The devices of one group by the process that they live in. Raises as `devices`."""
        devices, size = self.devices(group), group.per_actor if group.virtual else 1
        return [devices[at : at + size] for at in range(0, len(devices), size)]

    def devices(self, group: GroupConfig) -> list[DeviceConfig]:
        """The devices of one group, profile loaded.

        Raises:
            ConfigError: the profile cannot be read, or contradicts the group.
        """
        profile = load_profile(group.profile, self.directory)
        if profile.kind == "emulated" and group.torch_threads != 1:
            raise ConfigError(
                f"group {group.name!r}: torch_threads {group.torch_threads} on the emulated device {profile.name!r}, "
                "whose times are its profile's; leave torch_threads out"
            )
        if group.virtual and (profile.kind != "emulated" or group.device != "native"):
            raise ConfigError(
                f"group {group.name!r}: virtual devices have no time and no class of their own; give an emulated "
                "profile and leave device out"
            )
        if group.alone not in ("", TAIL) and group.virtual:
            raise ConfigError(f"group {group.name!r}: virtual devices go on alone with their own tail; set alone: tail")
        if profile.kind == "emulated" and group.accelerator != "cpu":
            raise ConfigError(
                f"group {group.name!r}: accelerator {group.accelerator} on the emulated device {profile.name!r}, "
                "whose times are its profile's; leave accelerator and gpus out"
            )
        link, link_options = resolve(group.link, group.link_options, self.directory)
        return [
            DeviceConfig(
                name=name,
                group=group.name,
                model=group.model or self.model,
                cut=group.cut,
                profile=profile,
                codec=group.codec,
                accelerator=group.accelerator,
                torch_threads=group.torch_threads,
                link=link,
                link_options={"seed": f"{self.seed}/{name}", **link_options} if link == "emulated" else link_options,
                transport=group.transport,
                url=group.url,
                plan=group.plan,
                alone=group.alone,
                virtual=group.virtual,
                parcel_ms=group.parcel_ms,
                device=group.device,
                cache_directory=self.cache.directory,
                cache_max_bytes=self.cache.max_bytes,
                seed=self.seed,
                retry=self.retry,
            )
            for name in (f"{group.name}-{index}" for index in range(group.count))
        ]


def parse_fleet(data: Any, where: str = "fleet", directory: Path | None = None) -> FleetConfig:
    """Check a mapping; `where` says in the error what was read.

    Raises:
        ConfigError: naming every wrong key; profiles are read and checked, too.
    """
    if not isinstance(data, dict):
        raise ConfigError(f"{where}: a fleet is a mapping with `groups`, got {type(data).__name__}")
    if "directory" in data:
        raise ConfigError(f"{where}: directory: unknown key; profile paths are relative to the file")
    try:
        fleet = FleetConfig(**data, directory=directory or Path())
    except (ValidationError, TypeError) as error:
        raise ConfigError(explain(error, where, FleetConfig)) from None
    for group in fleet.groups:
        try:
            fleet.devices(group)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None
    return fleet


def load_fleet(name: str | Path) -> FleetConfig:
    """A fleet file, or the name of a shipped one (``demo``).

    Raises:
        ConfigError: there is no such fleet, or it contradicts itself.
    """
    path = Path(name)
    if str(name) in {found.stem for found in _SHIPPED.glob("*.yaml")}:
        path = _SHIPPED / f"{name}.yaml"
    if not os.path.lexists(path):
        shipped = sorted(found.stem for found in _SHIPPED.glob("*.yaml"))
        raise ConfigError(
            f"no fleet {shown(repr(str(name)))}{nearest(name, shipped)}; give a path to a YAML file, or a shipped one: "
            f"{', '.join(shipped)}"
        )
    return parse_fleet(read_yaml(path), str(path), path.parent)
