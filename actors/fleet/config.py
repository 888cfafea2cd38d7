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

from actors.device.config import DeviceConfig, DeviceKeys, Retry
from actors.network.emulated_link import resolve
from slicer.common.validation import Strict, explain, nearest
from slicer.common.yaml_files import read_yaml
from slicer.core.codecs.registry import CODECS, IMAGE_CODECS
from slicer.core.codecs.transform.names import NAMES as TRANSFORMS
from slicer.core.common.addresses import application_url
from slicer.core.common.error_text import shown
from slicer.core.planning.link_presets import PRESETS
from slicer.core.settings import TAIL
from slicer.errors import ConfigError
from slicer.profiles.device_profile import load_device_profile

_SHIPPED = Path(__file__).parent / "shipped"


class CacheConfig(Strict):
    """Where the devices of one host keep the shards they fetched.

    Attributes:
        directory: on each host.
        max_bytes: all files together; the least recently used leave first.
    """

    directory: str = "~/.cache/headtail/devices"
    max_bytes: int = Field(default=4_000_000_000, gt=0)


class GroupConfig(DeviceKeys):
    """Devices of one kind: the keys of `DeviceKeys`, and these.

    Attributes:
        name: devices are named `<name>-0`, `<name>-1`, ...
        count: how many devices.
        model: what to ask the application for; default: the fleet's.
        profile: ``native``, a shipped one's name, or a path to a profile file.
        cpus: CPU that Ray reserves per device (`virtual`: per process): a share for placement, not a limit.
        gpus: GPU that Ray reserves per device; `accelerator` cuda needs some.
        per_actor: most virtual devices in one process.
        placement: SPREAD over the edge nodes as far as possible; STRICT_SPREAD: one per node; PACK: on few nodes.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    count: int = Field(default=1, ge=1)
    model: str | None = None
    profile: str = "native"
    cpus: float = Field(default=0.1, gt=0)
    gpus: float = Field(default=0.0, ge=0)
    per_actor: int = Field(default=250, ge=1)
    placement: Literal["SPREAD", "STRICT_SPREAD", "PACK"] = "SPREAD"

    @model_validator(mode="after")
    def _no_contradiction(self) -> GroupConfig:
        known = (*CODECS, *TRANSFORMS, *IMAGE_CODECS)
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
        if self.outputs and self.alone not in ("", TAIL):
            raise ValueError(
                f"group {self.name!r}: outputs {', '.join(self.outputs)} with alone: {self.alone}; another model's are "
                "not the server's: set alone: tail, or leave one of the two out"
            )
        if self.url:
            application_url(self.url)
        if self.link not in ("direct", "emulated", *PRESETS) and ":" not in self.link:
            raise ValueError(
                f"group {self.name!r}: unknown link {self.link!r}; direct, emulated, {', '.join(PRESETS)}, or "
                "package.module:Class"
            )
        return self


class FleetConfig(Strict):
    """The whole file. `directory` is where relative profile paths start; the reader sets it.

    Attributes:
        model: what groups without a model of their own ask for.
        groups: at least one.
        cache: of fetched shards.
        retry: when a request is sent again.
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
        profile = load_device_profile(group.profile, self.directory)
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
        if group.virtual and group.runtime != "torch":
            raise ConfigError(
                f"group {group.name!r}: virtual devices replay what torch computed; leave runtime {group.runtime!r} out"
            )
        if group.alone not in ("", TAIL) and group.virtual:
            raise ConfigError(f"group {group.name!r}: virtual devices go on alone with their own tail; set alone: tail")
        if profile.kind == "emulated" and group.accelerator != "cpu":
            raise ConfigError(
                f"group {group.name!r}: accelerator {group.accelerator} on the emulated device {profile.name!r}, "
                "whose times are its profile's; leave accelerator and gpus out"
            )
        link, options = resolve(group.link, group.link_options, self.directory)
        keys = {key: getattr(group, key) for key in DeviceKeys.model_fields if key not in ("link", "link_options")}
        return [
            DeviceConfig(
                **keys,
                name=name,
                group=group.name,
                model=group.model or self.model,
                profile=profile,
                link=link,
                link_options={"seed": f"{self.seed}/{name}", **options} if link == "emulated" else options,
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
