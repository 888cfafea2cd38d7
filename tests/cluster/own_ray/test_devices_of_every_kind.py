"""Devices of several kinds at one real Serve, at four cuts at once: each gets the unsliced model's classes.

A torch device through Ray, `headtail-device` (onnxruntime, HTTP), and Triton's own client with activations and images.
The page for browsers is there; a browser's own turn is in `tests/unit/clients/web/test_page.py`.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from slicer.models import zoo
from slicer.models.images import Preprocess, write_digits
from slicer.slicing.slice_model import slice_spec
from tests.paths import ROOT

http = pytest.importorskip("tritonclient.http")

IMAGES = 120


@pytest.mark.long
def test_each_kind_of_device_gets_the_unsliced_models_classes(tmp_path: Path) -> None:
    sliced = slice_spec(zoo.resolve("digits_vit"), 4)
    digits = write_digits(tmp_path / "digits")
    prepare = Preprocess(zoo.resolve("digits_vit"))
    with torch.inference_mode():
        pixels = torch.from_numpy(np.stack([prepare(file) for file in digits.files[:IMAGES]]))
        whole = sliced.span(0, 4)(pixels)
        activations = sliced.head(3)(pixels)
    classes = whole.argmax(1).tolist()
    right = sum(found == label for found, label in zip(classes, digits.labels, strict=False))

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = {
        "http": {"enabled": True, "host": "127.0.0.1", "port": port, "web": True},
        "torch_threads": 1,
        "token": "secret",
    }
    config |= {"shard_dir": str(tmp_path / "served"), "grpc": {"enabled": False}}
    config["models"] = [{"name": "digits_vit", "strategy": "continuous", "onnx": True}]
    (tmp_path / "server.yaml").write_text(json.dumps(config))
    url = f"http://127.0.0.1:{port}/headtail"
    env = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    env |= {"PYTHONPATH": str(ROOT), "HEADTAIL_TOKEN": "secret"}
    with tempfile.TemporaryDirectory(prefix="ray-") as ray_folder:  # tmp_path is too long for Ray's sockets
        env["RAY_TMPDIR"] = ray_folder
        process = subprocess.Popen(
            [sys.executable, "-m", "headtail", "serve", "server.yaml", "--json"], cwd=tmp_path, text=True,
            env=env, stdout=subprocess.PIPE, stderr=(tmp_path / "said").open("w"),
        )  # fmt: skip
        watch = threading.Timer(400, process.kill)
        watch.start()
        try:
            assert process.stdout is not None
            assert process.stdout.readline(), (tmp_path / "said").read_text()

            def run(*command: str) -> dict[str, Any]:
                done = subprocess.run(
                    [sys.executable, *command], cwd=tmp_path, env=env, text=True, capture_output=True, timeout=240
                )
                assert done.returncode == 0, done.stderr[-3000:]
                found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
                return found

            def by_triton() -> tuple[np.ndarray, list[int]]:
                client = http.InferenceServerClient(f"127.0.0.1:{port}/headtail")
                token, logits = {"Authorization": "Bearer secret"}, []
                request = urllib.request.Request(f"{url}/describe?model=digits_vit", headers=token)
                with urllib.request.urlopen(request) as response:
                    manifest = json.load(response)["manifest"]
                for row in activations.numpy():
                    given = http.InferInput("ACTIVATION", [1, *row.shape], "FP32")
                    given.set_data_from_numpy(row[None])
                    wanted = [http.InferRequestedOutput("logits")]
                    answer = client.infer(
                        "digits_vit",
                        [given],
                        outputs=wanted,
                        parameters={"cut": 3, "manifest": manifest},
                        headers=token,
                    )
                    logits.append(answer.as_numpy("logits")[0])
                best = []
                for file in digits.files[:IMAGES]:
                    given = http.InferInput("IMAGE", [1], "BYTES")
                    given.set_data_from_numpy(np.array([file.read_bytes()], dtype=object))
                    wanted = [http.InferRequestedOutput("top_k", class_count=1)]
                    answer = client.infer("digits_vit", [given], outputs=wanted, headers=token)
                    best.append(int(answer.as_numpy("top_k").reshape(-1)[0].decode().split(":")[1]))
                return np.stack(logits), best

            common = (
                "--images",
                str(digits.files[0].parents[1]),
                "--requests",
                str(IMAGES),
                "--codec",
                "fp32",
                "--json",
            )
            alone = "import sys; from slicer.core.standalone.command import main; sys.exit(main())"
            with ThreadPoolExecutor(3) as together:
                by_ray = together.submit(
                    run, "-m", "headtail", "device", "--server", "headtail", "--model", "digits_vit", "--cut", "1",
                    "--requests", str(IMAGES), "--json",
                )  # fmt: skip
                by_onnx = together.submit(
                    run, "-c", alone, "--url", url, "--cut", "2", "--out", str(tmp_path / "out"),
                    "--cache", str(tmp_path / "cache"), *common,
                )  # fmt: skip
                by_stock = together.submit(by_triton)
                page = urllib.request.urlopen(f"{url}/device")  # a redirect leads to device/
                asked = urllib.request.Request(page.url, headers={"If-None-Match": page.headers["ETag"]})
                with pytest.raises(urllib.error.HTTPError, match="304"):
                    urllib.request.urlopen(asked)
                ray_device, onnx_device, (logits, best) = by_ray.result(), by_onnx.result(), by_stock.result()
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
        finally:
            watch.cancel()
            process.kill()
            process.wait()
    assert page.url == f"{url}/device/" and b"this browser is a device" in page.read()
    assert page.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    for found in (ray_device, onnx_device):
        assert (found["answered"], found["requests"], found["top1_right"]) == (IMAGES, IMAGES, right)
    records = [json.loads(line) for line in (tmp_path / "out" / "records.jsonl").read_text().splitlines()]
    told = {record["image"]: record["top1"] for record in records if record["outcome"] == "answered"}
    assert len(told) == IMAGES and all(told[image] == classes[image] for image in told)
    np.testing.assert_allclose(logits, whole.numpy(), atol=1e-4 * float(whole.abs().max()))
    assert best == classes
    assert max(rows for record in records for rows in record["rows_per_step"]) > 1, "none ran beside another's"
