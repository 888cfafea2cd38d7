"""A planning device is offered codecs with tables only where its runtime can fetch them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.planner.cases import served
from slicer.core.common.clock import Clock
from slicer.core.device.cut_control import CutControl
from slicer.core.device.turn import Turn
from slicer.core.errors import ServerError
from slicer.core.planning.cut_planner import Choice
from slicer.core.planning.settings import Plan
from slicer.core.protocol.messages import Answer, Request, ServedModel
from slicer.profiles.device_profile import NATIVE

SERVED = served("vit_small_patch16_224")


class Server:
    async def describe(self, model: str) -> ServedModel:
        return SERVED

    async def infer(self, requests: Sequence[Request]) -> list[Answer]:
        raise ServerError("probes go unanswered here")


class Runtime:
    """All slices, and no more."""

    manifest, num_slices, loaded = SERVED.manifest, 4, 4

    async def trim(self, count: int) -> None:
        """Nothing to give back."""


class WithTables(Runtime):
    async def prepare(self, choice: Choice) -> None:
        """They are there."""


@pytest.mark.parametrize(("runtime", "offered"), [(Runtime(), False), (WithTables(), True)])
def test_codecs_with_tables_are_for_runtimes_that_prepare_them(runtime: Any, offered: bool) -> None:
    plan = Plan(agreement=0.9)
    told: Any = SimpleNamespace(
        name="d", model="m", cut=0, codec="fp32", alone="", seed=0, outputs=(), plan=plan, profile=NATIVE
    )

    async def codecs() -> set[str]:
        server: Any = Server()
        control = CutControl(told, Clock(), lambda: server, Turn(), "t")
        control.use(SERVED, runtime)
        await control.begin()
        assert control.planner is not None
        return {one.choice.codec for one in control.planner.estimates()}

    found = asyncio.run(codecs())
    assert {"int8", "webp-90"} <= found
    assert any(name.startswith("transform-") for name in found) is offered
