"""What a core says of itself: which models, on what, what it has done, and how much memory it takes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from deployments.engine.ledger import EngineStats
from deployments.engine.trace import TracedStep
from deployments.executors.base import Executor
from deployments.executors.torch_common import resident_set_bytes
from deployments.ipc.hosted_model import HostedModel
from slicer.common.nvml import NvmlGpu
from slicer.core.common.version import headtail_version


@dataclass(frozen=True)
class Counters:
    """What was done since serving began.

    Attributes:
        steps: executions that succeeded; `rows_per_step`: how many of them had so many rows.
        rows: of all steps together; a row counts once per step.
        busy_s: seconds of execution in these steps.
        waiting: rows that wait or run now, by model.
    """

    steps: int
    rows: int
    busy_s: float
    waiting: dict[str, int] = field(default_factory=dict)
    rows_per_step: dict[int, int] = field(default_factory=dict)

    @classmethod
    def of(cls, stats: EngineStats) -> Counters:
        """An engine's."""
        return cls(stats.steps, stats.rows, stats.busy_s, dict(stats.waiting), dict(stats.rows_per_step))


@dataclass
class CoreStatus:
    """Any thread may read it.

    Args:
        name: of the process within Serve, for the record.
        node: Ray's id of it.
        accelerator: ``cuda`` or ``cpu``, where it computes.
        notes: what a person should know.
        counters: gives what was done so far.
    """

    name: str
    node: str
    accelerator: str
    notes: Sequence[str]
    models: Sequence[HostedModel]
    executor: Executor
    counters: Callable[[], Counters]
    started_s: float = field(default_factory=time.monotonic)
    _nvml: NvmlGpu = field(default_factory=NvmlGpu)

    @property
    def emulated(self) -> tuple[str, ...]:
        """Names of emulated parts."""
        return (self.executor.emulated,) if self.executor.emulated else ()

    def read(self) -> dict[str, Any]:
        """Plain values, for the load job, the doctor and people."""
        memory = dict(self.executor.memory())
        if resident := resident_set_bytes():  # of any executor, also one that does not say
            memory["process"] = resident
        return {
            "headtail": headtail_version(),
            "replica": self.name,
            "node": self.node,
            "pid": os.getpid(),
            "accelerator": self.accelerator,
            "url": "",
            "emulated": list(self.emulated),
            "notes": [*self.notes, *self.executor.notes],
            "models": {
                model.name: {
                    "strategy": model.config.strategy,
                    "max_batch": model.config.max_batch,
                    "num_slices": model.num_slices,
                    "entries": list(model.entries),
                    "manifest": model.manifest.digest,
                }
                for model in self.models
            },
            "uptime_s": time.monotonic() - self.started_s,
            "memory": memory,
            "nvml": self._nvml.read(),
            **asdict(self.counters()),
        }

    def steps(self, kept: Iterable[TracedStep], since_s: float) -> dict[str, Any]:
        """Those of them that ended after `since_s` of uptime: ``replica``, and ``steps`` in seconds of uptime."""
        zero_s = self.started_s
        found = [
            asdict(replace(step, began_s=step.began_s - zero_s, ended_s=step.ended_s - zero_s))
            for step in kept
            if step.ended_s - zero_s >= since_s
        ]
        return {"replica": self.name, "steps": found}
