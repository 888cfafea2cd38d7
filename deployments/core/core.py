"""A core: owns one accelerator and all that runs on it, and is spoken to by fronts of its node only.

It needs no Ray: `deployments.core.deployment` puts it into a Serve replica. The engine's thread reads what fronts send,
schedules, launches and tells what ended; the event loop answers questions about it and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deployments.config import ServerConfig
from deployments.core.accelerator import executor_of, usable
from deployments.core.hosting import host_all
from deployments.core.loaded_engine import LoadedEngine
from deployments.core.status import CoreStatus, Counters
from deployments.ipc import queries, rendezvous
from deployments.ipc.socket_intake import SocketIntake
from slicer.common.thread_timing import hand_over_soon


class Core:
    """Made, it is loaded and warm; `serve` lets fronts find it.

    Args:
        config: of the application; `ServerConfig.models` are built here, which takes seconds to minutes.
        device: ``cuda`` or ``cpu``, as `deployments.placing.placement` decided.
        place: where fronts look for cores (`rendezvous.meeting_place`).
        name, node, notes: see `CoreStatus`.

    Attributes:
        status: what it says of itself.

    Raises:
        HeadTailError: a model cannot be built, cut or loaded, or does not run.
    """

    def __init__(
        self,
        config: ServerConfig,
        device: str,
        place: Path,
        *,
        name: str = "core",
        node: str = "",
        notes: Sequence[str] = (),
    ) -> None:
        hand_over_soon()
        device, more = usable(device)
        hosted = host_all(config.models, Path(config.shard_dir).expanduser())
        self._models = [model for model, _ in hosted]
        executor = executor_of(config, device)
        self._loaded = LoadedEngine(hosted, executor, config)
        self._folder = rendezvous.new_core(place)
        self._intake = SocketIntake(self._folder / rendezvous.ROWS, self._models, executor)
        self._engine = self._loaded.make(self._intake.deliver, self._intake)
        self._intake.serve(self._engine)
        self.status = CoreStatus(name, node, device, [*notes, *more], self._models, executor, self._counters)
        self._questions: asyncio.Server | None = None
        gc.collect()
        gc.freeze()  # what is here stays; a full collection would walk all of it in the middle of a step

    async def serve(self) -> None:
        """Start the engine, and let fronts find this core. Questions are answered on this event loop."""
        self._loaded.start(self._engine)
        self._questions = await queries.answer_questions(
            self._folder / rendezvous.QUESTIONS, {"status": self._status, "steps": self._steps}
        )
        rendezvous.publish(
            self._folder,
            {
                "name": self.status.name,
                "since_s": time.monotonic(),
                "emulated": list(self.status.emulated),
                "models": [model.facts() for model in self._models],
            },
        )

    def healthy(self) -> None:
        """Return if it can serve.

        Raises:
            RuntimeError: it cannot any more, and why.
        """
        if not self._engine.alive:
            raise RuntimeError("the engine's thread has died; see the replica's log for its exception")

    def close(self) -> None:
        """Rows that wait are told `stopped`, and fronts see the end of the connection. Calling it again is harmless."""
        with contextlib.suppress(OSError):
            (self._folder / rendezvous.FACTS).unlink(missing_ok=True)
        self._loaded.stop()
        if self._questions is not None:
            self._questions.close()
        rendezvous.forget(self._folder)

    def _counters(self) -> Counters:
        return Counters.of(self._engine.stats())

    async def _status(self) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        return {**await loop.run_in_executor(None, self.status.read), "fronts": self._intake.fronts}

    async def _steps(self, since_s: float) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(None, self.status.steps, self._engine.trace.steps(), since_s)
