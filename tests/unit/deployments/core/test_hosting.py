"""What is served: labels of a model, and that another process of the node learns them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import torch
from PIL import Image

from deployments.config import ModelConfig, ServerConfig
from deployments.core.hosting import host, preprocessing_json
from deployments.ipc.hosted_model import HostedModel
from deployments.replica.preflight import check_here
from slicer.core.images.preprocessing import Preprocessing
from slicer.errors import ConfigError
from slicer.models import zoo
from slicer.models.data_config import preprocessing_of

TINY = {"img_size": 32, "patch_size": 16, "embed_dim": 24, "depth": 2, "num_heads": 2}
OWN = {"name": "pets", "model": "vit_tiny_patch16_224", "kwargs": TINY, "num_slices": 2}


def hosted(folder: Path, **model: Any) -> HostedModel:
    return host(ModelConfig(**model), folder / "served")[0]


def checkpoint(folder: Path, **beside: Any) -> str:
    module = zoo.build(zoo.resolve("vit_tiny_patch16_224", kwargs={**TINY, "num_classes": 3}))
    torch.save({"model": module.state_dict(), **beside}, folder / "pets.pth")
    return str(folder / "pets.pth")


def test_a_checkpoint_of_other_classes_is_served_without_any_file_and_with_its_labels(tmp_path: Path) -> None:
    weights = checkpoint(tmp_path, class_to_idx={"cat": 0, "dog": 1, "owl": 2})
    model = hosted(tmp_path, **OWN, checkpoint=weights)
    assert model.shapes[-1] == (3,) and model.labels == ("cat", "dog", "owl")
    named = hosted(tmp_path, **OWN, checkpoint=weights, labels=["a", "b", "c"])
    assert named.labels == ("a", "b", "c") and named.digest == model.digest, "labels make no device stale"
    assert "labels" not in json.loads(named.manifest.to_json())["spec"], "as manifests of older releases"
    assert hosted(tmp_path, **OWN, checkpoint=weights, labels="none").labels == ()
    with pytest.raises(ConfigError, match="model 'pets': 2 labels for 3 classes"):
        hosted(tmp_path, **OWN, checkpoint=weights, labels=["a", "b"])


def test_a_front_gets_labels_of_any_number_by_the_facts_and_devices_by_joining(tmp_path: Path) -> None:
    labels = tuple(f"class {number} ü" for number in range(21843))
    model = hosted(tmp_path, **{**OWN, "kwargs": {**TINY, "num_classes": 21843}}, labels=labels)
    again = HostedModel.from_facts(msgpack.unpackb(msgpack.packb(model.facts())))
    assert again.labels == labels == again.describe(()).labels
    assert json.dumps(model.facts()["config"]).count("class 7 ") == 0, "once is enough"


def test_an_export_is_served_with_its_labels_or_with_those_of_the_configuration(tmp_path: Path) -> None:
    directory = hosted(tmp_path, **OWN, checkpoint=checkpoint(tmp_path)).directory
    shards = {"name": "pets", "shards": str(directory)}
    assert hosted(tmp_path, **shards).labels == ()
    (directory / "labels.json").write_text('["cat", "dog", "owl"]')
    assert hosted(tmp_path, **shards).labels == ("cat", "dog", "owl")
    assert hosted(tmp_path, **shards, labels=["a", "b", "c"]).labels == ("a", "b", "c")
    (directory / "labels.json").write_text('["cat"]')
    with pytest.raises(ConfigError, match=r"labels\.json has 1 labels for 3 classes"):
        hosted(tmp_path, **shards)


def test_the_demo_models_have_labels(tmp_path: Path) -> None:
    assert hosted(tmp_path, name="digits_vit").labels == tuple("0123456789")
    check_here(ServerConfig(models=(ModelConfig(name="digits_vit", labels=("x",)),)))  # builds no model, so cannot know


def test_a_device_without_torch_learns_how_images_become_the_models_input(tmp_path: Path) -> None:
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8))
    model = hosted(tmp_path, **OWN)
    front = HostedModel.from_facts(msgpack.unpackb(msgpack.packb(model.facts())))
    for told in (model.describe(()), front.describe(())):
        input_ = Preprocessing.from_json(told.preprocessing_json)(photo)
        assert input_.tobytes() == model.preprocess(photo).tobytes()


@pytest.mark.parametrize(
    "data_config",
    [
        {"input_size": [2, 32, 32]},
        {"input_size": [3, 64, 64]},
        {"interpolation": "random"},
    ],
    ids=["no image", "of another size than the model", "not the same every time"],
)
def test_where_a_description_cannot_say_it_there_is_none(data_config: dict[str, Any]) -> None:
    spec = zoo.resolve("vit_tiny_patch16_224", kwargs=TINY)
    assert preprocessing_json(spec, (3, 32, 32)) == preprocessing_of(spec).to_json()
    assert preprocessing_json(replace(spec, data_config=data_config), (3, 32, 32)) == ""
