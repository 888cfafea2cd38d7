"""Models on one trunk are three models to whoever asks: names, shapes, labels and answers of their own."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch

from deployments.replica.tail_server import TailServer
from headtail import Client
from slicer.models import zoo
from slicer.slicing.slice_model import slice_spec

KWARGS = {"img_size": 32, "depth": 2}
AT = ["blocks.0", "norm"]


def test_forks_are_answered_each_for_itself(
    serve: Callable[[dict[str, Any]], AbstractContextManager[tuple[str, TailServer]]], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    state = timm.create_model("vit_tiny_patch16_224", num_classes=4, **KWARGS).state_dict()
    torch.save(state, tmp_path / "pets.pth")
    state = {**state, "head.weight": torch.randn(6, 192), "head.bias": torch.randn(6)}
    torch.save(state, tmp_path / "flowers.pth")
    common = {"model": "vit_tiny_patch16_224", "at": AT}
    sources = {"pets": ("pets", {}), "flowers": ("flowers", {}), "embedding": ("pets", {"num_classes": 0})}
    models, sliced = [], {}
    for name, (file, more) in sources.items():
        kwargs, path = {**KWARGS, **more}, str(tmp_path / f"{file}.pth")
        trunk = {} if name == "pets" else {"trunk": "pets"}
        models.append({**common, "name": name, "kwargs": kwargs, "checkpoint": path, **trunk})
        sliced[name] = slice_spec(zoo.resolve("vit_tiny_patch16_224", kwargs=kwargs, checkpoint=path), at=AT)
    models[1]["labels"] = [f"flower {number}" for number in range(6)]
    config = {"models": models, "torch_threads": 1, "shard_dir": str(tmp_path / "served")}
    images = torch.randn(24, 3, 32, 32)
    with serve(config) as (address, _), Client(f"http://{address}/headtail") as client:

        def ask(number: int) -> float:
            name, cut = list(sources)[number % 3], number % 2 + 1
            with torch.inference_mode():
                activation = sliced[name].head(cut)(images[number][None])
                want = sliced[name].module(images[number][None])[0].numpy()
            found = client.infer(activation[0].numpy(), cut=cut, model=name)
            assert found.shape == want.shape
            return float(np.abs(found - want).max())

        with ThreadPoolExecutor(8) as threads:
            assert max(threads.map(ask, range(24))) < 1e-4
        with torch.inference_mode():
            want = int(sliced["flowers"].module(images[:1]).argmax())
        assert client.infer(images[0].numpy(), cut=0, model="flowers", top_k=1).label == f"flower {want}"
