"""What a request costs the server: CPU of each process, and latency alone, beside an older commit's in the same run.

Three forms are up at the same time. `old`: the older commit's, from a git worktree that is made for this run, on a Ray
of its own; one process and HAProxy. `new`: this checkout's with a front and a core. `joint`: this checkout's with both
in one process. They take turns, and each second round goes the other way round. In a turn one client sends the same
Poisson arrivals, open loop, at a rate that all of them keep, and then requests one after the other. Cases: 151 kB of
fp32 and 38 kB of int8 (one shape, 3 x 112 x 112), singly and in parcels of 8.

CPU is that of all threads of a process, by /proc, less what it takes in a quiet stretch of the same round. The model
and the executor compute nothing; the engine launches, waits and takes as ever. Client and servers share the machine, so
let nothing else run. The engine's cost per row comes from engine_cost.py. The last line is one JSON document.

    python benchmarks/serving/overhead.py [--old 2f31894] [--rounds 6] [--rate 300] [--seconds 4] [--quick] [--out FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from actors.network.http_transport import HttpTransport
from actors.report import provenance
from benchmarks.common.command_line import new_parser, say
from benchmarks.common.process_cpu import CpuWatch, of_this_process
from benchmarks.common.results import ROOT, ci95, manifest, put, ratio_figures
from benchmarks.serving.no_compute import SHAPE
from benchmarks.serving.servers import FORMS, Form, checkout_of, commit_of, serving
from slicer.codecs import activations
from slicer.common.comparison import interval, paired_ratio, percentile
from slicer.errors import ServerError
from slicer.protocol.messages import Reply, Request, ServedModel
from slicer.shards.manifest import Manifest

#: The last commit whose server is one process.
OLD = "2f31894"
PARCEL = 8
CODECS = {"fp32": "151 kB fp32", "int8": "38 kB int8"}
#: The case whose figures stand at the top of the document.
FIRST = "151 kB fp32, singly"
#: Not of a server's sum: the client, and what Ray and the applications beside it do meanwhile.
BESIDE = ("client", "others")

Send = Callable[[], Any]


@dataclass(frozen=True)
class Case:
    """What is sent.

    Attributes:
        codec: of the payload.
        size: requests in one body.
    """

    codec: str
    size: int

    @property
    def name(self) -> str:
        """Such as ``151 kB fp32, singly``."""
        return f"{CODECS[self.codec]}, {'singly' if self.size == 1 else f'in parcels of {self.size}'}"


CASES = [Case(codec, size) for codec, size in product(CODECS, (1, PARCEL))]


@dataclass(frozen=True)
class Turn:
    """One form's part of a round, of one case.

    Attributes:
        cpu_us: of a request by process.
        rate: of requests per second that were answered, from the first arrival to the last answer.
        lag_ms: how late the client sent, the 99th percentile.
        rows_per_step: rows by steps.
        loaded_ms: latency of each body under the load.
        alone_ms: latency of each body that was sent when the one before it had been answered.
    """

    cpu_us: dict[str, float]
    rate: float
    lag_ms: float
    rows_per_step: float
    loaded_ms: list[float] = field(repr=False)
    alone_ms: list[float] = field(repr=False)

    @property
    def server_us(self) -> float:
        """Of the server's processes and HAProxy together."""
        return sum(us for name, us in self.cpu_us.items() if name not in BESIDE)


Turns = dict[str, list[Turn]]  # by form


# ----------------------------------------------------------------------------------------------------------- to measure


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
    began_s = time.monotonic()
    watch, client = CpuWatch(form.processes()), of_this_process()
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


async def measured(forms: Mapping[str, Form], args: argparse.Namespace) -> dict[str, Turns]:
    """Turns by case and form, one of each per round."""
    transports = {name: HttpTransport(form.url) for name, form in forms.items()}
    try:
        sends: dict[tuple[str, str], Send] = {}
        for name, transport in transports.items():
            served = await transport.describe("toy")
            sends |= {(case.name, name): _sender(transport, served, case) for case in CASES}
        for send in sends.values():
            await alone(send, 20)
            await loaded(send, arrivals_s(args.rate / 2 / PARCEL, 1.0, (0,)))
        found: dict[str, Turns] = {case.name: {name: [] for name in forms} for case in CASES}
        for number in range(args.rounds):
            idle = await quiet(forms, args.seconds)
            for index, case in enumerate(CASES):
                moments = arrivals_s(args.rate / case.size, args.seconds, (number, index))
                for name in list(forms)[:: -1 if number % 2 else 1]:
                    one = await turn(forms[name], sends[case.name, name], idle[name], moments, args.alone)
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


# ----------------------------------------------------------------------------------------------------------- to compare


