"""`headtail serve` of a folder of Hugging Face on a real Serve: a photo by HTTP gets transformers' label.

Serve's way in is fixed when it starts, and the shared cluster's has none; so the command has a Ray of its own, and the
test is long.
"""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.models.hugging_face import FAMILIES, answer, save_random

transformers = pytest.importorskip("transformers")

LABELS = ["tabby cat", "dog", "owl", "hen", "cow", "bee", "ant"]


def ask(request: urllib.request.Request, timeout_s: float = 20) -> Any:
    """Its JSON; HAProxy learns of a new application a moment after Serve says that it runs."""
    end_s = time.monotonic() + timeout_s
    while True:
        try:
            with urllib.request.urlopen(request, timeout=10) as got:
                return json.loads(got.read())
        except (urllib.error.HTTPError, OSError):
            if time.monotonic() > end_s:
                raise
            time.sleep(0.2)


@pytest.mark.long
def test_headtail_serve_of_a_folder_answers_a_photo_with_transformers_label(tmp_path: Path) -> None:
    model = save_random(FAMILIES[0], tmp_path / "my-vit", tiny=True)
    file = tmp_path / "my-vit" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "id2label": dict(enumerate(LABELS))}))
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8))
    png = io.BytesIO()
    image.save(png, "PNG")
    pixels = transformers.AutoImageProcessor.from_pretrained(file.parent)(image, return_tensors="pt")["pixel_values"]
    order = answer(FAMILIES[0], model, pixels)[0].argsort(descending=True).tolist()

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = {"http": {"enabled": True, "host": "127.0.0.1", "port": port}, "torch_threads": 1, "token": "secret"}
    config |= {"shard_dir": str(tmp_path / "served"), "grpc": {"enabled": False}}
    config["models"] = [{"name": "mine", "model": str(tmp_path / "my-vit")}]
    (tmp_path / "server.yaml").write_text(json.dumps(config))
    env = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    with tempfile.TemporaryDirectory(prefix="ray-") as ray_folder:  # tmp_path is too long for Ray's sockets
        process = subprocess.Popen(
            [sys.executable, "-m", "headtail", "serve", "server.yaml", "--json"], cwd=tmp_path, text=True,
            env={**env, "RAY_TMPDIR": ray_folder, "PYTHONPATH": str(Path(__file__).parents[3])},
            stdout=subprocess.PIPE, stderr=(tmp_path / "said").open("w"),
        )  # fmt: skip
        watch = threading.Timer(180, process.kill)
        watch.start()
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, (tmp_path / "said").read_text()
            token = {"Authorization": "Bearer secret"}
            url = json.loads(line)["predict_url"]
            found = ask(urllib.request.Request(f"{url}?top_k=7", png.getvalue(), token))
            inputs = [
                {"name": "IMAGE", "datatype": "UINT8", "shape": [1, 48, 64, 3], "data": np.asarray(image).tolist()}
            ]
            body = json.dumps({"inputs": inputs, "outputs": [{"name": "logits"}]}).encode()
            by_protocol = ask(
                urllib.request.Request(f"http://127.0.0.1:{port}/headtail/v2/models/mine/infer", body, token)
            )
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
        finally:
            watch.cancel()
            process.kill()
            process.wait()
    assert [one["label"] for one in found["top_k"]] == [LABELS[number] for number in order]
    assert torch.tensor(by_protocol["outputs"][0]["data"]).argmax() == order[0]
