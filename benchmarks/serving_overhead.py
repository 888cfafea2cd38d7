"""What serving costs beside the work itself: our server against an echo, by both ways in, in the same run.

Three deployments, one after another, on a Ray of their own, with an accelerator that takes no time: `bare` is an echo;
`echo` answers from behind the same ``@serve.batch`` and a hop to another thread and back; `tail` is the TailServer with
all it does (check, admission, engine, reply). Requests are 151 kB, alone and in parcels
of 8. Ports, settings and transports are those of the project. The last line is one JSON document.

    python benchmarks/serving_overhead.py [--seconds 5] [--clients 32] [--repeats 3]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's default, nice 15, would measure what else runs

from slicer.serve_settings import environment  # noqa: E402

os.environ.update(environment("device"))  # this process is the client: Serve reads them when it is imported

import numpy as np  # noqa: E402
import ray  # noqa: E402
import torch  # noqa: E402
from ray import serve  # noqa: E402

from actors.http_transport import HttpTransport  # noqa: E402
from actors.transport import ServeTransport  # noqa: E402
from deployments import app  # noqa: E402
from deployments.engine import Engine  # noqa: E402
from deployments.ingress import Ingress  # noqa: E402
from deployments.policies import make_policy  # noqa: E402
from deployments.scheduler import Resident, Row, Scheduler, Step  # noqa: E402
from slicer.wire import Answer, Reply, Request, ServedModel, Timings  # noqa: E402

PORT = int(os.environ.get("HEADTAIL_BENCH_PORT", "8145"))
SHAPE = (3, 112, 112)  # 150,528 bytes of float32
PARCEL = 8
CLASSES = 10
HTTP = {"enabled": True, "host": "127.0.0.1", "port": PORT}


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

    async def infer(self, request: Request) -> Answer:
        return Reply(request.id, Timings(0.0, 0.0, 0.0, 0.0, (1,)), ((len(request.payload), 0.0),))

    async def infer_parcel(self, requests: list[Request]) -> list[Answer]:
        return list(await asyncio.gather(*(self.infer(request) for request in requests)))

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

        async def batched(requests: list[Request]) -> list[Answer]:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(thread, lambda: [_reply(request) for request in requests])

        self._batched = serve.batch(max_batch_size=32, batch_wait_timeout_s=0.0, max_concurrent_batches=2)(batched)

    async def infer(self, request: Request) -> Answer:
        return await self._batched(request)


def _reply(request: Request) -> Answer:
    return Reply(request.id, Timings(0.0, 0.0, 0.0, 0.0, (1,)), ((len(request.payload), 0.0),))


def start(name: str) -> None:
    """Start one of the three."""
    if name == "tail":
        model = {"name": "toy", "model": "benchmarks.serving_overhead:Toy", "num_slices": 4, "entries": [0]}
        config = {
            "models": [
                {
                    **model,
                    "kwargs": {"pretrained_cfg_overlay": {"input_size": list(SHAPE)}},
                    "strategy": "per_tail_shared",
                }
            ],
            "executor": "benchmarks.serving_overhead:NoCompute",
            "torch_threads": 1,
            "http": HTTP,
        }
        app.run(config, name=name)
    else:
        kind = {"bare": Bare, "echo": Echo}[name]
        options = {"num_cpus": 1, "runtime_env": {"env_vars": environment("replica", http=True)}}
        deployment = serve.deployment(serve.ingress()(kind), name=name, max_ongoing_requests=4096)
        serve.run(deployment.options(ray_actor_options=options).bind(), name=name, route_prefix=f"/{name}")


async def measure(transport: Any, manifest: str, seconds: float, clients: int, repeats: int) -> dict[str, float]:
    """Requests/s alone and in parcels of 8 (median of repeats), and the latency of one client alone."""
    payload = np.random.default_rng(0).random(SHAPE, np.float32).tobytes()
    request = Request("r", "toy", manifest, 0, "fp32", SHAPE, payload, top_k=1)

    async def alone() -> None:
        assert isinstance(await transport.infer(request), Reply)

    async def parcel() -> None:
        answers = await transport.infer_many([request] * PARCEL)
        assert all(isinstance(answer, Reply) for answer in answers)

    until_s = time.monotonic() + 30
    while True:  # HAProxy learns of a new application a moment after Serve says that it runs
        try:
            await alone()
            break
        except Exception:
            if time.monotonic() > until_s:
                raise
            await asyncio.sleep(0.1)
    await rate(alone, 1.0, clients)
    latencies = []
    for _ in range(200):
        began = time.perf_counter()
        await alone()
        latencies.append((time.perf_counter() - began) * 1e3)
    return {
        "rps": statistics.median([await rate(alone, seconds, clients) for _ in range(repeats)]),
        "rps_parcels": PARCEL
        * statistics.median([await rate(parcel, seconds, max(clients // PARCEL, 2)) for _ in range(repeats)]),
        "p50_ms": statistics.median(latencies),
    }


async def rate(call: Any, seconds: float, clients: int) -> float:
    """Calls per second of so many clients, each with one call open."""
    done = 0
    began = time.perf_counter()

    async def client() -> None:
        nonlocal done
        while time.perf_counter() - began < seconds:
            await call()
            done += 1

    await asyncio.gather(*(client() for _ in range(clients)))
    return done / (time.perf_counter() - began)


def engine_us(rows: int, steps_of: int = 12) -> float:
    """Microseconds of scheduler, ledger and hand-over per request, `steps_of` boundaries, batches of `rows`."""
    policy = make_policy("per_slice", model="toy", num_slices=steps_of, max_batch=rows)
    engine = Engine(Scheduler({"toy": policy}), NoCompute(), lambda outcomes: None, max_rows=1 << 20)  # type: ignore[arg-type]
    batch, requests = np.zeros((rows, 1), np.float32), 0
    began = time.perf_counter()
    while time.perf_counter() - began < 2.0:
        now = time.monotonic()
        engine.submit("toy", 0, batch, [now] * rows, [None] * rows)
        while engine.step_once() is not None:
            pass
        requests += rows
    return (time.perf_counter() - began) / requests * 1e6


async def run(args: argparse.Namespace, ways: dict[str, dict[str, float]]) -> None:
    """All measurements, on one event loop: the handle's router lives on the loop that it was made on."""
    loop = asyncio.get_running_loop()
    handles = []
    for name in ("bare", "echo", "tail"):
        await loop.run_in_executor(None, start, name)
        handle = ServeTransport(name)
        handles.append(handle)
        manifest = (await handle.describe("toy")).manifest
        http = HttpTransport(f"http://127.0.0.1:{PORT}/{name}")
        for way, transport in (("handle", handle), ("http", http)):
            got = await measure(transport, manifest, args.seconds, args.clients, args.repeats)
            prefix = "bare_echo" if name == "bare" else name
            ways[way][f"{prefix}_rps"] = got["rps"]
            ways[way][f"{prefix}_rps_parcels_of_8"] = got["rps_parcels"]
            ways[way][f"{prefix}_p50_ms_alone"] = got["p50_ms"]
            print(f"{name:5} {way:7} {got['rps']:8.0f}/s  parcels {got['rps_parcels']:8.0f}/s  {got['p50_ms']:.2f} ms")
        await http.close()
        await loop.run_in_executor(None, serve.delete, name)
    for handle in handles:
        await handle.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--engine-rows", type=int, default=4, help="rows per step for engine_us_per_request")
    args = parser.parse_args()
    torch.set_num_threads(1)
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="WARNING")
    ways: dict[str, dict[str, float]] = {"handle": {}, "http": {}}
    try:
        serve.start(
            proxy_location="EveryNode",
            http_options={"host": HTTP["host"], "port": PORT},
            controller_options={"runtime_env": {"env_vars": environment("controller", http=True)}},
        )
        asyncio.run(run(args, ways))
    finally:
        # Not serve.shutdown(): it calls the handles' routers, whose event loop has ended. This Ray is our own anyway.
        ray.shutdown()
    faster = max(ways, key=lambda way: ways[way]["bare_echo_rps"])
    document = {
        **ways[faster],
        "p50_ms_alone": ways[faster]["tail_p50_ms_alone"],
        "way": faster,
        "engine_us_per_request": engine_us(args.engine_rows),
        "engine_rows_per_step": args.engine_rows,
        "ways": ways,
        "emulated": ["executor without compute"],
    }
    print(json.dumps(document))


if __name__ == "__main__":
    main()
