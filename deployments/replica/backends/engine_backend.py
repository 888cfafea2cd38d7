"""The backend of every strategy that runs in the engine, which here has a thread of this process."""

from __future__ import annotations

from collections.abc import Sequence

from typing_extensions import override

from deployments.config import ServerConfig
from deployments.core.hosting import Hosted
from deployments.core.loaded_engine import LoadedEngine
from deployments.core.status import Counters
from deployments.engine.trace import TracedStep
from deployments.executors.base import Executor
from deployments.ipc.local_sink import LocalSink
from deployments.ipc.row_sink import Deliver
from deployments.replica.admission.admission import Admission
from deployments.replica.admission.calls import CheckedRequest, Result
from deployments.replica.backends.backend import Backend


class EngineBackend(Backend):
    """Admission, and an engine beside it.

    Args:
        hosted: the models and their weights; emptied as the executor loads them, so that none is held twice.
        executor: not loaded; the engine's from now on.

    Attributes:
        admission: the way to the engine.
        engine: what runs the rows.

    Raises:
        HeadTailError: a strategy, an option or a cost profile is wrong, or a model does not run.
    """

    def __init__(self, hosted: list[Hosted], executor: Executor, config: ServerConfig) -> None:
        self._loaded = loaded = LoadedEngine(hosted, executor, config)

        def make_sink(deliver: Deliver) -> LocalSink:
            return LocalSink(loaded.make, deliver, executor.receiving)

        self.admission = Admission(
            make_sink,
            most=config.admission_batch,
            threads=config.admission_concurrency,
            max_rows=config.max_queue_rows,
            max_bytes=config.max_queue_bytes,
        )
        self.engine = self.admission.sink.engine
        loaded.start(self.engine)

    async def infer(self, requests: Sequence[CheckedRequest]) -> list[Result]:
        """Through admission into the engine; see `Admission.infer`."""
        return await self.admission.infer(requests)

    def counters(self) -> Counters:
        """The engine's."""
        return Counters.of(self.engine.stats())

    @override
    def steps(self) -> list[TracedStep]:
        return self.engine.trace.steps()

    @override
    async def healthy(self) -> None:
        if not self.engine.alive:
            raise RuntimeError("the engine's thread has died; see the replica's log for its exception")
        if not await self.admission.healthy():
            raise RuntimeError("the admission loop has died")

    def close(self) -> None:
        """Rows that wait are told `stopped`, the engine's thread ends, and the tables are saved as they are now."""
        self._loaded.stop()
