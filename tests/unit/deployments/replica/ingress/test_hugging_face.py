"""Folders of Hugging Face, served: labels, logits and class maps are those of transformers' own processor and model.

What is compared with comes from the same folder by transformers alone, through none of our code.
"""

from __future__ import annotations

import json
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from benchmarks.models.hugging_face import FAMILIES, Family, answer, save_random
from deployments.ipc.hosted_model import HostedModel
from deployments.replica.tail_server import TailServer
from slicer import shards
from slicer.core.protocol.oip import http_body, http_writing
from slicer.core.protocol.oip.tensors import InferRequest, InferResponse, Tensor, WantedOutput, tensor_of_array

transformers = pytest.importorskip("transformers")

Serve = Callable[[dict[str, Any]], AbstractContextManager[tuple[str, TailServer]]]

LABELS = ("tabby cat", "dog", "owl", "hen", "cow", "bee: bumble", "ant")

PX = 32

_SQUARE = {"size": {"height": PX, "width": PX}}
_CROP = {"crop_size": {"height": PX, "width": PX}}

#: The processor that models of a family are published with, for images of `PX`; the others have ViT's.
PROCESSORS: dict[str, tuple[str, dict[str, Any]]] = {
    "DeiT": ("DeiT", {"size": {"height": 36, "width": 36}, **_CROP}),
    "DeiT, distilled": ("DeiT", {"size": {"height": 36, "width": 36}, **_CROP}),
    "DINOv2": ("Bit", {"size": {"shortest_edge": 36}, **_CROP}),
    "DINOv2 tower": ("Bit", {"size": {"shortest_edge": 36}, **_CROP}),
    "DINOv2 with registers": ("Bit", {"size": {"shortest_edge": 36}, **_CROP}),
    "BEiT": ("Beit", _SQUARE),
    "CLIP tower": ("CLIP", {"size": {"shortest_edge": PX}, **_CROP}),
    "SigLIP tower": ("Siglip", _SQUARE),
    "SegFormer": ("Segformer", _SQUARE),
    "SegFormer, dense": ("Segformer", _SQUARE),
    "ConvNeXt": ("ConvNext", {"size": {"shortest_edge": PX}, "crop_pct": 0.875}),
    "ConvNeXt V2": ("ConvNext", {"size": {"shortest_edge": PX}, "crop_pct": 0.875}),
    "Data2Vec": ("Beit", _SQUARE),
    "DINOv3 tower": ("DINOv3ViT", _SQUARE),
}

#: The families of docs/models.md; and ConvNeXt's second version.
SERVED: tuple[Family, ...] = (
    *FAMILIES,
    Family(
        "ConvNeXt V2",
        "ConvNextV2ForImageClassification",
        tiny={"hidden_sizes": [8, 16, 16, 32], "depths": [1, 1, 2, 1], "image_size": PX},
    ),
)
DENSE = tuple(family for family in SERVED if family.made.endswith("ForSemanticSegmentation"))
CLASSIFIERS = tuple(family for family in SERVED if family.output == "logits" and family not in DENSE)
TOWERS = tuple(family for family in SERVED if family.output != "logits")


