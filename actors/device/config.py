"""What one device is told: the keys of a device, once for the fleet file's groups and for the device itself."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator
from typing_extensions import Self

from slicer.common.validation import Strict
from slicer.core.planning.settings import PlanSettings
from slicer.core.protocol.outputs import in_order
from slicer.core.settings import RetrySettings
from slicer.profiles.device_profile import Profile


class Retry(Strict):
    """When a request is sent again, as `slicer.core.settings.RetrySettings` says."""

    attempts: int = Field(default=RetrySettings.attempts, ge=1)
    first_pause_s: float = Field(default=RetrySettings.first_pause_s, ge=0)
    max_pause_s: float = Field(default=RetrySettings.max_pause_s, ge=0)
    budget_s: float = Field(default=RetrySettings.budget_s, gt=0)


class PlanConfig(Strict):
    """How a group's devices plan: as `slicer.core.planning.settings.PlanSettings`. ``plan: {}`` has the defaults."""

    joule_ms: float = Field(default=PlanSettings.joule_ms, ge=0)
    server_ms: float = Field(default=PlanSettings.server_ms, ge=0)
    agreement: float = Field(default=PlanSettings.agreement, ge=0, le=1)
    margin: float = Field(default=PlanSettings.margin, ge=0, lt=1)
    deadline: bool = False
    measured: dict[str, float] = Field(default_factory=dict)
    codecs: tuple[str, ...] | None = None
    every_s: float = Field(default=PlanSettings.every_s, gt=0)
    gain: float = Field(default=PlanSettings.gain, ge=0)
    least_ms: float = Field(default=PlanSettings.least_ms, ge=0)
    movers: float = Field(default=PlanSettings.movers, ge=1)
    doubt: float = Field(default=PlanSettings.doubt, ge=0, lt=1)
    probe_s: float = Field(default=PlanSettings.probe_s, ge=0)


class DeviceKeys(Strict):
    """What is said of a device in a group of the fleet file, and handed to the device as it stands.

    Attributes:
        cut: how many slices the device runs; 0: the image goes to the server; n: nothing does.
        codec: of the activation on the wire.
        runtime: what runs the head: ``torch``; ``onnx``: onnxruntime, by the ONNX files of the server; or
            ``package.module:Class``, made of (served, config, get), a `slicer.core.heads.head_runtime.HeadRuntime`.
        accelerator: what the head runs on; an emulated device has ``cpu``.
        torch_threads: threads of the head, whatever runs it; an emulated device has one, since its times are those of
            its profile.
        link: ``direct`` (nothing added), a preset such as ``lte``, ``emulated``, or ``package.module:Class``.
        link_options: of an emulated link (`actors.network.emulated_link`), or keyword arguments of an own one.
        outputs: what of the model is answered whole instead of classes: ``logits``, ``features``, ``tokens``; an own
            class of devices gets them (`actors.device.device.Device.received`). Only logits say a top-1.
        plan: the devices choose cut and codec themselves, beginning with those given here; see
            `actors.device.config.PlanConfig`. Without it they keep them.
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
    runtime: str = "torch"
    accelerator: Literal["cpu", "cuda"] = "cpu"
    torch_threads: int = Field(default=1, ge=1)
    link: str = "direct"
    link_options: dict[str, Any] = Field(default_factory=dict)
    transport: Literal["auto", "handle", "http"] = "auto"
    url: str = ""
    outputs: tuple[str, ...] = ()
    plan: PlanConfig | None = None
    alone: str = ""
    virtual: bool = False
    parcel_ms: float = Field(default=0.0, ge=0)
    device: str = "native"

    @field_validator("outputs")
    @classmethod
    def _known_outputs(cls, outputs: tuple[str, ...]) -> tuple[str, ...]:
        return in_order(outputs)


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

    def changed(self, **changes: Any) -> Self:
        """The same device, told otherwise."""
        return self.model_copy(update=changes)
