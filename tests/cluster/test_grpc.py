"""The gRPC way in on a real Serve, asked by Triton's own client: HAProxy, direct ingress, token.

As in test_http.py: a Ray and a Serve of its own, in a process of its own, and so long.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

JOB = r"""
import io, json, sys, time
import grpc
import numpy as np
import ray
import torch
import tritonclient.grpc as triton
from PIL import Image
from ray import serve
from tritonclient.utils import InferenceServerException
from deployments import app
from slicer.models import zoo
from slicer.core.protocol.oip.grpc.messages import SERVICE
from slicer.slicing.slice_model import slice_spec

port, grpc_port, folder, said = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], {}
torch.set_num_threads(1)
sliced = slice_spec(zoo.resolve("digits_vit"), 4)
images = torch.randn(3, *sliced.shape_at(0), generator=torch.Generator().manual_seed(0))
ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
config = {"torch_threads": 1, "shard_dir": folder, "token": "secret",
          "http": {"enabled": True, "host": "127.0.0.1", "port": port, "max_body_bytes": 1 << 20},
          "grpc": {"enabled": True, "port": grpc_port}}
app.run({"models": [{"name": "digits_vit"}], **config}, name="web")
client = triton.InferenceServerClient(f"127.0.0.1:{grpc_port}")
headers = {"authorization": "Bearer secret", "application": "web"}

def tensor(name, array, datatype):
    made = triton.InferInput(name, array.shape, datatype)
    made.set_data_from_numpy(array)
    return made

def refused(call):
    try:
        call()
    except InferenceServerException as error:
        return error.status(), error.message()
    return "answered"

def main():
    # The only application: no metadata is needed, and a probe has no token.
    ready = client.is_model_ready("digits_vit", headers=headers)
    said["health"] = [client.is_server_live(), client.is_server_ready(), ready]
    said["name"] = client.get_server_metadata(headers=headers).name
    metadata = client.get_model_metadata("digits_vit", headers=headers, as_json=True)
    said["inputs"] = [one["name"] for one in metadata["inputs"]]
    configured = client.get_model_config("digits_vit", headers=headers, as_json=True)["config"]
    said["types"] = [one["data_type"] for one in configured["input"]]
    manifest = serve.get_app_handle("web").describe.remote("digits_vit").result().manifest
    with torch.inference_mode():
        whole = sliced.tail(0)(images).numpy()
        worst = 0.0
        for cut in range(4):
            activation = sliced.head(cut)(images).numpy()
            sent = tensor("ACTIVATION", activation, "FP32")
            answer = client.infer("digits_vit", [sent], headers=headers, request_id="r",
                                  parameters={"cut": cut, "manifest": manifest})
            worst = max(worst, float(np.abs(answer.as_numpy("logits") - whole).max()))
            assert answer.get_response().id == "r"
    said["worst"] = worst
    pixels = (np.arange(32 * 32 * 3, dtype="u1") * 7).reshape(32, 32, 3)
    Image.fromarray(pixels).save(file := io.BytesIO(), "png")
    image = tensor("IMAGE", np.array([file.getvalue()], object), "BYTES")
    by_file = client.infer("digits_vit", [image], headers=headers)
    by_pixels = client.infer("digits_vit", [tensor("IMAGE", pixels[None], "UINT8")], headers=headers)
    said["image"] = float(np.abs(by_file.as_numpy("logits") - by_pixels.as_numpy("logits")).max())
    best = by_file.as_numpy("top_k")[0, 0].decode().split(":")[1]
    said["top"] = int(best) == int(by_file.as_numpy("logits")[0].argmax())

    def asked(model="digits_vit", array=images.numpy(), headers=headers, **given):
        return refused(lambda: client.infer(model, [tensor("ACTIVATION", array, "FP32")], headers=headers, **given))

    said["no token"] = asked(headers={})
    said["no model"] = asked("another")
    said["no cut"] = asked(parameters={"cut": 9, "manifest": manifest})
    said["late"] = asked(timeout=1)
    said["long"] = asked(array=np.zeros((99, 3, 32, 32), "f4"))
    said["statistics"] = refused(lambda: client.get_inference_statistics(headers=headers))
    said["elsewhere"] = refused(lambda: client.get_server_metadata(headers={**headers, "application": "none"}))
    with grpc.insecure_channel(f"127.0.0.1:{grpc_port}") as channel:
        try:
            channel.unary_unary(f"/{SERVICE}/ModelInfer")(b"\xff", metadata=list(headers.items()))
        except grpc.RpcError as error:
            said["trailing"] = dict(error.trailing_metadata())["headtail-code"]
    said["left"] = leave(manifest)

