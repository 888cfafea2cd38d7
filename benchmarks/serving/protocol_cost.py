"""What the Open Inference Protocol costs the server beside the private packet that it replaced, in the same run.

One server is up, front and engine in one process behind HAProxy. Clients that speak one or the other take turns on it,
and each second round goes the other way round. Bodies are made before; what is measured is the server: it reads,
checks, decodes, runs, answers. `packet` is the deprecated way, `oip` a request of the protocol (of 8 rows: one batch
that is answered together), `parcel` our extension of it, each request answered for itself.

Each turn is closed loop, with so many bodies under way that the machine is busy. Rate is of requests (rows); CPU is
that of all threads of the server and of HAProxy, by /proc. The model and the executor compute nothing. Client and
server share the machine, so let nothing else run. The last line is one JSON document.

    python benchmarks/serving/protocol_cost.py [--rounds 7] [--seconds 3] [--quick] [--out FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import aiohttp
import numpy as np

from benchmarks.common.command_line import new_parser, say
from benchmarks.common.process_cpu import CpuWatch
from benchmarks.common.results import manifest, put, ratio_figures
from benchmarks.serving.no_compute import SHAPE
from benchmarks.serving.servers import Form, serving_here
from slicer.common.comparison import paired_ratio
from slicer.core.codecs import activations
from slicer.core.protocol import packet
from slicer.core.protocol.messages import Request
from slicer.core.protocol.oip import http_body, http_writing, one_row
from slicer.core.protocol.oip.requests import infer_request
from slicer.core.protocol.oip.tensors import InferRequest, Tensor
from slicer.core.shards.manifest import Manifest
from slicer.errors import ServerError

CODECS = {"fp32": "151 kB fp32", "int8": "38 kB int8"}
SIZES = (1, 8)
WAYS = ("packet", "oip", "parcel")


@dataclass(frozen=True)
class Body:
    """What is sent again and again.

    Attributes:
        path: under the application.
        data: of one HTTP body. headers: with it.
        rows: requests in it.
    """

    path: str
    data: bytes
    headers: dict[str, str]
    rows: int


@dataclass(frozen=True)
class Turn:
    """Requests per second that were answered, and CPU microseconds of one: the server's and HAProxy's."""

    rate: float
    cpu_us: float


def bodies(served: dict[str, Any]) -> dict[str, dict[str, Body]]:
    """By case and way."""
    activation = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    axes = Manifest.from_json(served["manifest_json"]).channel_axes
    found: dict[str, dict[str, Body]] = {}
    for codec, size in product(CODECS, SIZES):
        payload = activations.encode(codec, activation, axes[0] if axes else None)
        one = Request("r", "toy", served["manifest"], 0, codec, SHAPE, payload, top_k=1)
        found[f"{CODECS[codec]}, {'singly' if size == 1 else f'{size} together'}"] = {
            "packet": Body("/infer", packet.encode_requests([one] * size), dict(packet.UNWATCHED), size),
            "oip": _body("/v2/models/toy/infer", *_written(one, size), size),
            "parcel": _body("/v2/parcel", *one_row.encode_parcel([one] * size), size),
        }
    return found


def _written(one: Request, size: int) -> tuple[bytes, int]:
    """A single row as devices write it, which the server reads in one pass; a batch as any client does."""
    return one_row.encode_request(one) if size == 1 else http_writing.encode_request(_batch(one, size))


def _batch(one: Request, size: int) -> InferRequest:
    """The same rows as one request."""
    asked = infer_request(one)
    tensor = asked.inputs[0]
    data = bytes(tensor.raw()) * size
    rows = Tensor(tensor.name, tensor.datatype, (size, *tensor.shape[1:]), data)
    return InferRequest(asked.model, [rows], asked.outputs, asked.id, "", asked.parameters)


def _body(path: str, data: bytes, json_bytes: int, rows: int) -> Body:
    return Body(path, data, {http_body.LENGTH_HEADER: str(json_bytes), **packet.UNWATCHED}, rows)


async def drive(form: Form, session: aiohttp.ClientSession, body: Body, seconds: float, under_way: int) -> int:
    """How many requests were answered meanwhile."""
    answered = 0
    end_s = time.monotonic() + seconds

    async def ask() -> None:
        nonlocal answered
        while time.monotonic() < end_s:
            async with session.post(form.url + body.path, data=body.data, headers=body.headers) as answer:
                said = await answer.read()
                if answer.status != 200 or b'"code"' in said:
                    raise ServerError(f"{body.path} answered {answer.status}: {said[:300]!r}; nothing is comparable")
            answered += body.rows

    await asyncio.gather(*[ask() for _ in range(under_way)])
    return answered


async def turn(form: Form, session: aiohttp.ClientSession, body: Body, seconds: float, under_way: int) -> Turn:
    """Of one body."""
    processes = {name: pids for name, pids in form.processes().items() if name != "others"}
    watch, began_s = CpuWatch(processes), time.monotonic()
    answered = await drive(form, session, body, seconds, under_way)
    return Turn(answered / (time.monotonic() - began_s), sum(watch.seconds().values()) / answered * 1e6)


async def measured(form: Form, args: argparse.Namespace) -> dict[str, dict[str, list[Turn]]]:
    """Turns by case and way, one of each per round."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        async with session.get(f"{form.url}/describe?model=toy") as answer:
            cases = bodies(json.loads(await answer.read()))
        found: dict[str, dict[str, list[Turn]]] = {case: {way: [] for way in WAYS} for case in cases}
        for case, ways in cases.items():
            for body in ways.values():
                await drive(form, session, body, min(args.seconds, 1.0), args.under_way)
            say(f"warm: {case}")
        for number in range(args.rounds):
            for case, ways in cases.items():
                for way in WAYS[:: -1 if number % 2 else 1]:
                    found[case][way].append(await turn(form, session, ways[way], args.seconds, args.under_way))
            say(f"round {number + 1} of {args.rounds}")
        return found