@dataclass
class Folders:
    """A server of a folder for each family.

    Attributes:
        url: of the application.
        folder: holds the folders, by the family's name.
        models: that are served, by the family's name.
    """

    url: str
    folder: Path
    models: Mapping[str, HostedModel]

    def infer(
        self, name: str, tensor: Tensor, outputs: tuple[str, ...] = ("logits",), **parameters: Any
    ) -> InferResponse:
        """The outputs; before them the classes, of a dense model the map of them."""
        dense = name in {family.name for family in DENSE}
        classes = WantedOutput("class_map", {"binary_data": True}) if dense else WantedOutput("top_k", {"k": 7})
        wanted = [classes, *(WantedOutput(output, {"binary_data": True}) for output in outputs)]
        body, length = http_writing.encode_request(InferRequest(name, [tensor], wanted, "", "", parameters))
        url = f"{self.url}/v2/models/{quote(name)}/infer"
        request = urllib.request.Request(url, body, {http_body.LENGTH_HEADER: str(length)})
        with urllib.request.urlopen(request, timeout=30) as got:
            return http_body.decode_response(got.read(), got.headers.get(http_body.LENGTH_HEADER))

    def theirs(self, family: Family, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """[C], or of a dense model [C, h, w]: what transformers makes of the folder and of pixels [3, H, W]."""
        return answer(family, self.model(family), torch.from_numpy(pixels)[None]).numpy()[0]

    def model(self, family: Family) -> Any:
        """The folder's model, by transformers alone."""
        model = getattr(transformers, family.made).from_pretrained(self.folder / family.name).eval()
        model.requires_grad_(False)  # as whoever only infers; else attention of torch's own layer rounds otherwise
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.data = tensor.data.clone()  # pages of a mapped file are aligned otherwise, and so rounded
        return model

    def pixels(self, family: Family, image: Image.Image, kind: str) -> npt.NDArray[np.float32]:
        """[3, H, W]: what a processor of transformers makes of an image; `kind`: AutoImageProcessor, or a class."""
        processor = getattr(transformers, kind).from_pretrained(self.folder / family.name)
        return np.asarray(processor(image, return_tensors="np")["pixel_values"][0], np.float32)


def save(family: Family, folder: Path) -> None:
    """A folder as save_pretrained writes it: the model, its labels, and its family's processor."""
    model: Any = save_random(family, folder, tiny=True)
    if family in DENSE:
        model.decode_head.classifier.bias.zero_()  # else one class is the best at every place
        model.save_pretrained(folder)
    if family.output == "logits":
        config = model.config
        config.id2label, config.label2id = dict(enumerate(LABELS)), {name: i for i, name in enumerate(LABELS)}
        config.save_pretrained(folder)
    kind, options = PROCESSORS.get(family.name, ("ViT", _SQUARE))
    getattr(transformers, f"{kind}ImageProcessor")(**options).save_pretrained(folder)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, serve: Serve) -> Iterator[Folders]:
    """All of `SERVED`, by one server."""
    folder: Path = tmp_path_factory.mktemp("hugging_face")
    for family in SERVED:
        save(family, folder / family.name)
    models = [
        {"name": family.name, "model": f"{folder}/{family.name}", "num_slices": 3, "strategy": "continuous"}
        | {"outputs": ["features", "tokens"]}
        for family in SERVED
    ]
    config = {"models": models, "torch_threads": 1, "shard_dir": str(folder / "served")}
    with serve(config) as (address, tail):
        yield Folders(f"http://{address}/headtail", folder, tail.models)


def ids(family: Family) -> str:
    return family.name


def pil(family: Family) -> str:
    """The class of its processor that resizes by PIL, as timm does; the first versions of 5 gave it the plain name."""
    name = f"{PROCESSORS.get(family.name, ('ViT', {}))[0]}ImageProcessor"
    return f"{name}Pil" if hasattr(transformers, f"{name}Pil") else name


@pytest.mark.parametrize("family", CLASSIFIERS, ids=ids)
def test_a_photo_is_answered_with_transformers_label_and_order(
    family: Family, served: Folders, photo: Image.Image, png: bytes
) -> None:
    query = f"{served.url}/predict?top_k=7&model={quote(family.name)}"
    with urllib.request.urlopen(urllib.request.Request(query, png), timeout=30) as got:
        found = json.loads(got.read())
    names = transformers.AutoConfig.from_pretrained(served.folder / family.name).id2label
    for kind in (pil(family), "AutoImageProcessor"):
        logits = served.theirs(family, served.pixels(family, photo, kind))
        order = [names[number] for number in np.argsort(-logits, kind="stable").tolist()]
        assert [one["label"] for one in found["top_k"]] == order, kind
        assert found["label"] == order[0]


@pytest.mark.parametrize("family", (*CLASSIFIERS, *TOWERS), ids=ids)
def test_a_photo_by_the_open_protocol_has_transformers_bits(
    family: Family, served: Folders, photo: Image.Image, png: bytes
) -> None:
    best, logits = served.infer(family.name, Tensor("IMAGE", "BYTES", (1,), [png])).outputs
    want = served.theirs(family, served.pixels(family, photo, pil(family)))
    most = 0 if pil(family).endswith("Pil") else 0.01  # DINOv3's alone resizes tensors always
    np.testing.assert_allclose(logits.array()[0], want, rtol=0, atol=most)
    said = [bytes(one).decode().split(":", 2)[1:] for one in best.elements()]
    order = np.argsort(-want, kind="stable")[:7].tolist()
    assert [int(one[0]) for one in said] == order
    if family.output == "logits":
        assert [one[1] for one in said] == [LABELS[number] for number in order]


@pytest.mark.parametrize("cut", range(3))
@pytest.mark.parametrize("family", SERVED, ids=ids)
def test_at_every_cut_transformers_bits(family: Family, cut: int, served: Folders) -> None:
    """The activation is made of the published shards, as a device makes it."""
    model = served.models[family.name]
    pixels = np.random.default_rng(cut).standard_normal((1, 3, PX, PX), np.float32)
    sent = pixels
    if cut:
        with torch.inference_mode():
            sent = shards.load_span(model.directory, 0, cut)(torch.from_numpy(pixels)).numpy()
    tensor = tensor_of_array("ACTIVATION", sent)
    _, logits = served.infer(family.name, tensor, cut=cut, manifest=model.digest).outputs
    want = served.theirs(family, pixels[0])
    assert np.array_equal(logits.array()[0], want), np.abs(logits.array()[0] - want).max()


