"""Checkpoints as people have them, served: a picture by HTTP is answered with the label that the model itself gives."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from deployments.replica.tail_server import TailServer
from slicer.core.shards.spec import ModelSpec
from slicer.models.images import Preprocess
from tests.unit.checkpoint_layouts import BODY, LAYOUTS, VIT, prefixed, state, trained

LABELS = ("cat", "dog", "owl", "hen", "cow", "bee", "ant")

Serve = Callable[[dict[str, Any]], AbstractContextManager[tuple[str, TailServer]]]

#: Beside `LAYOUTS`: where in the file, what it holds.
BY_KEY: dict[str, tuple[str | None, Callable[[], Any]]] = {
    "average": (None, lambda: {"model": state(4), "model_ema": state()}),
    "not the average": ("model", lambda: {"model": state(), "model_ema": state(4)}),
    "of two prefixes": (
        "student",
        lambda: {"state_dict": {**prefixed("student.", state()), **prefixed("t.", state(4))}},
    ),
}


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, serve: Serve) -> Iterator[str]:
    """A server of a model for each layout, with labels from the checkpoint where there is a place for them."""
    folder: Path = tmp_path_factory.mktemp("checkpoints")
    models = []
    for name, (key, layout) in {**{name: (None, layout) for name, layout in LAYOUTS.items()}, **BY_KEY}.items():
        content = dict(layout())
        model: dict[str, Any] = {"name": name, "model": VIT, "kwargs": BODY, "num_slices": 2, "checkpoint_key": key}
        if any(isinstance(value, torch.Tensor) for value in content.values()):
            model["labels"] = list(LABELS)
        else:
            content["class_names"] = list(LABELS)
        torch.save(content, folder / f"{name}.pth")
        models.append({**model, "checkpoint": str(folder / f"{name}.pth")})
    config = {"models": models, "torch_threads": 1, "shard_dir": str(folder / "served")}
    with serve(config) as (address, tail):
        assert len({model.digest for model in tail.models.values()}) == 1, "the same weights, wherever they lay"
        yield f"http://{address}/headtail"


@pytest.mark.parametrize("name", [*LAYOUTS, *BY_KEY])
def test_an_odd_layout_is_served_and_answers_with_its_labels(
    name: str, address: str, photo: Image.Image, png: bytes
) -> None:
    query = f"{address}/predict?top_k=7&model={name.replace(' ', '%20')}"
    with urllib.request.urlopen(urllib.request.Request(query, png), timeout=30) as answer:
        found = json.loads(answer.read())
    image = torch.from_numpy(Preprocess(ModelSpec(VIT, BODY))(photo))[None]
    with torch.inference_mode():
        order = trained()(image)[0].argsort(descending=True).tolist()
    assert [one["label"] for one in found["top_k"]] == [LABELS[number] for number in order]
