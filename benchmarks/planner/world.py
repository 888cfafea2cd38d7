"""One device and its link in virtual time, beside the server of `benchmarks.planner.server`: what planner.py runs.

Everything that decides or takes time is the real class: `Device` with its planner and link estimate, `EmulatedLink`.
What is emulated: the device's slices (times drawn from a profile). No activation is computed; payloads are zeros of
the right length.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Sequence
from typing import Any

import numpy as np

from actors.device.config import DeviceConfig, PlanConfig, Retry
from actors.device.device import Device
from actors.network.client import LinkedServer
from actors.network.emulated_link import EmulatedLink
from actors.testing.virtual_time import VirtualClock
from benchmarks.planner.cases import ENCODE_NS, SIZE_SPREAD, Case
from deployments.costs.cost_model import CostModel
from deployments.costs.profile_files import load_cost_profile
from slicer.core.heads.head_runtime import Computed
from slicer.core.planning.cut_planner import Choice, ModelFacts, payload_bytes
from slicer.core.planning.cut_planner import DeviceView as View
from slicer.core.protocol.messages import ServedModel
from slicer.core.settings import TAIL
from slicer.profiles.device_profile import Profile


class _Numbers:
    """`HeadRuntime` of numbers alone: how much of a head there is. What it computes is `EmulatedDevice`'s affair."""

    size_bytes = 0
    slices_ms: Sequence[float] = ()

    def __init__(self, served: ServedModel, loaded: int) -> None:
        self.manifest, self.num_slices, self.loaded = served.manifest, served.num_slices, loaded

    async def extend(self, count: int) -> None:
        self.loaded = count

    async def prepare(self, choice: Choice) -> None:
        """Tables are in the devices' caches."""

    async def rehearse(self) -> None:
        """Its times are drawn."""

    def close(self) -> None:
        """There is no thread."""

    async def trim(self, count: int) -> None:
        self.loaded = min(self.loaded, count)

    def reseed(self, seed: str) -> None:
        """Draws are the device's."""


class EmulatedDevice(Device):
    """`Device` whose slices take the times of a true profile; the one in its configuration is what it believes.

    Args:
        true: what it draws from. encode_ns: what encoding really takes per value. size_ratio: of its images to those
            of the calibration.
    """

    def __init__(
        self,
        config: DeviceConfig,
        server: Any,
        true: Profile,
        encode_ns: dict[str, float],
        seed: str,
        size_ratio: float,
    ) -> None:
        super().__init__(config, server, load=_load, clock=VirtualClock())  # type: ignore[arg-type]
        self._true, self._encode_ns, self._size_ratio = true, encode_ns, size_ratio
        self._draw = random.Random(f"{seed}/device")

    async def finish(self, computed: Computed, image: str) -> Computed:
        """The slices that are left, where the device goes on alone."""
        slices_ms = [spread.draw_ms(self._draw) for spread in self._true.slices_ms[computed.cut :]]
        await asyncio.sleep(sum(slices_ms) / 1e3)
        logits = np.zeros(10, np.float32)
        return Computed(computed.manifest, (10,), b"", logits, sum(slices_ms), 0.0, cut=computed.cut + len(slices_ms))

    async def compute(self, image: str, choice: Choice) -> Computed:
        """Let the drawn time pass."""
        head, facts, draw = self.head, facts_of(self.cut.served), self._draw
        assert head is not None
        assert self._true.preprocess_ms is not None
        prepare_ms = self._true.preprocess_ms.draw_ms(draw)
        slices_ms = tuple(spread.draw_ms(draw) for spread in self._true.slices_ms[: choice.cut])
        shape, whole = facts.shapes[choice.cut], choice.cut == facts.num_slices
        encode_ms = 0.0 if whole else self._encode_ns[choice.codec] * math.prod(shape) / 1e6 * draw.uniform(0.9, 1.1)
        head_ms = prepare_ms + sum(slices_ms)
        await asyncio.sleep((head_ms + encode_ms) / 1e3)
        logits = np.zeros(10, np.float32) if whole else None
        payload = b"" if whole else bytes(self._size(facts, choice))
        return Computed(
            head.manifest,
            shape,
            payload,
            logits,
            head_ms,
            encode_ms,
            False,
            choice.cut,
            choice.codec,
            prepare_ms,
            slices_ms,
        )

    def _size(self, facts: ModelFacts, choice: Choice) -> int:
        """Of a payload; of the codecs that go by the image drawn."""
        size = payload_bytes(facts, choice, View((), size_ratio=self._size_ratio)) or 0
        if choice in facts.calibrated:
            size *= math.exp(self._draw.gauss(0.0, SIZE_SPREAD))
        return round(size)


async def _load(served: ServedModel, config: DeviceConfig, get: object) -> Any:
    return _Numbers(served, served.num_slices if config.alone else config.cut)


_FACTS: dict[str, ModelFacts] = {}


def facts_of(served: ServedModel | None) -> ModelFacts:
    """`ModelFacts.of`, once per model."""
    assert served is not None
    if served.manifest not in _FACTS:
        _FACTS[served.manifest] = ModelFacts.of(served)
    return _FACTS[served.manifest]


def costs_of(profile: str, num_slices: int) -> CostModel:
    """A shipped cost profile, cut into so many equal slices."""
    whole = load_cost_profile(profile)
    return whole.regroup(range(0, whole.num_slices + 1, whole.num_slices // num_slices))


def make_device(case: Case, server: Any, first: Choice, plan: PlanConfig | None, error: float) -> EmulatedDevice:
    """The device of a case, on its link, not started. Called on the loop."""
    board = case.board()
    config = DeviceConfig(
        name=case.name,
        group=case.kind,
        model=case.model,
        cut=first.cut,
        codec=first.codec,
        profile=believed(board, error, case.name),
        plan=plan,
        alone=TAIL if case.alone else "",
        cache_directory="",
        cache_max_bytes=1,
        retry=Retry(budget_s=1e6),
    )
    link = EmulatedLink(**case.link, seed=case.name, clock=VirtualClock())
    return EmulatedDevice(config, LinkedServer(server, link), board, ENCODE_NS, case.name, case.size_ratio())


def believed(true: Profile, sigma: float, seed: str) -> Profile:
    """The profile with errors of its own for preprocessing and every slice: log-normal, of relative size `sigma`."""
    draw = random.Random(f"{seed}/believed")

    def wrong(spread: Any) -> Any:
        return replace_mean(spread, spread.mean_ms * math.exp(draw.gauss(0.0, sigma)))

    assert true.preprocess_ms is not None
    return true.model_copy(
        update={"preprocess_ms": wrong(true.preprocess_ms), "slices_ms": tuple(wrong(s) for s in true.slices_ms)}
    )


def replace_mean(spread: Any, mean_ms: float) -> Any:
    """The same relative spread around another mean."""
    return spread.model_copy(update={"mean": mean_ms, "std": (spread.std or 0.0) * mean_ms / spread.mean_ms})
