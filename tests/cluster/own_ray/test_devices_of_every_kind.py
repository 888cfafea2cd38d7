"""Devices of all kinds at one real Serve, at four cuts at once: each gets the unsliced model's classes.

The accelerator is emulated: it gives true answers, and takes so long for a slice that rows meet on every machine. All
else is real: a torch device through Ray, `headtail-device` (onnxruntime, HTTP), Triton's own client with activations
and images, and a browser tab with a camera. Where there is no Chromium, or no onnxruntime-web (`make web`), the others
run without it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from deployments.engine.trace import KEPT
from deployments.replica.ingress.web_page import WebPage
from slicer.core.standalone.one_run import WARMUP_IMAGES
from slicer.models import zoo
from slicer.models.images import Preprocess, write_digits
from slicer.slicing.slice_model import slice_spec
from tests.cluster.own_ray.browser_tab import Seen, watch, write_video
from tests.cluster.own_ray.own_server import TOKEN, own_server
from tests.unit.clients.web.chromium import find_chromium

http = pytest.importorskip("tritonclient.http")

IMAGES = 120
SLICES = 5

#: Where each kind cuts; Triton's client sends images as well, which enter at 0.
BY_RAY, BY_ONNX, BY_TRITON, BY_BROWSER = 1, 2, 3, 4

#: Images per second of the devices, so that they are at work long enough to meet the others; rows of Triton's client.
RATE, TRITON_EVERY_S = 6, 0.05

#: A batch takes no longer than a row. Slow, so that its steps are few enough to be kept (`KEPT`).
_ACCELERATOR = f"""
name: slow
source: {{hypothetical: true, what: 30 ms per slice for any batch}}
buckets: [1, 32]
slices: [{{repeat: {SLICES}, mean_ms: [30.0, 30.0]}}]
"""

_ALONE = "import sys; from slicer.core.standalone.command import main; sys.exit(main())"

#: What the server says when all have ended: the steps that it ran, and what it counted.
_ASK_THE_SERVER = """
import json, sys, ray
from ray import serve
ray.init(address=sys.argv[1], log_to_driver=False)
handle = serve.get_app_handle("headtail")
print(json.dumps({name: getattr(handle, name).remote().result() for name in ("steps", "status")}))
"""


class Triton:
    """Triton's own client, with the server's token."""

    def __init__(self, url: str) -> None:
        self._client = http.InferenceServerClient(url.removeprefix("http://"))
        self._token = {"Authorization": f"Bearer {TOKEN}"}
        request = urllib.request.Request(f"{url}/describe?model=digits_vit", headers=self._token)
        with urllib.request.urlopen(request) as response:
            self._manifest = json.load(response)["manifest"]

    def logits(self, row: np.ndarray) -> np.ndarray:
        """Of an activation."""
        given = http.InferInput("ACTIVATION", [1, *row.shape], "FP32")
        given.set_data_from_numpy(row[None])
        wanted = [http.InferRequestedOutput("logits")]
        parameters = {"cut": BY_TRITON, "manifest": self._manifest}
        answer = self._client.infer("digits_vit", [given], outputs=wanted, parameters=parameters, headers=self._token)
        found: np.ndarray = answer.as_numpy("logits")[0]
        return found

    def best(self, file: Path) -> int:
        """The class of an image, as its file is."""
        given = http.InferInput("IMAGE", [1], "BYTES")
        given.set_data_from_numpy(np.array([file.read_bytes()], dtype=object))
        wanted = [http.InferRequestedOutput("top_k", class_count=1)]
        answer = self._client.infer("digits_vit", [given], outputs=wanted, headers=self._token)
        return int(answer.as_numpy("top_k").reshape(-1)[0].decode().split(":")[1])


@pytest.mark.long
@pytest.mark.timeout(900)
def test_each_kind_of_device_gets_the_unsliced_models_classes(tmp_path: Path) -> None:
    sliced = slice_spec(zoo.resolve("digits_vit"), SLICES)
    digits = write_digits(tmp_path / "digits")
    prepare = Preprocess(zoo.resolve("digits_vit"))
    with torch.inference_mode():
        pixels = torch.from_numpy(np.stack([prepare(file) for file in digits.files[:IMAGES]]))
        whole = sliced.span(0, SLICES)(pixels)
        activations = sliced.head(BY_TRITON)(pixels)
    classes = whole.argmax(1).tolist()
    right = sum(found == label for found, label in zip(classes, digits.labels, strict=False))
    chromium = find_chromium() if "ort/ort.wasm.min.mjs" in WebPage().names else None
    write_video(digits.files[:IMAGES:4], tmp_path / "camera.y4m")

    (tmp_path / "slow.yaml").write_text(_ACCELERATOR)
    config = {
        "http": {"web": True},
        "executor": "emulated",
        "executor_options": {"profile": str(tmp_path / "slow.yaml"), "answers": "true"},
        "models": [{"name": "digits_vit", "strategy": "per_slice", "onnx": True, "num_slices": SLICES}],
    }
    ended = threading.Event()  # the devices with so many images have ended; the others go on until then
    with own_server(tmp_path, config, limit_s=800, on_limit=ended.set) as own:
        url, cluster, env = own.url, own.cluster, {**own.env, "HEADTAIL_TOKEN": TOKEN}

        def run(*command: str) -> dict[str, Any]:
            done = subprocess.run(
                [sys.executable, *command], cwd=tmp_path, env=env, text=True, capture_output=True, timeout=600
            )
            assert done.returncode == 0, done.stderr[-3000:]
            found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
            return found

        def images_by_triton() -> list[int]:
            client = Triton(url)
            return [client.best(file) for file in digits.files[:IMAGES]]

        def activations_by_triton() -> list[np.ndarray]:
            client = Triton(url)
            logits: list[np.ndarray] = []
            while not ended.wait(TRITON_EVERY_S) or len(logits) < IMAGES:
                logits.append(client.logits(activations.numpy()[len(logits) % IMAGES]))
            return logits

        def by_browser() -> list[Seen]:
            page = f"{url}/device/#token={TOKEN}"
            return watch(str(chromium), page, tmp_path / "camera.y4m", tmp_path / "browser", BY_BROWSER, ended)

        common = ("--requests", str(IMAGES), "--rate", str(RATE), "--codec", "fp32", "--json")
        with ThreadPoolExecutor(5) as together:
            by_ray = together.submit(
                run, "-m", "headtail", "device", "--server", "headtail", "--address", cluster,
                "--model", "digits_vit", "--cut", str(BY_RAY), *common,
            )  # fmt: skip
            by_onnx = together.submit(
                run, "-c", _ALONE, "--url", url, "--cut", str(BY_ONNX), "--out", str(tmp_path / "out"),
                "--cache", str(tmp_path / "cache"), "--images", str(digits.files[0].parents[1]), *common,
            )  # fmt: skip
            by_stock = together.submit(images_by_triton), together.submit(activations_by_triton)
            by_tab = together.submit(by_browser) if chromium else None
            try:
                page = urllib.request.urlopen(f"{url}/device")  # a redirect leads to device/
                asked = urllib.request.Request(page.url, headers={"If-None-Match": page.headers["ETag"]})
                with pytest.raises(urllib.error.HTTPError, match="304"):
                    urllib.request.urlopen(asked)
                ray_device, onnx_device = by_ray.result(), by_onnx.result()
            finally:
                ended.set()
            best, logits = by_stock[0].result(), by_stock[1].result()
            frames = by_tab.result() if by_tab else []
        server = run("-c", _ASK_THE_SERVER, cluster)
    assert page.url == f"{url}/device/" and b"this browser is a device" in page.read()
    assert page.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]

    for found in (ray_device, onnx_device):
        assert (found["answered"], found["requests"], found["top1_right"]) == (IMAGES, IMAGES, right)
    records = [json.loads(line) for line in (tmp_path / "out" / "records.jsonl").read_text().splitlines()]
    told = {record["image"]: record["top1"] for record in records if record["outcome"] == "answered"}
    assert len(told) == IMAGES and all(told[image] == classes[image] for image in told)
    near = 1e-4 * float(whole.abs().max())
    np.testing.assert_allclose(logits[:IMAGES], whole.numpy(), atol=near)
    assert best == classes
    for frame in frames:  # by what the page saw, since a camera's colours are not a file's
        with torch.inference_mode():
            expected = sliced.span(0, SLICES)(torch.from_numpy(prepare(Image.fromarray(frame.pixels)))[None])[0]
        np.testing.assert_allclose(frame.logits, expected.numpy(), atol=near)

    steps = server["steps"]["steps"]
    assert len(steps) < KEPT, "the first steps are forgotten, so nothing can be counted"
    came_in = Counter({cut: 0 for cut in range(SLICES)})  # rows whose first step this was
    for step in steps:
        came_in[step["start"]] += step["entries"].get(str(step["start"]), 0)
    each = IMAGES + WARMUP_IMAGES
    sent = {0: IMAGES, BY_RAY: each, BY_ONNX: each, BY_TRITON: len(logits), BY_BROWSER: len(frames)}
    assert dict(came_in) == sent, "the server's books and those of the devices differ"
    assert not any(server["status"]["waiting"].values())
    kinds = {str(cut) for cut in (BY_RAY, BY_ONNX, BY_TRITON, *([BY_BROWSER] if chromium else []))}
    mixed = set().union(*(step["entries"] for step in steps if len(step["entries"]) > 1))
    assert kinds <= mixed, f"only rows that entered at {sorted(mixed)} ran in one step with those of another kind"
    if chromium is None:
        pytest.skip("all passed but the browser's tab, which was not there: apt-get install chromium, and make web")
