"""`headtail serve` of a folder of Hugging Face on a real Serve: a photo by HTTP gets transformers' label."""

from __future__ import annotations

import io
import json
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
from tests.cluster.own_ray.own_server import TOKEN, own_server

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

    config = {"models": [{"name": "mine", "model": str(tmp_path / "my-vit")}]}
    with own_server(tmp_path, config, limit_s=180) as server:
        token = {"Authorization": f"Bearer {TOKEN}"}
        found = ask(urllib.request.Request(f"{server.predict_url}?top_k=7", png.getvalue(), token))
        inputs = [{"name": "IMAGE", "datatype": "UINT8", "shape": [1, 48, 64, 3], "data": np.asarray(image).tolist()}]
        body = json.dumps({"inputs": inputs, "outputs": [{"name": "logits"}]}).encode()
        by_protocol = ask(urllib.request.Request(f"{server.url}/v2/models/mine/infer", body, token))
    assert [one["label"] for one in found["top_k"]] == [LABELS[number] for number in order]
    assert torch.tensor(by_protocol["outputs"][0]["data"]).argmax() == order[0]
