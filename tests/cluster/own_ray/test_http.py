"""The HTTP way in on a real Serve: HAProxy, direct ingress, token.

Serve's way in is fixed when it starts, and the shared cluster's has none; so this test has a Ray and a Serve of its
own, in a process of its own, and is long.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

JOB = r"""
import asyncio, json, sys
from dataclasses import replace
import ray
from ray import serve
from actors.network.auto_transport import AutoTransport
from slicer.core.network.http_transport import HttpTransport
from deployments import app
from slicer.errors import HeadTailError, ServerError
from slicer.core.protocol.messages import Request

port, folder = int(sys.argv[1]), sys.argv[2]
ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
http = {"enabled": True, "host": "127.0.0.1", "port": port}
config = {"torch_threads": 1, "shard_dir": folder, "token": "secret", "http": http}
app.run({"models": [{"name": "digits_vit"}], **config}, name="web")
with open(folder + "/slow.yaml", "w") as file:  # 0.2 s a slice, a row at a time
    file.write("name: slow\nsource: {hypothetical: true, what: for this test}\nbuckets: [1]\n"
               "slices:\n  - repeat: 4\n    mean_ms: [200.0]\n")
app.run({"models": [{"name": "digits_vit", "num_slices": 4, "max_batch": 1, "strategy": "per_slice"}], **config,
         "executor": "emulated", "executor_options": {"profile": folder + "/slow.yaml"}}, name="slow")
url, said = f"http://127.0.0.1:{port}/web", {}

async def joined(there):
    for attempt in range(100):  # HAProxy learns of a new application a moment after Serve says that it runs
        try:
            return await there.describe("digits_vit")
        except HeadTailError:
            await asyncio.sleep(0.2)
    raise AssertionError("no answer by HTTP within 20 s")

async def main():
    there = HttpTransport(url, "secret")
    served = await joined(there)
    said["url"] = served.url
    good = Request("good", "digits_vit", served.manifest, 1, "fp32", (16, 96), bytes(4 * 16 * 96), top_k=1)
    bad = Request("bad", "digits_vit", "another", 1, "fp32", (16, 96), b"", top_k=1)
    said["parcel"] = [type(answer).__name__ for answer in await there.infer([good, bad, good])]
    first = json.loads(served.manifest_json)["shards"][0]["sha256"]
    said["shard"] = len(await there.shard(first, 0, 1000))
    try:
        stranger = HttpTransport(url, "wrong")
        await stranger.infer([good])
    except ServerError as error:
        said["wrong token"] = str(error)
    await stranger.close()
    handle = AutoTransport("web")._handle
    [by_handle] = await handle.infer([good])
    said["same answer"] = by_handle.top_k == (await there.infer([good]))[0].top_k
    await handle.close()
    await there.close()
    said["left"] = await leave(HttpTransport(f"http://127.0.0.1:{port}/slow", "secret"))

async def leave(there):
    # Ten requests of 0.6 s each whose clients leave: how many waited before, and how many steps were still taken.
    server = serve.get_app_handle("slow")
    served = await joined(there)
    one = Request("", "digits_vit", served.manifest, 1, "fp32", (16, 96), bytes(4 * 16 * 96), top_k=1)
    calls = [asyncio.ensure_future(there.infer([replace(one, id=str(n))])) for n in range(10)]
    while (before := (await server.status.remote())["waiting"].get("digits_vit", 0)) < 10:
        await asyncio.sleep(0.01)
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    while (after := await server.status.remote())["waiting"].get("digits_vit"):
        await asyncio.sleep(0.01)
    await there.close()
    return before, after["steps"]

try:
    asyncio.run(main())
    try:
        app.deploy({"http": {"enabled": True, "port": port + 1}}, name="other")
    except ServerError as error:
        said["another port"] = str(error)
finally:
    serve.shutdown()
    ray.shutdown()
print(json.dumps(said))
"""


@pytest.mark.long
def test_requests_go_through_haproxy_into_the_replica(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    job = subprocess.run(
        [sys.executable, "-c", JOB, str(port), str(tmp_path)], cwd=ROOT, env={**os.environ}, capture_output=True,
        text=True, timeout=180,
    )  # fmt: skip
    assert job.returncode == 0, job.stderr
    said = json.loads(job.stdout.splitlines()[-1])
    assert said["url"] == f"http://127.0.0.1:{port}/web"
    assert said["parcel"] == ["Reply", "Refusal", "Reply"]
    assert said["shard"] == 1000
    assert "401" in said["wrong token"]
    assert said["same answer"] is True
    waiting, steps = said["left"]
    assert waiting == 10
    assert steps < 10  # of 30: a client that leaves takes its row with it
    assert f"already runs with HTTP at 127.0.0.1:{port}" in said["another port"]
