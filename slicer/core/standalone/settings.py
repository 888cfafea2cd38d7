"""What a device on its own is told."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from typing_extensions import Self

from ..heads.onnx_head import OnnxOptions
from ..planning.settings import Duration, PlanSettings
from ..settings import RetrySettings

#: Where heads are kept, and how much of them.
CACHE = "~/.cache/headtail-device"
CACHE_MAX_BYTES = 2_000_000_000


class Retry(RetrySettings):
    """The defaults, but for the budget."""

    def __init__(self, budget_s: float = RetrySettings.budget_s) -> None:
        self.budget_s = budget_s


@dataclass(frozen=True)
class OwnSpeed:
    """A `DeviceProfile` of a device that is as fast as it is."""

    memory_budget_bytes: int | None = None
    name: str = "native"
    kind: str = "native"
    slices_ms: Sequence[Duration] = ()
    preprocess_ms: Duration | None = None
    watts: float | None = None
    joules_per_mb: float | None = None

    def check_model(self, model: str, num_slices: int, architecture: str = "") -> None:
        """It has no times of any model."""


@dataclass
class Settings:
    """`DeviceSettings`, and how its heads are run (`onnx`)."""

    name: str
    model: str
    cut: int
    codec: str = "fp32"
    group: str = "headtail-device"
    alone: str = ""
    seed: int = 0
    outputs: tuple[str, ...] = ()
    plan: PlanSettings | None = None
    retry: RetrySettings = field(default_factory=Retry)
    profile: OwnSpeed = OwnSpeed()
    onnx: OnnxOptions = field(default_factory=lambda: OnnxOptions(Path(CACHE).expanduser(), CACHE_MAX_BYTES))

    def changed(self, **changes: Any) -> Self:
        """The same, told otherwise."""
        return dataclasses.replace(self, **changes)
