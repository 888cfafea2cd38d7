"""What serving costs beside the work itself: our server against an echo, by both ways in, in the same run.

Three deployments side by side on a Ray of their own, with an accelerator that takes no time: `bare_echo` answers on the
spot; `echo` from behind the same ``@serve.batch`` and a hop to another thread and back, a parcel as one item; `tail` is
the TailServer with all it does (check, admission, engine, reply). Requests are 151 kB, alone and in parcels of 8. Then
vit_tiny's tail on the CPU behind the whole stack, against a bare torch loop over batches of the same sizes, and the
engine by itself. Ports, settings and transports are those of the project. The last line is one JSON document.

    python benchmarks/serving/overhead.py [--seconds 4] [--clients 32] [--repeats 5] [--out FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [sys.path[0], os.environ.get("PYTHONPATH")]))
os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's default, nice 15, would measure what else runs

from slicer.common.ray_serve_env import environment

os.environ.update(environment("device"))  # this process is the client: Serve reads them when it is imported

import numpy as np
import ray
import torch
from ray import serve

from actors.network.http_transport import HttpTransport
from actors.network.serve_transport import ServeTransport
from benchmarks.common.command_line import new_parser
from benchmarks.common.results import manifest, put, ratio_figures
from benchmarks.serving.servers import NAMES, SHAPE, NoCompute, start
from deployments import app
from deployments.costs.profile_files import load_cost_profile
from deployments.engine.engine import Engine
from deployments.scheduling.registry import make_policy
from deployments.scheduling.scheduler import Scheduler
from deployments.simulation.workloads import Workload, bound_rps
from deployments.testing.fakes import FakeClock
from slicer import slice_model
from slicer.common.comparison import paired_ratio
from slicer.protocol.messages import Reply, Request

PORT = int(os.environ.get("HEADTAIL_BENCH_PORT", "8145"))
PARCEL = 8
VIT = "vit_tiny_patch16_224"
WHAT = ("rps", "rps_parcels_of_8", "p50_ms_alone")
HTTP = {"enabled": True, "host": "127.0.0.1", "port": PORT}


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


def engine_us(strategy: str, requests: int = 4000) -> dict[str, float]:
    """Microseconds of engine, scheduler and ledger per request at half of the bound, and the mean rows per step there.

    The server's own engine in virtual time: launch-bound's table at its 12 boundaries, Poisson arrivals at entries
    0, 3, 6 and 9. Its executor computes nothing and moves the clock, so what passes on the wall is the engine.
    """
    costs = load_cost_profile("launch-bound")
    entries, clock = (0, 3, 6, 9), FakeClock()
    policy = make_policy(strategy, model="toy", num_slices=costs.num_slices, max_batch=32, costs=costs)
    executor = NoCompute()
    executor.run = lambda step: _advance(clock, costs.span_s(step.start, step.end, len(step.rows)))  # type: ignore[method-assign]
    ended: list[Any] = []
    engine = Engine(Scheduler({"toy": policy}), executor, ended.extend, clock=clock, max_rows=1 << 20)  # type: ignore[arg-type]
    arrivals = Workload(entries, requests, seed=0).arrivals(bound_rps(costs, entries, 32) / 2)
    row = np.zeros((1, 1), np.float32)
    began = time.perf_counter()
    for arrival in arrivals:
        while clock.now_s < arrival.arrival_s and engine.step_once() is not None:
            pass
        clock.now_s = max(clock.now_s, arrival.arrival_s)
        engine.submit("toy", arrival.entry, row, [arrival.arrival_s], [None])
    while engine.step_once() is not None:
        pass
    wall_s = time.perf_counter() - began
    assert len(ended) == requests
    stats = engine.stats()
    return {"us_per_request": wall_s / requests * 1e6, "rows_per_step": stats.rows / stats.steps}


def _advance(clock: FakeClock, seconds: float) -> float:
    clock.now_s += seconds
    return seconds


async def served_vs_bare(way: str, seconds: float, clients: int) -> dict[str, Any]:
    """vit_tiny's tail behind the whole stack, saturated, over a bare torch loop on batches of the same sizes."""
    loop = asyncio.get_running_loop()
    model = {"name": VIT, "num_slices": 4, "entries": [1], "strategy": "per_tail_shared", "max_batch": 32}
    config = {"models": [model], "accelerator": "cpu", "torch_threads": 1, "http": HTTP}
    await loop.run_in_executor(None, lambda: app.run(config, name="vit"))
    handle = ServeTransport("vit")
    transport: Any = HttpTransport(f"http://127.0.0.1:{PORT}/vit") if way == "http" else handle
    manifest = (await handle.describe(VIT)).manifest
    sliced = slice_model(VIT, 4)
    shape = tuple(sliced.head(1)(torch.zeros(1, 3, 224, 224)).shape[1:])
    payload = np.random.default_rng(0).standard_normal(shape, np.float32).tobytes()
    request = Request("r", VIT, manifest, 1, "fp32", shape, payload, top_k=1)

    async def alone() -> None:
        [answer] = await transport.infer([request])
        assert isinstance(answer, Reply)

    await _reachable(alone)
    await rate(alone, 2.0, clients)
    status = serve.get_app_handle("vit").status
    before = await status.remote()
    served_rps = await rate(alone, seconds, clients)
    after = await status.remote()
    sizes = [
        size
        for size, steps in after["rows_per_step"].items()
        for _ in range(steps - before["rows_per_step"].get(size, 0))
    ]
    np.random.default_rng(0).shuffle(sizes)
    tail = sliced.tail(1)
    batches = {size: torch.randn(size, *shape) for size in set(sizes)}

    def bare() -> float:
        began = time.perf_counter()
        with torch.inference_mode():
            for size in sizes:
                tail(batches[size])
        return sum(sizes) / (time.perf_counter() - began)

    bare_rps = await loop.run_in_executor(None, bare)
    await transport.close()
    await loop.run_in_executor(None, serve.delete, "vit")
    return {
        "served_rps": served_rps,
        "bare_rps": bare_rps,
        "ratio": served_rps / bare_rps,
        "rows_per_step": sum(sizes) / max(len(sizes), 1),
    }


