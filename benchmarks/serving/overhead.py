"""What a request costs the server: CPU of each process, and latency alone, beside an older commit's in the same run.

Three forms are up at the same time. `old`: the older commit's, from a git worktree that is made for this run, on a Ray
of its own; one process and HAProxy. `new`: this checkout's with a front and a core. `single`: this checkout's with both
in one process. They take turns, and each second round goes the other way round. In a turn one client sends the same
Poisson arrivals, open loop, at a rate that all of them keep, and at the first rate also requests one after the other.
Cases: 151 kB of fp32 and 38 kB of int8 (one shape, 3 x 112 x 112), singly and in parcels of 8, at each rate. A machine
that idles between two requests has cold caches, and a request costs several times what it costs when it is busy.

CPU is that of all threads of a process, by /proc, less what it takes in a quiet stretch of the same round. The model
and the executor compute nothing; the engine launches, waits and takes as ever. Client and servers share the machine, so
let nothing else run. The engine's cost per row comes from engine_cost.py. The last line is one JSON document.

    python benchmarks/serving/overhead.py [--old 2f31894] [--rounds 5] [--rates 300,900] [--quick] [--out FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from actors.report import provenance
from benchmarks.common.command_line import decimals, new_parser, say
from benchmarks.common.process_cpu import CpuWatch, of_this_process
from benchmarks.common.results import ROOT, manifest, put
from benchmarks.serving.no_compute import SHAPE
from benchmarks.serving.overhead_figures import Turn, Turns, figures, table
from benchmarks.serving.servers import FORMS, Form, checkout_of, commit_of, serving
from slicer.common.comparison import percentile
from slicer.core.codecs import activations
from slicer.core.network.http_transport import HttpTransport
from slicer.core.protocol.messages import Reply, Request, ServedModel
from slicer.core.shards.manifest import Manifest
from slicer.errors import ServerError

#: The last commit whose server is one process.
OLD = "2f31894"
PARCEL = 8
CODECS = {"fp32": "151 kB fp32", "int8": "38 kB int8"}

Send = Callable[[], Any]


@dataclass(frozen=True)
class Case:
    """What is sent.

    Attributes:
        codec: of the payload.
        size: requests in one body.
        rate: of requests per second under load.
        alone: whether one client alone is measured, too.
    """

    codec: str
    size: int
    rate: float
    alone: bool

    @property
    def name(self) -> str:
        """Such as ``151 kB fp32, singly, 300/s``."""
        return f"{CODECS[self.codec]}, {'singly' if self.size == 1 else f'parcels of {self.size}'}, {self.rate:g}/s"


def cases_of(rates: Sequence[float]) -> list[Case]:
    """All cases. One client alone is measured with the first rate; the first case stands at the top of the document."""
    return [Case(codec, size, rate, rate == rates[0]) for rate, codec, size in product(rates, CODECS, (1, PARCEL))]


def arrivals_s(rate: float, seconds: float, seed: Sequence[int]) -> list[float]:
    """Moments of a Poisson process of so many per second, as many as there are in the mean."""
    gaps = np.random.default_rng(list(seed)).exponential(1 / rate, max(round(rate * seconds), 1))
    return [float(moment) for moment in np.cumsum(gaps)]


async def loaded(send: Send, arrivals: Sequence[float]) -> tuple[list[Reply], list[float], list[float], float]:
    """Open loop: replies, latencies from the arrival on and lags in ms, and how long it took in s."""
    loop = asyncio.get_running_loop()
    replies: list[Reply] = []
    latencies_ms: list[float] = []
    lags_ms: list[float] = []
    began_s = loop.time()

    async def one(arrival_s: float) -> None:
        lags_ms.append((loop.time() - began_s - arrival_s) * 1e3)
        replies.extend(await send())
        latencies_ms.append((loop.time() - began_s - arrival_s) * 1e3)

    tasks = []
    for arrival_s in arrivals:
        await asyncio.sleep(max(began_s + arrival_s - loop.time(), 0.0))
        tasks.append(asyncio.create_task(one(arrival_s)))
    await asyncio.gather(*tasks)
    return replies, latencies_ms, lags_ms, loop.time() - began_s - arrivals[0]


async def alone(send: Send, count: int) -> list[float]:
    """Latencies in ms of one client alone."""
    found = []
    for _ in range(count):
        began_s = time.perf_counter()
        await send()
        found.append((time.perf_counter() - began_s) * 1e3)
    return found


async def quiet(forms: Mapping[str, Form], seconds: float) -> dict[str, dict[str, float]]:
    """CPU seconds per second by form and process while nobody asks for anything."""
    watches = {name: CpuWatch(form.processes()) for name, form in forms.items()}
    began_s = time.monotonic()
    await asyncio.sleep(seconds)
    found = {name: watch.seconds() for name, watch in watches.items()}
    passed_s = time.monotonic() - began_s
    return {name: {what: cpu_s / passed_s for what, cpu_s in one.items()} for name, one in found.items()}


async def turn(form: Form, send: Send, idle: Mapping[str, float], arrivals: Sequence[float], alone_count: int) -> Turn:
    """Of one form and case."""
    watch, client = CpuWatch(form.processes()), of_this_process()
    began_s = time.monotonic()
    replies, latencies_ms, lags_ms, span_s = await loaded(send, arrivals)
    client_s = client.seconds()["self"]
    cpu_s = watch.seconds()
    passed_s = time.monotonic() - began_s
    busy_s = {name: seconds - idle[name] * passed_s for name, seconds in cpu_s.items()} | {"client": client_s}
    steps = sum(1 / rows for reply in replies for rows in reply.timings.rows_per_step)
    return Turn(
        cpu_us={name: seconds / len(replies) * 1e6 for name, seconds in busy_s.items()},
        rate=len(replies) / span_s,
        lag_ms=percentile(lags_ms, 99) or 0.0,
        rows_per_step=sum(len(reply.timings.rows_per_step) for reply in replies) / steps,
        loaded_ms=latencies_ms,
        alone_ms=await alone(send, alone_count),
    )


async def measured(forms: Mapping[str, Form], cases: Sequence[Case], args: argparse.Namespace) -> dict[str, Turns]:
    """Turns by case and form, one of each per round."""
    transports = {name: HttpTransport(form.url) for name, form in forms.items()}
    try:
        sends: dict[tuple[str, str], Send] = {}
        for name, transport in transports.items():
            served = await transport.describe("toy")
            sends |= {(case.name, name): _sender(transport, served, case) for case in cases}
        for send in sends.values():
            await alone(send, 20)
            await loaded(send, arrivals_s(args.rates[0] / 2 / PARCEL, 1.0, (0,)))
        found: dict[str, Turns] = {case.name: {name: [] for name in forms} for case in cases}
        for number in range(args.rounds):
            idle = await quiet(forms, args.seconds)
            for index, case in enumerate(cases):
                moments = arrivals_s(case.rate / case.size, args.seconds, (number, index))
                for name in list(forms)[:: -1 if number % 2 else 1]:
                    send, count = sends[case.name, name], args.alone if case.alone else 0
                    one = await turn(forms[name], send, idle[name], moments, count)
                    found[case.name][name].append(one)
            say(f"round {number + 1} of {args.rounds}")
        return found
    finally:
        for transport in transports.values():
            await transport.close()


def _sender(transport: HttpTransport, served: ServedModel, case: Case) -> Send:
    activation = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    axes = Manifest.from_json(served.manifest_json).channel_axes
    payload = activations.encode(case.codec, activation, axes[0] if axes else None)
    requests = [Request("r", "toy", served.manifest, 0, case.codec, SHAPE, payload, top_k=1)] * case.size

    async def send() -> list[Reply]:
        answers = await transport.infer(requests)
        if refused := [answer for answer in answers if not isinstance(answer, Reply)]:
            raise ServerError(f"a request was not answered, so nothing is comparable: {refused[0]}")
        return [answer for answer in answers if isinstance(answer, Reply)]

    return send


def engine_us(args: argparse.Namespace) -> dict[str, Any]:
    """What engine_cost.py says of the engine by itself, in a process of its own."""
    module = "benchmarks.serving.engine_cost"
    if args.without_engine or find_spec(module) is None:
        return {"engine_not_measured": "--without-engine" if args.without_engine else f"there is no {module}"}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "engine.json"
        short = ["--rounds", "2", "--requests", "1000"] if args.quick else []
        call = [sys.executable, "-m", module, "--base", args.old, "--out", str(out), *short]
        call += ["--engines", "pipelined", "--strategies", "continuous"]
        subprocess.run(call, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        document = json.loads(out.read_text())
    found = {key: value for key, value in document.items() if key.startswith("engine_us_per_row")}
    return {**found, "engine_rows_per_step": [document["rows_per_step"], document["rows_per_step_single"]]}


def main() -> None:
    """Run it."""
    parser = new_parser(__doc__)
    parser.add_argument("--old", default=OLD, help="the commit to compare with (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each form and case (default %(default)s)")
    parser.add_argument(
        "--rates", type=decimals, default=(300.0, 900.0), help="of requests per second (default 300,900)"
    )
    parser.add_argument("--seconds", type=float, default=3.0, help="of load in a turn (default %(default)s)")
    parser.add_argument("--alone", type=int, default=200, help="bodies of one client alone in a turn")
    parser.add_argument("--without-engine", action="store_true", help="leave engine_cost.py out")
    parser.add_argument("--quick", action="store_true", help="a smoke test: 2 rounds of 1.5 s, one rate, 50 alone")
    parser.add_argument("--out", type=Path, help="a results file")
    args = parser.parse_args()
    if args.quick:
        args.rounds, args.rates, args.seconds, args.alone = 2, args.rates[:1], 1.5, 50
    load_before = os.getloadavg()[0]
    engine, asked = engine_us(args), cases_of(args.rates)
    with checkout_of(args.old) as checkout:
        commits = {"old": commit_of(checkout), "new": provenance.commit()}
        with serving(checkout) as forms:
            found = asyncio.run(measured(forms, asked, args))
    cases = {case.name: figures(found[case.name], case.rate) for case in asked}
    first = asked[0].name
    document = {
        "benchmark": "serving_overhead",
        "case": first,
        **{key: cases[first][key] for key in ("cpu_us_per_request", "p50_ms_alone", "p99_ms_alone")},
        **engine,
        "load": "open loop: Poisson arrivals, the same for all forms; then one client alone",
        "forms": {form: [*processes.values(), "haproxy"] for form, processes in FORMS.items()},
        "cases": cases,
        "commits": commits,
        "emulated": ["executor without compute: a step takes no time, its launch, wait and take are called"],
        "manifest": manifest(args, load_before, seeds=range(args.rounds)),
    }
    print(table(cases))
    put(document, args.out)


if __name__ == "__main__":
    main()
