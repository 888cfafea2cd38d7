"""The Serve deployment that runs tails: one replica, one accelerator, one engine for all its models.

A request's way through it reads top to bottom in `TailServer.infer_parcel`: check, admit, wait for the row's own
outcome, reply. One request is a parcel of one.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch

from deployments.config import ServerConfig, parse_config
from deployments.costs.cost_model import CostModel
from deployments.costs.profile_files import load_profile_of, save_profiles
from deployments.engine.calibrate import measure
from deployments.engine.engine import Outcome
from deployments.engine.pipelined import engine_class
from deployments.engine.warm_up import warm_up
from deployments.executors.enqueuing import Enqueuing
from deployments.executors.torch_executor import make_executor, resident_set_bytes
from deployments.replica.admission import Admission
from deployments.replica.calls import Arrival
from deployments.replica.hosted_model import HostedModel
from deployments.replica.http_ingress import Ingress
from deployments.replica.idempotency import Answered
from deployments.replica.identity import http_notes, http_url, node_id, replica_name
from deployments.replica.load_report import LoadReport
from deployments.replica.logs import log_with_serve
from deployments.replica.metrics import Nvml, Telemetry
from deployments.replica.serve_batch import ServeBatch
from deployments.scheduling.registry import find_strategy
from deployments.scheduling.scheduler import Scheduler
from slicer.common.thread_timing import hand_over_soon
from slicer.common.top_k import top_k
from slicer.common.version import headtail_version
from slicer.errors import ConfigError
from slicer.protocol.messages import Answer, Refusal, Reply, Request, ServedModel, Timings

logger = logging.getLogger("headtail.server")

#: A device reads a shard in pieces of at most this much, below Serve's gRPC message limit.
MAX_SHARD_READ_BYTES = 4 << 20

#: How long a stop waits for the running step; below Serve's graceful_shutdown_timeout_s, which ends the process.
STOP_TIMEOUT_S = 5.0


class TailServer:
    """Hosts the models of one application on one accelerator. All methods run on the replica's event loop.

    Args:
        config: a `ServerConfig` as a mapping (Serve pickles it).
        device: ``cuda`` or ``cpu``, as `deployments.placing.placement` decided.
        note: what placement wants a person to know; repeated in `status`.
    """

    def __init__(self, config: dict[str, Any], device: str, note: str = "") -> None:
        self._config: ServerConfig = parse_config(config)
        hand_over_soon()
        if ray.is_initialized():  # in a replica, not in a test's process
            log_with_serve()
        self._started_s = time.monotonic()
        self._notes = [note] if note else []
        self._device = self._usable(device)
        self._name = replica_name()
        self._url = http_url(self._config)
        self._notes += http_notes(self._config, self._url)
        shard_dir = Path(self._config.shard_dir).expanduser()
        self._models = {model.name: HostedModel(model, shard_dir) for model in self._config.models}
        self._loads = {name: LoadReport(m.entries, m.num_slices) for name, m in self._models.items()}
        self._answered = Answered()
        self._nvml = Nvml()
        self._telemetry = Telemetry()
        self._watch: asyncio.Task[None] | None = None
        self._naive: ServeBatch | None = None
        self._executor = make_executor(
            self._config.executor,
            device=self._device,
            threads=self._config.torch_threads,
            options=self._executor_options(),
        )
        self._emulated: tuple[str, ...] = (self._executor.emulated,) if self._executor.emulated else ()
        if self._config.models[0].strategy == "serve_batch":
            self._naive = ServeBatch(
                list(self._models.values()),
                executor=self._executor,
                batch_wait_timeout_s=self._config.serve_batch_wait_timeout_s,
                concurrency=self._config.serve_batch_concurrency,
            )
        else:
            self._start_engine()
        if ray.is_initialized():  # in a replica, not in a test's process
            gc.collect()
            gc.freeze()  # what is here stays; a full collection would walk all of it in the middle of a step

    def _usable(self, device: str) -> str:
        if device == "cuda" and not torch.cuda.is_available():
            self._notes.append("this node declares a GPU but torch finds no CUDA there, so the server uses the CPU")
            logger.warning(self._notes[-1])
            return "cpu"
        return device

    def _executor_options(self) -> dict[str, Any]:
        """Those of the configuration; a CUDA executor captures graphs up to the models' largest batch."""
        options = dict(self._config.executor_options)
        if self._config.executor == "torch" and self._device == "cuda":
            options.setdefault("max_batch", max(model.max_batch for model in self._config.models))
        return options

    def _start_engine(self) -> None:
        config = self._config
        policies = {}
        costs: dict[str, CostModel] = {}
        for model in self._models.values():
            strategy = find_strategy(model.config.strategy)
            if strategy.needs_costs:
                costs[model.name] = self._table_of(model)
                costs[model.name].overlapped = isinstance(self._executor, Enqueuing)
            policy = strategy.policy(
                model=model.name,
                num_slices=model.num_slices,
                max_batch=model.config.max_batch,
                options=model.config.options,
                costs=costs.get(model.name),
            )
            self._executor.load(model.name, model.sliced, policy.residents(model.entries))
            model.receiving = getattr(self._executor, "receiving", model.receiving)
            model.release()
            policies[model.name] = policy
        shapes = {name: {entry: model.shapes[entry] for entry in model.entries} for name, model in self._models.items()}
        warm_up(Scheduler(policies), self._executor, shapes)
        self._costs = costs
        for name, table in costs.items():
            if self._models[name].config.profile:
                continue  # known already
            first = self._models[name].entries[0]
            measure(table, self._executor, model=name, entry=first, shape=shapes[name][first])
        self._engine = engine_class(self._executor)(
            Scheduler(policies), self._executor, self._deliver, max_rows=config.max_queue_rows
        )
        self._admission = Admission(
            self._engine,
            most=config.admission_batch,
            threads=config.admission_concurrency,
            max_rows=config.max_queue_rows,
            max_bytes=config.max_queue_bytes,
        )
        self._save_tables()
        self._engine.start()

    def _table_of(self, model: HostedModel) -> CostModel:
        """The saved table that the configuration names, or an empty one."""
        if model.config.profile is not None:
            return load_profile_of(model.name, model.num_slices, model.config.profile)
        padded = bool(getattr(self._executor, "padded", False))  # graphs run the next larger batch size
        return CostModel.unknown(model.num_slices, model.config.max_batch, padded=padded)

    def _save_tables(self) -> None:
        if self._config.profile_dir is not None:
            save_profiles(self._costs, Path(self._config.profile_dir).expanduser())

    def _deliver(self, outcomes: list[Outcome]) -> None:
        self._admission.deliver(outcomes)

    async def infer(self, request: Request) -> Answer:
        """One request to its answer. Never raises for a bad request: a refusal says what is wrong with it."""
        return (await self.infer_parcel([request]))[0]

    async def infer_parcel(self, requests: list[Request]) -> list[Answer]:
        """Several requests in one call, in order; each is answered for itself, all when the last one is."""
        arrived_s = time.monotonic()
        self._ensure_watch()
        answers: dict[int, Answer] = {}
        if any(request.again for request in requests):
            answers = await self._answered_before(requests)
        arrivals: dict[int, Arrival] = {}
        for index, request in enumerate(requests):
            if index in answers:
                continue
            model = self._models.get(request.model)
            if model is None:
                answers[index] = self._unknown(request.id, request.model)
            elif (refusal := model.check(request)) is not None:
                answers[index] = refusal
            else:
                arrivals[index] = Arrival(model, request, arrived_s)
        if arrivals:
            answers.update(await self._run(arrivals))
        for index, request in enumerate(requests):
            if request.model in self._models:
                self._telemetry.count(request.model, request.cut, answers[index])
        return [answers[index] for index in range(len(requests))]

    async def _run(self, arrivals: dict[int, Arrival]) -> dict[int, Answer]:
        """Checked requests through the engine."""
        answers: dict[int, Answer] = {}
        parcel = list(arrivals.values())
        for arrival in parcel:
            self._answered.begin(arrival.request)
        try:
            results = await (self._naive or self._admission).infer(parcel)
            for index, arrival, result in zip(arrivals, parcel, results, strict=True):
                answers[index] = result if isinstance(result, Refusal) else self._answer(arrival, *result)
        finally:
            for index, arrival in arrivals.items():
                self._answered.end(arrival.request, answers.get(index))
        return answers

    async def _answered_before(self, requests: list[Request]) -> dict[int, Answer]:
        """Those that were sent before and are answered, or at work."""
        again = {index: self._answered.earlier(request) for index, request in enumerate(requests) if request.again}
        found = zip(again, await asyncio.gather(*again.values()), strict=True)
        return {index: answer for index, answer in found if isinstance(answer, Reply)}

    def _answer(self, arrival: Arrival, outcome: Outcome, admitted_s: float) -> Answer:
        request = arrival.request
        if outcome.logits is None:
            # A cancelled row's caller is gone, so nobody reads that answer.
            code = "stopped" if outcome.code in (None, "cancelled") else outcome.code
            return Refusal(request.id, code, outcome.message, self._name)
        timings = Timings(
            admission_ms=(admitted_s - arrival.arrived_s) * 1e3,
            queue_ms=outcome.queue_s * 1e3,
            execution_ms=outcome.execution_s * 1e3,
            total_ms=(time.monotonic() - arrival.arrived_s) * 1e3,
            rows_per_step=outcome.rows_per_step,
        )
        load = self._loads[request.model]
        load.observe(request.cut, timings.admission_ms + timings.queue_ms, timings.execution_ms)
        said = load.report() if request.wants_load else ()
        if request.top_k is None:
            logits = np.ascontiguousarray(outcome.logits, dtype="<f4")
            return Reply(request.id, timings, (), logits.tobytes(), logits.shape, self._name, said)
        return Reply(request.id, timings, top_k(outcome.logits, request.top_k), b"", (), self._name, said)

    def _unknown(self, request_id: str, model: str) -> Refusal:
        known = ", ".join(self._models)
        return Refusal(
            request_id, "unknown_model", f"model {model[:200]!r} is not served here; there is {known}", self._name
        )

    def __serve_build_asgi_app__(self) -> Ingress:
        """The HTTP way in; Serve asks for it where `app.build` put `serve.ingress` around this class."""
        return Ingress(self, token=self._config.token, max_body_bytes=self._config.http.max_body_bytes)

    async def describe(self, model: str) -> ServedModel | Refusal:
        """What a device needs to know to join with `model`."""
        hosted = self._models.get(model)
        if hosted is None:
            return self._unknown("", model)
        return replace(hosted.describe(self._emulated), url=self._url, token=self._config.token if self._url else "")

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

    def _status(self) -> dict[str, Any]:
        if self._naive is not None:
            naive = self._naive
            counters: dict[str, Any] = {
                "steps": naive.steps,
                "rows": naive.rows,
                "busy_s": naive.busy_s,
                "waiting": dict(naive.waiting),
                "rows_per_step": dict(naive.rows_per_step),
            }
        else:
            stats = self._engine.stats()
            counters = {
                "steps": stats.steps,
                "rows": stats.rows,
                "busy_s": stats.busy_s,
                "waiting": dict(stats.waiting),
                "rows_per_step": dict(stats.rows_per_step),
            }
        memory = dict(self._executor.memory())
        if resident := resident_set_bytes():  # of any executor, also one that does not say
            memory["process"] = resident
        return {
            "headtail": headtail_version(),
            "replica": self._name,
            "node": node_id(),
            "pid": os.getpid(),
            "accelerator": self._device,
            "url": self._url,
            "emulated": list(self._emulated),
            "notes": [*self._notes, *getattr(self._executor, "notes", ())],
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
            "uptime_s": time.monotonic() - self._started_s,
            "memory": memory,
            "nvml": self._nvml.read(),
            **counters,
        }

    def _ensure_watch(self) -> None:
        if self._watch is None:
            self._watch = asyncio.get_running_loop().create_task(self._telemetry.watch(self._status))

    async def check_health(self) -> None:
        """Serve restarts the replica when this raises."""
        if self._naive is None and not self._engine.alive:
            raise RuntimeError("the engine's thread has died; see the replica's log for its exception")
        if self._naive is None and not await self._admission.healthy():
            raise RuntimeError("the admission loop has died")

    def close(self) -> None:
        """Rows that wait are told `stopped`, and the engine's thread ends. Calling it again is harmless."""
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        if self._naive is None:
            self._engine.stop(STOP_TIMEOUT_S)
            with contextlib.suppress(OSError, ConfigError):  # a stop is not held up by a full disk
                self._save_tables()
        else:
            self._naive.close()

    def __del__(self) -> None:
        """Serve calls this at shutdown; a constructor that failed half-way has nothing to close."""
        if hasattr(self, "_admission") or getattr(self, "_naive", None) is not None:
            self.close()
