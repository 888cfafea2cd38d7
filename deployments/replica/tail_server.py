"""The Serve deployment that runs tails: one replica, one accelerator, one backend for all its models.

A request's way through it reads top to bottom in `TailServer.infer_parcel`: check, admit, wait for the row's own
outcome, reply. One request is a parcel of one.
"""

from __future__ import annotations

import asyncio
import gc
import os
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import ray

from deployments.config import HttpAddress, ServerConfig, parse_config
from deployments.executors.registry import make_executor
from deployments.executors.torch_common import resident_set_bytes
from deployments.replica.admission.calls import CheckedRequest
from deployments.replica.backends.backend import Backend
from deployments.replica.backends.engine_backend import EngineBackend
from deployments.replica.hosted_model import host
from deployments.replica.http_ingress import Ingress
from deployments.replica.idempotency import Answered
from deployments.replica.identity import identify, node_id
from deployments.replica.logs import log_with_serve
from deployments.replica.metrics import Telemetry
from deployments.replica.replies import Replies
from deployments.scheduling.registry import find_strategy
from slicer.common.nvml import NvmlGpu
from slicer.common.thread_timing import hand_over_soon
from slicer.common.version import headtail_version
from slicer.protocol.messages import Answer, Refusal, Reply, Request, ServedModel

#: A device reads a shard in pieces of at most this much, below Serve's gRPC message limit.
MAX_SHARD_READ_BYTES = 4 << 20