def figures(turns: Turns, rate: float) -> dict[str, Any]:
    """A case as it stands in the document.

    Args:
        turns: of `old`, `new` and `joint`, as many of each.
        rate: of requests that was offered.
    """
    old, new, joint = (turns[form] for form in ("old", "new", "joint"))
    return {
        "cpu_us_per_request": {form: _cpu(of_form) for form, of_form in turns.items()},
        "core_over_old_server": _ratio([t.cpu_us["core"] for t in new], [t.cpu_us["server"] for t in old]),
        "sum_over_old": {
            "new": _ratio([t.server_us for t in new], [t.server_us for t in old]),
            "joint": _ratio([t.server_us for t in joint], [t.server_us for t in old]),
        },
        "p50_ms_alone": {form: _rounded(_medians(of_form)) for form, of_form in turns.items()},
        "p50_ms_alone_less_old": {form: _difference(turns[form], old) for form in ("new", "joint")},
        "p99_ms_alone": _percentiles(turns, 99, lambda t: t.alone_ms),
        "p50_ms_loaded": _percentiles(turns, 50, lambda t: t.loaded_ms),
        "p99_ms_loaded": _percentiles(turns, 99, lambda t: t.loaded_ms),
        "rate_offered": rate,
        "rate_kept": {form: _rounded([t.rate for t in of_form]) for form, of_form in turns.items()},
        "generator_lag_p99_ms": {form: _rounded([t.lag_ms for t in of_form]) for form, of_form in turns.items()},
        "rows_per_step": {form: _rounded([t.rows_per_step for t in of_form]) for form, of_form in turns.items()},
    }


def _cpu(turns: Sequence[Turn]) -> dict[str, float]:
    """Medians of the rounds by process, and of their sum."""
    by_process = {name: _rounded([t.cpu_us[name] for t in turns]) for name in turns[0].cpu_us}
    return {**by_process, "sum": _rounded([t.server_us for t in turns])}


def _ratio(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Any] | None:
    """Paired by round; None where noise of the machine left nothing above 0 of a round."""
    return ratio_figures(paired_ratio(ours, theirs)) if min(*ours, *theirs) > 0 else None


def _difference(ours: Sequence[Turn], theirs: Sequence[Turn]) -> dict[str, Any]:
    """Of the medians of one client alone, paired by round."""
    differences = [a - b for a, b in zip(_medians(ours), _medians(theirs), strict=True)]
    return {
        "ms": round(statistics.fmean(differences), 4),
        "ci95": ci95(interval(differences)),
        "by_round": [round(one, 4) for one in differences],
    }


def _medians(turns: Sequence[Turn]) -> list[float]:
    return [statistics.median(t.alone_ms) for t in turns]


def _percentiles(turns: Turns, q: float, of: Callable[[Turn], list[float]]) -> dict[str, float]:
    """Of all rounds together."""
    return {
        form: round(float(np.percentile([ms for t in of_form for ms in of(t)], q)), 3)
        for form, of_form in turns.items()
    }


def _rounded(values: Sequence[float]) -> float:
    """Their median."""
    return round(statistics.median(values), 3)


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
    return {key: value for key, value in document.items() if key.startswith(("engine_us_per_row", "rows_per_step"))}


def table(cases: Mapping[str, Mapping[str, Any]]) -> str:
    """For people."""
    lines = [
        f"{'us of CPU per request':32}{'form':7}{'server':>8}{'front':>8}{'core':>8}{'HAProxy':>8}{'sum':>8}  over old"
    ]
    for name, case in cases.items():
        for form, cpu in case["cpu_us_per_request"].items():
            cells = [f"{cpu[what]:8.0f}" if what in cpu else " " * 8 for what in ("server", "front", "core", "haproxy")]
            ratio = case["sum_over_old"].get(form)
            over = f"  {ratio['ratio']:.2f} {ratio['ci95']}" if ratio else ""
            lines.append(f"{name:32}{form:7}{''.join(cells)}{cpu['sum']:8.0f}{over}")
    for name, case in cases.items():
        less = case["p50_ms_alone_less_old"]["new"]
        core = case["core_over_old_server"]
        lines.append(
            f"{name:32}alone p50 {case['p50_ms_alone']} ms, new - old {less['ms']:+.3f} {less['ci95']}; "
            f"p99 {case['p99_ms_alone']}; core over old server {core and (core['ratio'], core['ci95'])}; "
            f"offered {case['rate_offered']:g}/s, kept {case['rate_kept']}; rows per step {case['rows_per_step']}"
        )
    return "\n".join(lines)


def main() -> None:
    """Run it."""
    parser = new_parser(__doc__)
    parser.add_argument("--old", default=OLD, help="the commit to compare with (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=6, help="turns of each form and case (default %(default)s)")
    parser.add_argument("--rate", type=float, default=300.0, help="requests per second (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=4.0, help="of load in a turn (default %(default)s)")
    parser.add_argument("--alone", type=int, default=200, help="bodies of one client alone in a turn")
    parser.add_argument("--without-engine", action="store_true", help="leave engine_cost.py out")
    parser.add_argument("--quick", action="store_true", help="a smoke test: 2 rounds of 1.5 s, 50 alone, all shorter")
    parser.add_argument("--out", type=Path, help="a results file")
    args = parser.parse_args()
    if args.quick:
        args.rounds, args.seconds, args.alone = 2, 1.5, 50
    load_before = os.getloadavg()[0]
    engine = engine_us(args)
    with checkout_of(args.old) as checkout:
        commits = {"old": commit_of(checkout), "new": provenance.commit()}
        with serving(checkout) as forms:
            found = asyncio.run(measured(forms, args))
    cases = {name: figures(turns, args.rate) for name, turns in found.items()}
    document = {
        "benchmark": "serving_overhead",
        **{key: cases[FIRST][key] for key in ("cpu_us_per_request", "p50_ms_alone", "p99_ms_alone")},
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
