"""What overhead.py compares: two echoes, and the TailServer on an accelerator that takes no time."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from ray import serve

from deployments import app
from deployments.replica.http_ingress import Ingress
from deployments.scheduling.scheduler import Resident, Row, Step
from slicer.common.ray_serve_env import environment
from slicer.protocol.messages import Answer, Reply, Request, ServedModel, Timings

SHAPE = (3, 112, 112)  # 150,528 bytes of float32
CLASSES = 10
NAMES = ("bare_echo", "echo", "tail")


class NoCompute:
    """An executor whose steps take no time; it keeps nothing of a row but its key."""

    emulated = "no compute"

    def __init__(self, device: str = "cpu", threads: int | None = None) -> None:
        self._logits = np.zeros(CLASSES, np.float32)

    def load(self, model: str, sliced: object, residents: dict[object, Resident]) -> None:
        del model, sliced, residents

    def put(self, model: str, rows: object, batch: object) -> None:
        del model, rows, batch

    def run(self, step: Step) -> float:
        del step
        return 0.0

    def take(self, rows: list[Row]) -> Any:
        return np.broadcast_to(self._logits, (len(rows), CLASSES))

    def drop(self, row: Row) -> None:
        del row

    def memory(self) -> dict[str, int]:
        return {"weights": 0}


class Toy(torch.nn.Sequential):
    """A model whose input is 151 kB, with four slices' worth of layers that nobody runs."""

    def __init__(self, pretrained_cfg_overlay: object = None) -> None:
        super().__init__(torch.nn.Flatten(), torch.nn.Linear(3 * 112 * 112, 4))
        for _ in range(4):
            self.append(torch.nn.Linear(4, 4))


class Bare:
    """An echo: the answer of a request is made on the spot."""

    async def infer_parcel(self, requests: list[Request]) -> list[Answer]:
        return [_reply(request) for request in requests]

    async def describe(self, model: str) -> ServedModel:
        return ServedModel(model, "echo", "{}", 1, (0,), "echo", ("fp32",))

    async def shard(self, sha256: str, offset: int, length: int) -> bytes:
        raise KeyError(sha256)

    async def check_health(self) -> None: ...

    def __serve_build_asgi_app__(self) -> Ingress:
        return Ingress(self)


class Echo(Bare):
    """The echo behind the same ``@serve.batch`` and a hop to a thread and back."""

    def __init__(self) -> None:
        thread = ThreadPoolExecutor(1)

        async def batched(parcels: list[list[Request]]) -> list[list[Answer]]:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(thread, lambda: [[_reply(one) for one in parcel] for parcel in parcels])

        self._batched = serve.batch(max_batch_size=32, batch_wait_timeout_s=0.0, max_concurrent_batches=2)(batched)

    async def infer_parcel(self, requests: list[Request]) -> list[Answer]:
        answers: list[Answer] = await self._batched(requests)
        return answers


def _reply(request: Request) -> Answer:
    return Reply(request.id, Timings(0.0, 0.0, 0.0, 0.0, (1,)), ((len(request.payload), 0.0),))


def start(name: str, http: dict[str, Any]) -> None:
    """Start one of the three, with the same settings for all."""
    if name == "tail":
        model = {"name": "toy", "model": "benchmarks.serving.servers:Toy", "num_slices": 4, "entries": [0]}
        config = {
            "models": [
                {
                    **model,
                    "kwargs": {"pretrained_cfg_overlay": {"input_size": list(SHAPE)}},
                    "strategy": "per_tail_shared",
                }
            ],
            "executor": "benchmarks.serving.servers:NoCompute",
            "torch_threads": 1,
            "http": http,
        }
        app.run(config, name=name)
    else:
        kind = {"bare_echo": Bare, "echo": Echo}[name]
        options = {"num_cpus": 1, "runtime_env": {"env_vars": environment("replica", http=True)}}
        deployment = serve.deployment(
            serve.ingress()(kind), name=name, max_ongoing_requests=4096, logging_config=app.LOGGING
        )
        serve.run(deployment.options(ray_actor_options=options).bind(), name=name, route_prefix=f"/{name}")
