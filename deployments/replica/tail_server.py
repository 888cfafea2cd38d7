"""The Serve deployment that is front and core in one process: one replica, one accelerator, one backend.

What small servers use, and strategies that drive the accelerator past the engine. Larger ones have `Front` and
`CoreReplica` instead.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from typing_extensions import override

from deployments.config import HttpAddress, ServerConfig, parse_config
from deployments.core.accelerator import executor_of, usable
from deployments.core.hosting import host_all
from deployments.core.status import CoreStatus
from deployments.ipc.hosted_model import HostedModel
from deployments.replica.admission.calls import CheckedRequest, Result
from deployments.replica.backends.backend import Backend
from deployments.replica.backends.engine_backend import EngineBackend
from deployments.replica.identity import identify, node_id
from deployments.replica.logs import log_with_serve
from deployments.replica.metrics import AcceleratorMetrics, Watch
from deployments.replica.request_server import RequestServer
from deployments.scheduling.registry import find_strategy
from slicer.common.thread_timing import hand_over_soon
from slicer.core.protocol.messages import Answer, Request


class TailServer(RequestServer):
    """Hosts the models of one application on one accelerator. All methods run on the replica's event loop.

    Args:
        config: a `ServerConfig` as a mapping (Serve pickles it).
        device: ``cuda`` or ``cpu``, as `deployments.placing.placement` decided.
        note: what placement wants a person to know; repeated in `status`.
        http: where the application's HTTP port is; None: it has none.
    """

    def __init__(self, config: dict[str, Any], device: str, note: str = "", http: HttpAddress | None = None) -> None:
        self._config: ServerConfig = parse_config(config)
        hand_over_soon()
        if ray.is_initialized():  # in a replica, not in a test's process
            log_with_serve()
        identity = identify(http, self._config.token, note)
        super().__init__(identity, token=self._config.token, http=self._config.http)
        shard_dir = Path(self._config.shard_dir).expanduser()
        hosted = host_all(self._config.models, shard_dir)
        self._models = {model.name: model for model, _ in hosted}
        for model in self._models.values():
            if model.takes_images:
                _ = model.preprocess  # so that the first image need not wait for it
        device, notes = usable(device)
        executor = executor_of(self._config, device)
        strategy = find_strategy(self._config.models[0].strategy)
        make_backend = EngineBackend if strategy.in_engine else strategy.made_by
        self._backend: Backend = make_backend(hosted, executor, self._config)
        self._core = CoreStatus(
            identity.name,
            node_id(),
            device,
            [*identity.notes, *notes],
            list(self._models.values()),
            executor,
            self._backend.counters,
        )
        self._watch = Watch(self._counted, AcceleratorMetrics(self._core.read))
        if ray.is_initialized():  # in a replica, not in a test's process
            gc.collect()
            gc.freeze()  # what is here stays; a full collection would walk all of it in the middle of a step

    @property
    @override
    def models(self) -> Mapping[str, HostedModel]:
        return self._models

    @property
    @override
    def emulated(self) -> tuple[str, ...]:
        return self._core.emulated

    @override
    async def run(self, requests: Sequence[CheckedRequest]) -> list[Result]:
        return await self._backend.infer(requests)

    @override
    async def infer_parcel(self, requests: list[Request]) -> list[Answer]:
        self._watch.start()
        return await super().infer_parcel(requests)

    @override
    async def status(self) -> dict[str, Any]:
        read = await asyncio.get_running_loop().run_in_executor(None, self._core.read)
        return {**read, "url": self._identity.url, "grpc": self._identity.grpc}

    @override
    async def steps(self, since_s: float = 0.0) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(None, self._core.steps, self._backend.steps(), since_s)

    @override
    async def check_health(self) -> None:
        await self._backend.healthy()

    def close(self) -> None:
        """Rows that wait are told `stopped`, and the backend's threads end. Calling it again is harmless."""
        self._watch.stop()
        self._backend.close()

    def __del__(self) -> None:
        """Serve calls this at shutdown; a constructor that failed half-way has nothing to close."""
        if hasattr(self, "_watch"):
            self.close()
