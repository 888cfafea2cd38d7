"""The load generator, a process of its own per server: ``python -m benchmarks.peers.client``.

Open loop: each request is sent at its own moment, whatever the server does, and its time runs from that moment. The
same loop for all servers; only how a request is written differs (`WIRES`). Reads JSON from stdin, a line each: first
the server, ``{"wire": NAME, "payloads": [...], ...}``, then jobs, ``{"arrivals": [[second, entry], ...], "patience_s":
3}``. Answers each with one line.

Runs on the interpreter that has the peer's own client library, so it imports little of ours.
"""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import struct
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from slicer.common.thread_timing import hand_over_soon, prefer_thread
from slicer.core.common.clock import Clock

#: Sends a payload to an entry; returns what the answer says of both: first value, entry.
Send = Callable[[bytes, int], Awaitable[tuple[float, float]]]

#: A server that holds so many seconds of the offered load has lost: the rest is not sent.
HELD_S = 3.0


async def headtail(spec: dict[str, Any]) -> Send:
    """By HTTP, by the transport that devices use. Entries are named in blocks, as for all."""
    from slicer.core.network.http_transport import HttpTransport
    from slicer.core.protocol.messages import Reply, Request

    server = HttpTransport(spec["url"])
    manifest = (await server.describe(spec["model"])).manifest
    shape, per_slice, number = tuple(spec["shape"]), spec["blocks_per_slice"], 0

    async def send(payload: bytes, entry: int) -> tuple[float, float]:
        nonlocal number
        number += 1
        cut = entry // per_slice
        request = Request(str(number), spec["model"], manifest, cut, "int8", shape, payload, top_k=3)
        [answer] = await server.infer([request])
        if not isinstance(answer, Reply):
            raise RuntimeError(f"{answer.code}: {answer.message}")
        values = dict(answer.top_k or ())
        return values[0], values[1] * per_slice

    return send


async def octets(spec: dict[str, Any]) -> Send:
    """The payload as the body of a POST to ``URL/ENTRY``, two floats back."""
    import aiohttp

    session = _session(aiohttp)

    async def send(payload: bytes, entry: int) -> tuple[float, float]:
        async with session.post(f"{spec['url']}/{entry}", data=payload) as response:
            body = await response.read()
            if response.status != 200:
                raise RuntimeError(f"{response.status}: {body[:200]!r}")
        first, said = struct.unpack("<2f", body)
        return first, said

    return send


async def json_base64(spec: dict[str, Any]) -> Send:
    """The payload in JSON, two numbers back."""
    import aiohttp

    session = _session(aiohttp)

    async def send(payload: bytes, entry: int) -> tuple[float, float]:
        body = b'{"activation":"' + base64.b64encode(payload) + b'"}'
        headers = {"Content-Type": "application/json"}
        async with session.post(f"{spec['url']}/{entry}", data=body, headers=headers) as response:
            if response.status != 200:
                raise RuntimeError(f"{response.status}: {(await response.read())[:200]!r}")
            said = json.loads(await response.read())
        return said["answer"][0], said["answer"][1]

    return send


async def triton_grpc(spec: dict[str, Any]) -> Send:
    """Triton's own client, gRPC, asyncio."""
    import numpy as np
    import tritonclient.grpc.aio as grpc

    server = grpc.InferenceServerClient(spec["url"])
    wanted = [grpc.InferRequestedOutput("ANSWER")]

    async def send(payload: bytes, entry: int) -> tuple[float, float]:
        tensor = grpc.InferInput("ACTIVATION", [1, len(payload)], "UINT8")
        tensor.set_data_from_numpy(np.frombuffer(payload, np.uint8)[np.newaxis])
        result = await server.infer(f"entry{entry}", [tensor], outputs=wanted)
        [[first, said]] = result.as_numpy("ANSWER")
        return float(first), float(said)

    return send


WIRES = {"headtail": headtail, "octets": octets, "json_base64": json_base64, "triton_grpc": triton_grpc}


def _session(aiohttp: Any) -> Any:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None), raise_for_status=False
    )


async def offer(
    send: Send, payloads: list[tuple[bytes, float]], arrivals: list[tuple[float, int]], patience_s: float
) -> dict[str, Any]:
    """Offer the arrivals; returns a list per request: due, sent, received (None: no right answer), entry; and errors.

    Args:
        payloads: what is sent in turn, with the first value that its answer must hold.
        patience_s: how long an answer may still take after the last request was due.
    """
    clock, open_now, errors = Clock(), 0, dict[str, int]()
    records: list[list[Any]] = []
    tasks: list[asyncio.Task[None]] = []
    most_open = max(100.0, HELD_S * len(arrivals) / arrivals[-1][0])
    begin_s = clock.now_s() + 0.2

    async def one(record: list[Any], payload: bytes, first: float) -> None:
        nonlocal open_now
        try:
            said = await send(payload, record[3])
            received_s = clock.now_s()
            if abs(said[0] - first) > 1e-3 * max(abs(first), 1) or said[1] != record[3]:
                raise RuntimeError(f"a wrong answer: {said} instead of {(first, record[3])}")
            record[2] = received_s
        except Exception as error:
            what = f"{type(error).__name__}: {error}"[:300]
            errors[what] = errors.get(what, 0) + 1
        finally:
            open_now -= 1

    for number, (offset_s, entry) in enumerate(arrivals):
        due_s = begin_s + offset_s
        await clock.until(due_s)
        if open_now > most_open:
            break
        open_now += 1
        record: list[Any] = [due_s, clock.now_s(), None, entry]
        records.append(record)
        tasks.append(asyncio.get_running_loop().create_task(one(record, *payloads[number % len(payloads)])))
    _, late = await asyncio.wait(tasks, timeout=patience_s)
    for task in late:
        task.cancel()
    await asyncio.gather(*late, return_exceptions=True)
    return {
        "records": [[r[0] - begin_s, r[1] - begin_s, r[2] and r[2] - begin_s, r[3]] for r in records],
        "errors": errors,
        "late": len(late),
    }


async def main() -> None:
    """Serve the jobs of stdin, one after another."""
    print(json.dumps({"ready": True}), flush=True)
    spec = json.loads(sys.stdin.readline())
    prefer_thread()  # a generator that waits for a core behind what it measures would send late
    hand_over_soon()  # gRPC has threads of its own
    payloads = [(base64.b64decode(text), first) for text, first in spec["payloads"]]
    send = await WIRES[spec["wire"]](spec)
    print(json.dumps({}), flush=True)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        gc.collect()
        gc.freeze()  # a full collection would be a lag of tens of milliseconds
        job = json.loads(line)
        print(json.dumps(await offer(send, payloads, job["arrivals"], job["patience_s"])), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