def leave(manifest):
    # Ten calls of 0.8 s each whose client leaves: how many waited before, and how many steps were still taken.
    with open(folder + "/slow.yaml", "w") as file:  # 0.2 s a slice, a row at a time
        file.write("name: slow\nsource: {hypothetical: true, what: for this test}\nbuckets: [1]\n"
                   "slices:\n  - repeat: 4\n    mean_ms: [200.0]\n")
    app.run({"models": [{"name": "digits_vit", "num_slices": 4, "max_batch": 1, "strategy": "per_slice"}], **config,
             "executor": "emulated", "executor_options": {"profile": folder + "/slow.yaml"}}, name="slow")
    server = serve.get_app_handle("slow")
    image = tensor("ACTIVATION", images.numpy()[:1], "FP32")
    calls = [client.async_infer("digits_vit", [image], lambda result, error: None,
                                headers={**headers, "application": "slow"}) for _ in range(10)]
    while (before := server.status.remote().result()["waiting"].get("digits_vit", 0)) < 10:
        time.sleep(0.01)
    for call in calls:
        call.cancel()
    while (after := server.status.remote().result())["waiting"].get("digits_vit"):
        time.sleep(0.01)
    said["grpc"] = after["grpc"]
    return before, after["steps"]

try:
    main()
finally:
    client.close()
    serve.shutdown()
    ray.shutdown()
print(json.dumps(said))
"""


def free_ports() -> list[int]:
    with socket.socket() as one, socket.socket() as other:
        for each in (one, other):
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in (one, other)]


@pytest.mark.long
def test_tritons_client_is_answered_as_by_the_unsliced_model(tmp_path: Path) -> None:
    pytest.importorskip("tritonclient.grpc")
    port, grpc_port = free_ports()
    job = subprocess.run(
        [sys.executable, "-c", JOB, str(port), str(grpc_port), str(tmp_path)], cwd=ROOT, env={**os.environ},
        capture_output=True, text=True, timeout=220,
    )  # fmt: skip
    assert job.returncode == 0, job.stderr
    said = json.loads(job.stdout.splitlines()[-1])
    assert said["health"] == [True, True, True]
    assert said["name"] == "headtail"
    assert said["inputs"] == ["IMAGE", "ACTIVATION"]
    assert said["types"] == ["TYPE_STRING", "TYPE_FP32"]
    assert said["worst"] < 1e-4
    assert said["image"] < 1e-4 and said["top"] is True
    status, message = said["no token"]
    assert status == "StatusCode.UNAUTHENTICATED" and "authorization: Bearer" in message
    status, message = said["no model"]
    assert status == "StatusCode.NOT_FOUND" and "model 'another' is not served here" in message
    assert said["no cut"][0] == "StatusCode.INVALID_ARGUMENT" and "cut 9" in said["no cut"][1]
    assert said["late"][0] == "StatusCode.DEADLINE_EXCEEDED" and "the deadline passed" in said["late"][1]
    assert said["long"][0] == "StatusCode.RESOURCE_EXHAUSTED" and "1048576" in said["long"][1]
    assert said["statistics"][0] == "StatusCode.UNIMPLEMENTED"
    assert said["elsewhere"][0] == "StatusCode.NOT_FOUND" and "Application 'none' not found" in said["elsewhere"][1]
    assert said["trailing"] == "bad_request"
    waiting, steps = said["left"]
    assert waiting == 10
    assert steps < 10  # of 40: a client that leaves takes its rows with it
    assert said["grpc"] == f"127.0.0.1:{grpc_port}"
