"""What one device is told: the keys of a device, once for the fleet file's groups and for the device itself."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from actors.planning.online_planner import PlanConfig
from slicer.common.validation import Strict
from slicer.profiles.device_profile import Profile

#: Of `alone`: the same model's own tail.
TAIL = "tail"


class Retry(Strict):
    """When a request is sent again: the server vanished, or refused with a code that a pause may cure.

    Each pause is drawn from half to one and a half of its length, so that a fleet does not come back all at once.

    Attributes:
        attempts: most sendings of one request to a server that is overloaded; one that vanished is waited for.
        first_pause_s: before the second sending; doubles each time up to `max_pause_s`. While the server is away these
            are the device's pauses, for all its requests together (`actors.device.health.circuit_breaker`).
        max_pause_s: the longest pause.
        budget_s: from the first sending to giving up, all attempts and their queueing together.
    """

    attempts: int = Field(default=5, ge=1)
    first_pause_s: float = Field(default=0.05, ge=0)
    max_pause_s: float = Field(default=2.0, ge=0)
    budget_s: float = Field(default=60.0, gt=0)

    def pause_s(self, attempt: int) -> float:
        """The pause after attempt 1, 2, ..., before its jitter."""
        return min(self.first_pause_s * 2.0 ** (attempt - 1), self.max_pause_s)


class DeviceKeys(Strict):
    """What is said of a device in a group of the fleet file, and handed to the device as it stands.

    Attributes:
        cut: how many slices the device runs; 0: the image goes to the server; n: nothing does.
        codec: of the activation on the wire.
        accelerator: what the head runs on; an emulated device has ``cpu``.
        torch_threads: threads of the head; an emulated device has one, since its times are those of its profile.
        link: ``direct`` (nothing added), a preset such as ``lte``, ``emulated``, or ``package.module:Class``.
        link_options: of an emulated link (`actors.network.emulated_link`), or keyword arguments of an own one.
        plan: the devices choose cut and codec themselves, beginning with those given here; see
            `actors.planning.online_planner.PlanConfig`. Without it they keep them.
        alone: what a device answers with when the server does not: ``tail``: the rest of the same model, whose slices
            it then holds as well, if its memory allows; or the name of another model that the server serves.
        transport: ``handle``: the Serve handle; ``http``: HTTP at `url`; ``auto``: HTTP where the server offers it,
            which is faster, else the handle.
        url: of the application, ``http://host:port/application``; with ``transport: http`` only.
        device: ``native`` for `actors.device.device.Device`, or ``package.module:Class``, a class derived from it.
        virtual: the devices live together, many in one process (`actors.device.virtual`). Needs an emulated profile.
        parcel_ms: requests of one process that begin within so many ms go in one call; 0: each goes by itself.
    """

    cut: int = Field(ge=0)
    codec: str = "fp32"
    accelerator: Literal["cpu", "cuda"] = "cpu"
    torch_threads: int = Field(default=1, ge=1)
    link: str = "direct"
    link_options: dict[str, Any] = Field(default_factory=dict)
    transport: Literal["auto", "handle", "http"] = "auto"
    url: str = ""
    plan: PlanConfig | None = None
    alone: str = ""
    virtual: bool = False
    parcel_ms: float = Field(default=0.0, ge=0)
    device: str = "native"


class DeviceConfig(DeviceKeys):
    """Everything one device needs to know, its profile included; what a `DeviceActor` is started with."""

    name: str
    group: str
    model: str
    profile: Profile
    cache_directory: str
    cache_max_bytes: int
    seed: int = 0
    retry: Retry = Retry()