class TailServer:
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
        self._identity = identify(device, http, self._config.token, note)
        shard_dir = Path(self._config.shard_dir).expanduser()
        hosted = [host(model, shard_dir) for model in self._config.models]
        self._models = {model.name: model for model, _ in hosted}
        self._replies = Replies(self._models.values(), self._identity.name)
        self._answered = Answered()
        self._nvml = NvmlGpu()
        self._telemetry = Telemetry()
        self._executor = make_executor(
            self._config.executor,
            device=self._identity.device,
            threads=self._config.torch_threads,
            options=self._executor_options(),
        )
        strategy = find_strategy(self._config.models[0].strategy)
        backend = EngineBackend if strategy.in_engine else strategy.made_by
        self._backend: Backend = backend(hosted, self._executor, self._config)
        if ray.is_initialized():  # in a replica, not in a test's process
            gc.collect()
            gc.freeze()  # what is here stays; a full collection would walk all of it in the middle of a step

    def _executor_options(self) -> dict[str, Any]:
        """Those of the configuration; a CUDA executor captures graphs up to the models' largest batch."""
        options = dict(self._config.executor_options)
        if self._config.executor == "torch" and self._identity.device == "cuda":
            options.setdefault("max_batch", max(model.max_batch for model in self._config.models))
        return options

    async def infer_parcel(self, requests: list[Request]) -> list[Answer]:
        """Several requests in one call, in order; each is answered for itself, all when the last one is.

        Never raises for a bad request: a refusal says what is wrong with it.
        """
        arrived_s = time.monotonic()
        self._telemetry.ensure_watch(self._status)
        answers: dict[int, Answer] = {}
        good: dict[int, CheckedRequest] = {}
        for index, request in enumerate(requests):
            model = self._models.get(request.model)
            if model is None:
                answers[index] = self._replies.unknown(request.id, request.model)
            elif (refusal := model.check(request)) is not None:
                answers[index] = refusal
            else:
                good[index] = CheckedRequest(model, request, arrived_s)
        if good:
            answers.update(await self._run(good))
        for index, request in enumerate(requests):
            if request.model in self._models:
                self._telemetry.count(request.model, request.cut, answers[index])
        return [answers[index] for index in range(len(requests))]

    async def _run(self, good: dict[int, CheckedRequest]) -> dict[int, Answer]:
        """Checked requests: each runs, or gets the answer of its earlier sending."""
        answers: dict[int, Answer] = {}
        while good:
            new: dict[int, CheckedRequest] = {}
            at_work: dict[int, asyncio.Future[Answer | None]] = {}
            for index, checked in good.items():
                earlier = self._answered.begin(checked.request)
                if earlier is None:
                    new[index] = checked
                elif isinstance(earlier, Reply):
                    answers[index] = earlier
                else:
                    at_work[index] = earlier
            if new:
                answers.update(await self._run_new(new))
            for index, future in at_work.items():
                if isinstance(answer := await future, Reply):
                    answers[index] = answer
            good = {index: checked for index, checked in good.items() if index not in answers}
        return answers

    async def _run_new(self, good: dict[int, CheckedRequest]) -> dict[int, Answer]:
        """Through the backend."""
        answers: dict[int, Answer] = {}
        parcel = list(good.values())
        try:
            results = await self._backend.infer(parcel)
            for index, checked, result in zip(good, parcel, results, strict=True):
                answers[index] = result if isinstance(result, Refusal) else self._replies.answer(checked, *result)
        finally:
            for index, checked in good.items():
                self._answered.end(checked.request, answers.get(index))
        return answers

    def __serve_build_asgi_app__(self) -> Ingress:
        """The HTTP way in; Serve asks for it where `app.build` put `serve.ingress` around this class."""
        return Ingress(self, token=self._config.token, max_body_bytes=self._config.http.max_body_bytes)

    async def describe(self, model: str) -> ServedModel | Refusal:
        """What a device needs to know to join with `model`."""
        hosted = self._models.get(model)
        if hosted is None:
            return self._replies.unknown("", model)
        url = self._identity.url
        return replace(hosted.describe(self._emulated()), url=url, token=self._config.token if url else "")

    async def shard(self, sha256: str, offset: int, length: int) -> bytes:
        """A piece of a slice's file.

        Raises:
            KeyError: no model of this application has a file of that digest.
            ValueError: `offset` lies past its end.
        """
        length = min(length, MAX_SHARD_READ_BYTES)
        loop = asyncio.get_running_loop()
        for model in self._models.values():
            piece = await loop.run_in_executor(None, model.read_shard, sha256, offset, length)
            if piece is not None:
                return piece
        raise KeyError(f"no model of this application has a shard {sha256[:80]}; ask describe() again")

    async def status(self) -> dict[str, Any]:
        """What this replica is and has done; plain values, for the load job, the doctor and people."""
        return await asyncio.get_running_loop().run_in_executor(None, self._status)

    async def steps(self, since_s: float = 0.0) -> dict[str, Any]:
        """The last steps of the accelerator, as many as are kept, of those that ended after `since_s` of uptime.

        Plain values, for the load job: ``replica``, and ``steps`` as `TracedStep` has them, seconds of uptime.
        """
        started_s = self._identity.started_s

        def found() -> list[dict[str, Any]]:
            kept = (step for step in self._backend.steps() if step.ended_s - started_s >= since_s)
            return [
                asdict(replace(step, began_s=step.began_s - started_s, ended_s=step.ended_s - started_s))
                for step in kept
            ]

        return {"replica": self._identity.name, "steps": await asyncio.get_running_loop().run_in_executor(None, found)}

    def _status(self) -> dict[str, Any]:
        counters = asdict(self._backend.counters())
        memory = dict(self._executor.memory())
        if resident := resident_set_bytes():  # of any executor, also one that does not say
            memory["process"] = resident
        return {
            "headtail": headtail_version(),
            "replica": self._identity.name,
            "node": node_id(),
            "pid": os.getpid(),
            "accelerator": self._identity.device,
            "url": self._identity.url,
            "emulated": list(self._emulated()),
            "notes": [*self._identity.notes, *self._executor.notes],
            "models": {
                model.name: {
                    "strategy": model.config.strategy,
                    "max_batch": model.config.max_batch,
                    "num_slices": model.num_slices,
                    "entries": list(model.entries),
                    "manifest": model.manifest.digest,
                }
                for model in self._models.values()
            },
            "uptime_s": time.monotonic() - self._identity.started_s,
            "memory": memory,
            "nvml": self._nvml.read(),
            **counters,
        }

    def _emulated(self) -> tuple[str, ...]:
        return (self._executor.emulated,) if self._executor.emulated else ()

    async def check_health(self) -> None:
        """Serve restarts the replica when this raises."""
        await self._backend.healthy()

    def close(self) -> None:
        """Rows that wait are told `stopped`, and the backend's threads end. Calling it again is harmless."""
        self._telemetry.stop()
        self._backend.close()

    def __del__(self) -> None:
        """Serve calls this at shutdown; a constructor that failed half-way has nothing to close."""
        if hasattr(self, "_backend"):
            self.close()