def figures(turns: dict[str, list[Turn]]) -> dict[str, Any]:
    """Of one case: medians, and ratios to the packet in pairs of a round; above 1 the protocol is the faster one."""
    found: dict[str, Any] = {
        "rate": {way: round(statistics.median(t.rate for t in of), 1) for way, of in turns.items()},
        "cpu_us_per_request": {way: round(statistics.median(t.cpu_us for t in of), 1) for way, of in turns.items()},
    }
    old = turns["packet"]
    for way in WAYS[1:]:
        found[f"{way}_rate_over_packet"] = _ratio([t.rate for t in turns[way]], [t.rate for t in old])
        found[f"packet_cpu_over_{way}"] = _ratio([t.cpu_us for t in old], [t.cpu_us for t in turns[way]])
    return found


def _ratio(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Any]:
    return ratio_figures(paired_ratio(ours, theirs))


def table(cases: dict[str, Any]) -> str:
    """For people."""
    lines = [f"{'':24}{'way':8}{'rate/s':>9}{'CPU us':>9}  rate over packet      packet's CPU over"]
    for case, found in cases.items():
        for way in WAYS:
            line = f"{case:24}{way:8}{found['rate'][way]:9.0f}{found['cpu_us_per_request'][way]:9.0f}"
            if way != "packet":
                for key in (f"{way}_rate_over_packet", f"packet_cpu_over_{way}"):
                    line += f"  {found[key]['ratio']:.3f} {found[key]['ci95']}"
            lines.append(line)
    return "\n".join(lines)


def main() -> None:
    """Run it."""
    parser = new_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="turns of each way and case (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=3.0, help="of a turn (default %(default)s)")
    parser.add_argument("--under-way", type=int, default=4, help="bodies at the same time (default %(default)s)")
    parser.add_argument("--quick", action="store_true", help="a smoke test: 2 rounds of 0.5 s")
    parser.add_argument("--out", type=Path, help="a results file")
    args = parser.parse_args()
    if args.quick:
        args.rounds, args.seconds = 2, 0.5
    load_before = os.getloadavg()[0]
    with serving_here() as form:
        turns = asyncio.run(measured(form, args))
    cases = {case: figures(of_case) for case, of_case in turns.items()}
    print(table(cases))
    document = {
        "benchmark": "protocol_cost",
        "load": f"closed loop, {args.under_way} bodies under way",
        "cases": cases,
        "emulated": ["executor without compute: a step takes no time, its launch, wait and take are called"],
        "manifest": manifest(args, load_before, seeds=range(args.rounds)),
    }
    put(document, args.out)


if __name__ == "__main__":
    main()