@pytest.mark.parametrize("family", SERVED, ids=ids)
def test_features_and_tokens_are_what_transformers_tower_returns(family: Family, served: Folders) -> None:
    model = served.models[family.name]
    pixels = np.random.default_rng(7).standard_normal((1, 3, PX, PX), np.float32)
    whole = served.model(family)
    tower = whole if family in TOWERS else getattr(whole, whole.base_model_prefix)
    with torch.inference_mode():
        said = tower(torch.from_numpy(pixels))
        sent = shards.load_span(model.directory, 0, 1)(torch.from_numpy(pixels)).numpy()
    tokens = said["last_hidden_state"]
    pooled = said.get("image_embeds") if family.output == "image_embeds" else said.get("pooler_output")
    if pooled is None:
        has_class_token = "cls_token" in str(list(dict(tower.named_parameters())))
        places = tokens.flatten(2).mean(2) if tokens.ndim == 4 else tokens.mean(1)  # of a map [B, C, h, w]
        pooled = tokens[:, 0] if has_class_token else places
    names = ("features", "tokens")
    tensor = tensor_of_array("ACTIVATION", sent)
    _, *found = served.infer(family.name, tensor, names, cut=1, manifest=model.digest).outputs
    for output, want in zip(found, (pooled, tokens), strict=True):
        np.testing.assert_array_equal(output.array(), want.numpy(), output.name)


def test_features_of_a_map_are_what_its_classifier_classifies(served: Folders) -> None:
    (segformer,) = (family for family in CLASSIFIERS if family.name == "SegFormer")
    pixels = np.random.default_rng(7).standard_normal((1, 3, PX, PX), np.float32)
    whole = served.model(segformer)
    seen: list[torch.Tensor] = []
    whole.classifier.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    served_model = served.models[segformer.name]
    whole(torch.from_numpy(pixels))
    tensor = tensor_of_array("ACTIVATION", pixels)
    _, found = served.infer(segformer.name, tensor, ("features",), cut=0, manifest=served_model.digest).outputs
    np.testing.assert_allclose(found.array(), seen[0].numpy(), rtol=1e-5, atol=1e-6)  # summed in another order


@pytest.mark.parametrize("family", DENSE, ids=ids)
def test_a_photo_has_transformers_class_at_each_place(
    family: Family, served: Folders, photo: Image.Image, png: bytes
) -> None:
    class_map, logits = served.infer(family.name, Tensor("IMAGE", "BYTES", (1,), [png])).outputs
    want = served.theirs(family, served.pixels(family, photo, pil(family)))
    assert want.shape == (len(LABELS), PX // 4, PX // 4)
    np.testing.assert_array_equal(logits.array()[0], want)
    np.testing.assert_array_equal(class_map.array()[0], want.argmax(0))
    assert len(np.unique(class_map.array())) > 1  # else the comparison says little


@pytest.mark.parametrize("family", DENSE, ids=ids)
def test_a_dense_model_has_no_classes_for_the_whole_image(family: Family, served: Folders, png: bytes) -> None:
    model = served.models[family.name]
    assert (model.labels, model.classifies) == ((), False)
    query = f"{served.url}/predict?model={quote(family.name)}"
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(urllib.request.Request(query, png), timeout=30)
    assert refused.value.code == 400
    assert "answers [7, 8, 8], not classes; ask by /v2 for class_map" in refused.value.read().decode()


@pytest.mark.parametrize("family", TOWERS, ids=ids)
def test_a_tower_has_no_labels(family: Family, served: Folders) -> None:
    assert served.models[family.name].labels == ()


def test_a_name_of_the_hub_is_served_from_a_filled_cache(
    served: Folders, serve: Serve, photo: Image.Image, png: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    repository, commit = tmp_path / "hub" / "models--acme--my-swin", "0123456789abcdef0123456789abcdef01234567"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    (swin,) = (family for family in SERVED if family.name == "Swin")
    shutil.copytree(served.folder / "Swin", repository / "snapshots" / commit)
    config = {"models": [{"name": "hf:acme/my-swin"}], "torch_threads": 1, "shard_dir": str(tmp_path / "served")}
    with serve(config) as (address, _):
        here = Folders(f"http://{address}/headtail", served.folder, {})
        best, logits = here.infer("hf:acme/my-swin", Tensor("IMAGE", "BYTES", (1,), [png])).outputs
    want = served.theirs(swin, served.pixels(swin, photo, pil(swin)))
    assert np.array_equal(logits.array()[0], want)
    assert bytes(best.elements()[0]).decode().split(":", 2)[2] == LABELS[int(want.argmax())]