async def _reachable(call: Any) -> None:
    """HAProxy learns of a new application a moment after Serve says that it runs."""
    until_s = time.monotonic() + 30
    while True:
        try:
            return await call()
        except Exception:
            if time.monotonic() > until_s:
                raise
            await asyncio.sleep(0.1)


async def run(args: argparse.Namespace) -> dict[str, Any]:
    """All measurements, on one event loop: the handle's router lives on the loop that it was made on.

    The three servers stand side by side and take turns in every round, so that the machine's moods hit all alike.
    """
    loop = asyncio.get_running_loop()
    payload = np.random.default_rng(0).random(SHAPE, np.float32).tobytes()
    calls: dict[tuple[str, str], tuple[Any, Any]] = {}
    transports: list[Any] = []
    for name in NAMES:
        await loop.run_in_executor(None, start, name, HTTP)
        handle = ServeTransport(name)
        manifest = (await handle.describe("toy")).manifest
        request = Request("r", "toy", manifest, 0, "fp32", SHAPE, payload, top_k=1)
        http = HttpTransport(f"http://127.0.0.1:{PORT}/{name}")
        for way, transport in (("handle", handle), ("http", http)):
            calls[way, name] = _calls(transport, request)
            await _reachable(calls[way, name][0])
            await rate(calls[way, name][0], 1.0, args.clients)
            transports.append(transport)
    rounds: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for _ in range(args.repeats):
        for (way, name), (alone, parcel) in calls.items():
            rps = await rate(alone, args.seconds, args.clients)
            parcels = PARCEL * await rate(parcel, args.seconds, max(args.clients // PARCEL, 2))
            p50_ms = await median_ms(alone)
            for what, value in (("rps", rps), ("rps_parcels_of_8", parcels), ("p50_ms_alone", p50_ms)):
                rounds[way, name, what].append(value)
            print(f"{name:9} {way:7} {rps:8.0f}/s  parcels {parcels:8.0f}/s  {p50_ms:.2f} ms alone", flush=True)
    for transport in transports:
        await transport.close()
    for name in NAMES:
        await loop.run_in_executor(None, serve.delete, name)
    ways = {
        way: {f"{name}_{what}": statistics.median(rounds[way, name, what]) for name in NAMES for what in WHAT}
        for way in ("handle", "http")
    }
    faster = max(ways, key=lambda way: ways[way]["bare_echo_rps"])
    bare_handle = rounds["handle", "bare_echo", "rps"]
    return {
        **ways[faster],
        "way": faster,
        "p50_ms_alone": ways[faster]["tail_p50_ms_alone"],
        "ways": ways,
        "ratios": {
            **{
                f"{way}: tail over echo{suffix}": ratio_figures(
                    paired_ratio(rounds[way, "tail", f"rps{suffix}"], rounds[way, "echo", f"rps{suffix}"])
                )
                for way in ways
                for suffix in ("", "_parcels_of_8")
            },
            f"{faster} tail over bare handle echo": ratio_figures(
                paired_ratio(rounds[faster, "tail", "rps"], bare_handle)
            ),
        },
        "served_vs_bare_detail": (detail := await served_vs_bare(faster, 3 * args.seconds, args.clients)),
        "served_vs_bare": detail["ratio"],
    }


def _calls(transport: Any, request: Request) -> tuple[Any, Any]:
    async def alone() -> None:
        [answer] = await transport.infer([request])
        assert isinstance(answer, Reply)

    async def parcel() -> None:
        answers = await transport.infer([request] * PARCEL)
        assert all(isinstance(answer, Reply) for answer in answers)

    return alone, parcel


async def median_ms(call: Any, count: int = 200) -> float:
    """The median latency of one client alone."""
    latencies = []
    for _ in range(count):
        began = time.perf_counter()
        await call()
        latencies.append((time.perf_counter() - began) * 1e3)
    return statistics.median(latencies)


def main() -> None:
    """Run it."""
    parser = new_parser(__doc__)
    parser.add_argument("--seconds", type=float, default=4.0, help="of one rate")
    parser.add_argument("--clients", type=int, default=32, help="requests in flight")
    parser.add_argument("--repeats", type=int, default=5, help="rounds")
    parser.add_argument("--out", type=Path, help="a results file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    engine = {strategy: engine_us(strategy) for strategy in ("per_slice", "continuous")}
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="WARNING")
    try:
        serve.start(
            proxy_location="EveryNode",
            http_options={"host": HTTP["host"], "port": PORT},
            controller_options={"runtime_env": {"env_vars": environment("controller", http=True)}},
        )
        measured = asyncio.run(run(args))
    finally:
        # Not serve.shutdown(): it calls the handles' routers, whose event loop has ended. This Ray is our own anyway.
        ray.shutdown()
    document = {
        "benchmark": "serving_overhead",
        **measured,
        "engine_us_per_request": max(one["us_per_request"] for one in engine.values()),
        "engine": engine,
        "emulated": ["executor without compute (bare_echo, echo, tail, engine); none for served_vs_bare"],
        "manifest": manifest(args, seeds=[0]),
    }
    for what, found in measured["ratios"].items():
        print(f"{what:45} {found['ratio']:.2f} {found['ci95']}")
    print(f"served over bare torch {measured['served_vs_bare']:.2f}, engine {document['engine_us_per_request']:.0f} us")
    put(document, args.out)


if __name__ == "__main__":
    main()
