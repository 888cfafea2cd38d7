"""Whole outputs on request: features, tokens, dense maps, by stock clients and ours, at every cut."""

from __future__ import annotations

import asyncio
import base64
import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import tritonclient.http as triton
from PIL import Image
from torch import nn

from deployments.replica.ingress import open_inference
from deployments.replica.tail_server import TailServer
from headtail import Client
from slicer.core.codecs import activations
from slicer.core.device.answer import outputs_of
from slicer.core.network.http_transport import HttpTransport
from slicer.core.protocol.messages import Answer, Reply, Request
from slicer.core.protocol.oip import http_body, http_writing
from slicer.core.protocol.oip.responses import MOST_CLASSES, check_classes
from slicer.core.protocol.oip.tensors import InferRequest, InferResponse, Tensor, WantedOutput
from slicer.core.protocol.outputs import packed
from slicer.errors import BadRequestError, RefusedError
from slicer.models import zoo
from slicer.models.images import Preprocess
from slicer.slicing.slice_model import SlicedModel, slice_spec

TIMM = {"img_size": 64, "num_classes": 7}


class Segmenter(nn.Module):
    """A dense model: 300 classes at each of 64 places."""

    def __init__(self, classes: int = 300) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Conv2d(3 if i == 0 else 8, 8, 3, padding=1) for i in range(3)])
        self.classify = nn.Conv2d(8, classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = torch.relu(block(x))
        return self.classify(x)


def segmenter() -> nn.Module:
    return Segmenter()


SPEC = zoo.resolve("vit_tiny_patch16_224", kwargs=TIMM, seed=3, outputs=["features", "tokens"])


@pytest.fixture(scope="module")
def offered(
    serve: Callable[[dict[str, Any]], AbstractContextManager[tuple[str, TailServer]]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:
    """URL of a server of both models."""
    config = {
        "models": [
            {"name": "vit", "model": "vit_tiny_patch16_224", "kwargs": TIMM, "seed": 3, "strategy": "continuous"}
            | {"outputs": ["tokens", "features"]},
            {"name": "dense", "model": f"{__name__}:segmenter", "seed": 3, "num_slices": 3, "strategy": "per_slice"}
            | {"max_answer_bytes": 61_000_000},
            {"name": "embeds", "model": "vit_tiny_patch16_224", "kwargs": {**TIMM, "num_classes": 0}, "seed": 3},
            {"name": "named", "model": "vit_tiny_patch16_224", "kwargs": {**TIMM, "num_classes": 0}, "seed": 3}
            | {"outputs": ["features"]},
        ],
        "torch_threads": 1,
        "shard_dir": str(tmp_path_factory.mktemp("served")),
    }
    with serve(config) as (address, _):
        yield f"http://{address}/headtail"


@pytest.fixture(scope="module")
def vit() -> SlicedModel:
    return slice_spec(SPEC, 4)


@pytest.fixture(scope="module")
def wanted(photo: Image.Image, vit: SlicedModel) -> dict[str, np.ndarray[Any, Any]]:
    """What timm itself says of the photo."""
    whole = zoo.build(zoo.resolve("vit_tiny_patch16_224", kwargs=TIMM, seed=3))
    with torch.inference_mode():
        x = torch.from_numpy(Preprocess(SPEC)(photo))[None]
        tokens = whole.forward_features(x)  # type: ignore[operator]
        features = whole.forward_head(tokens, pre_logits=True)  # type: ignore[operator]
        found = {"logits": whole(x), "features": features, "tokens": tokens, "pixels": x}
    return {name: value[0].numpy() for name, value in found.items()}


def manifest_of(url: str, model: str) -> str:
    with urllib.request.urlopen(f"{url}/v2/models/{model}") as answer:
        inputs = {one["name"]: one for one in json.load(answer)["inputs"]}
    return str(inputs["ACTIVATION"]["parameters"]["manifest"])


def test_classes_are_no_array(offered: str, png: bytes) -> None:
    with Client(offered) as client, pytest.raises(BadRequestError, match="use predict"):
        client.output("top_k", png, model="vit")


@pytest.mark.parametrize(("model", "output"), [("embeds", "logits"), ("named", "features")])
def test_an_embedding_has_no_classes_and_predict_says_where_it_is(
    model: str, output: str, offered: str, png: bytes, wanted: dict[str, np.ndarray[Any, Any]]
) -> None:
    request = urllib.request.Request(f"{offered}/predict?model={model}&top_k=3", png)
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request)
    said = json.load(refused.value)["error"]
    assert refused.value.code == 400
    assert "an embedding of 192 numbers, which has no top_k classes" in said
    assert f"/v2/models/{model}/infer and ask for output {output}" in said and "features" in said
    with Client(offered) as client:
        assert client.describe(model).classifies is False
        assert client.describe("vit").classifies is True
        found = client.output(output, png, model=model)
    whole = zoo.build(zoo.resolve("vit_tiny_patch16_224", kwargs={**TIMM, "num_classes": 0}, seed=3))
    with torch.inference_mode():
        np.testing.assert_array_equal(found, whole(torch.from_numpy(wanted["pixels"])[None])[0].numpy())


@pytest.mark.parametrize("cut", [0, 2])
def test_a_devices_request_for_outputs_has_them_bit_for_bit(
    offered: str, cut: int, vit: SlicedModel, wanted: dict[str, np.ndarray[Any, Any]]
) -> None:
    with torch.inference_mode():
        activation = vit.head(cut)(torch.from_numpy(wanted["pixels"])[None])[0].numpy() if cut else wanted["pixels"]
    names, payload = ("logits", "features", "tokens"), activations.encode("fp32", activation)
    ask = Request("a", "vit", manifest_of(offered, "vit"), cut, "fp32", activation.shape, payload, 5, outputs=names)

    async def exchange() -> list[Answer]:
        transport = HttpTransport(offered)
        try:
            # One by one: the last bits hang on how many rows run together.
            return [*await transport.infer([ask]), *await transport.infer([replace(ask, id="b", outputs=())])]
        finally:
            await transport.close()

    first, second = asyncio.run(exchange())
    assert isinstance(first, Reply) and isinstance(second, Reply)
    for name, values in outputs_of(first, names).items():
        np.testing.assert_array_equal(values, wanted[name])
    assert (first.top_k, second.outputs, len(second.top_k)) == ((), (), 5)


def test_an_image_gives_each_output_as_timm_has_it(
    offered: str, png: bytes, wanted: dict[str, np.ndarray[Any, Any]]
) -> None:
    with Client(offered) as client:
        for name in ("logits", "features", "tokens"):
            found = client.output(name, png, model="vit", datatype="FP32")
            assert found.dtype == np.float32
            np.testing.assert_array_equal(found, wanted[name])


@pytest.mark.parametrize("cut", [0, 1, 2, 3])
def test_an_activation_gives_the_same_at_every_cut(
    offered: str, cut: int, vit: SlicedModel, wanted: dict[str, np.ndarray[Any, Any]]
) -> None:
    with torch.inference_mode():
        activation = vit.head(cut)(torch.from_numpy(wanted["pixels"])[None])[0].numpy()
    with Client(offered) as client:
        np.testing.assert_array_equal(client.output("features", activation, cut=cut, model="vit"), wanted["features"])
        np.testing.assert_array_equal(client.infer(activation, cut=cut, model="vit"), wanted["logits"])
        best = client.infer(activation, cut=cut, model="vit", top_k=1)
        assert best.class_index == wanted["logits"].argmax()


def test_a_stock_client_gets_several_outputs_of_several_rows_in_one_response(
    offered: str, vit: SlicedModel, wanted: dict[str, np.ndarray[Any, Any]]
) -> None:
    with torch.inference_mode():
        pixels = torch.from_numpy(np.stack([wanted["pixels"], -wanted["pixels"]]))
        activation, whole = vit.head(2)(pixels).numpy(), vit.module(pixels).numpy()
    client = triton.InferenceServerClient(offered.removeprefix("http://"))
    tensor = triton.InferInput("ACTIVATION", activation.shape, "FP32")
    tensor.set_data_from_numpy(activation)
    names = ("tokens", "logits", "top_k", "features")
    answer = client.infer(
        "vit",
        [tensor],
        outputs=[triton.InferRequestedOutput(name) for name in names],
        parameters={"cut": 2, "manifest": client.get_model_metadata("vit")["inputs"][1]["parameters"]["manifest"]},
    )
    parts = {output.name: np.stack([output.of(row) for row in whole]) for output in vit.outputs}
    for name in ("logits", "features", "tokens"):
        # rows of one request may run in other batches than two: other kernels, up to rounding
        np.testing.assert_allclose(answer.as_numpy(name), parts[name], atol=1e-5)
    assert answer.as_numpy("top_k").shape == (2, 5)


def test_large_outputs_travel_as_fp16_unless_one_says_otherwise(offered: str, png: bytes) -> None:
    with Client(offered) as client:
        assert client.output("features", png, model="vit").dtype == np.float32
        half = client.output("logits", png, model="dense")
        whole = client.output("logits", png, model="dense", datatype="FP32")
        assert (half.dtype, whole.dtype, whole.shape) == (np.float16, np.float32, (300, 224, 224))
        np.testing.assert_array_equal(half, whole.astype(np.float16))


def test_a_class_map_is_the_best_class_at_each_place(offered: str, png: bytes) -> None:
    with Client(offered) as client:
        classes = client.output("class_map", png, model="dense")
        whole = client.output("logits", png, model="dense", datatype="FP32")
    assert classes.dtype == np.uint16
    np.testing.assert_array_equal(classes, whole.argmax(0))


def test_what_the_model_does_not_give_is_refused_with_what_there_is(offered: str, png: bytes) -> None:
    with Client(offered) as client:
        with pytest.raises(RefusedError, match=r"'features'.*'dense'.*class_map, logits"):
            client.output("features", png, model="dense")
        with pytest.raises(RefusedError, match=r"'class_map'.*top_k, logits, features, tokens"):
            client.output("class_map", png, model="vit")
        with pytest.raises(RefusedError, match=r"'FP8'.*FP32 or FP16"):
            client.output("features", png, model="vit", datatype="FP8")  # type: ignore[arg-type]


def test_an_answer_above_the_limit_is_refused_before_anything_runs(offered: str) -> None:
    pixels = np.zeros((2, 3, 224, 224), np.float32)
    with Client(offered) as client, pytest.raises(RefusedError, match=r"120422400 bytes.*at most 61000000.*class_map"):
        client.output("logits", pixels, cut=0, model="dense", datatype="FP32")


def test_metadata_says_what_there_is_and_how_it_travels(offered: str) -> None:
    with urllib.request.urlopen(f"{offered}/v2/models/vit") as answer:
        outputs = {one["name"]: (one["datatype"], one["shape"]) for one in json.load(answer)["outputs"]}
    assert outputs == {
        "top_k": ("BYTES", [-1, -1]),
        "logits": ("FP32", [-1, 7]),
        "features": ("FP32", [-1, 192]),
        "tokens": ("FP32", [-1, 17, 192]),
    }
    with urllib.request.urlopen(f"{offered}/v2/models/dense") as answer:
        outputs = {one["name"]: (one["datatype"], one["shape"]) for one in json.load(answer)["outputs"]}
    assert outputs == {"class_map": ("UINT16", [-1, 224, 224]), "logits": ("FP16", [-1, 300, 224, 224])}


def test_classes_have_no_more_than_the_classifier_has(offered: str, png: bytes) -> None:
    """The packed row holds more numbers than classes."""
    with Client(offered) as client:
        assert len(client.predict(png, model="vit", top_k=1000).top_k) == TIMM["num_classes"]


def test_many_classes_as_text_are_refused_before_anything_runs() -> None:
    rows = MOST_CLASSES // 7 + 1
    model: Any = SimpleNamespace(name="vit", outputs=packed([("logits", (7,))]))
    asked = InferRequest("vit", [], [WantedOutput("top_k", {"k": 1000})])
    assert check_classes(asked, model, rows - 1) == (rows - 1) * 7
    with pytest.raises(BadRequestError, match=rf"{rows * 7} classes as text .* at most {MOST_CLASSES}"):
        check_classes(asked, model, rows)


def test_a_body_of_many_requests_has_no_more_classes_as_text_than_one(offered: str, vit: SlicedModel) -> None:
    """A parcel is written at once, too: the first are answered, those above the limit are refused each for itself."""
    digest, shape = manifest_of(offered, "vit"), [1, 3, 64, 64]
    payload = np.zeros(shape, np.float32).tobytes()
    count, size = 3, {"binary_data_size": len(payload)}
    tensor = {"name": "ACTIVATION", "datatype": "FP32", "shape": shape, "parameters": size}
    one = {
        "model_name": "vit",
        "inputs": [tensor],
        "outputs": [{"name": "top_k", "parameters": {"k": 7}}],
        "parameters": {"cut": 0, "manifest": digest},
    }
    text = json.dumps({"requests": [one] * count}).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(open_inference, "MOST_CLASSES", 15)
        headers = {http_body.LENGTH_HEADER: str(len(text))}
        request = urllib.request.Request(f"{offered}/v2/parcel", text + payload * count, headers)
        with urllib.request.urlopen(request) as answer:
            found = json.load(answer)["responses"]
    assert ["error" in one for one in found] == [False, False, True]
    assert "1 are left" in found[2]["error"]


def test_numbers_of_all_answers_of_a_body_count_together() -> None:
    answer = InferResponse("m", [Tensor("logits", "FP32", (1, 4), bytes(16))])
    asked = InferRequest("m", [], [WantedOutput("logits")])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(http_writing, "MAX_VALUES", 9)
        body, _ = http_writing.encode_responses([answer] * 3, [asked] * 3)
    found = json.loads(body)["responses"]
    assert ["error" in one for one in found] == [False, False, True]
    assert "4 numbers as JSON" in found[2]["error"]


def test_many_numbers_as_json_are_refused(offered: str, png: bytes) -> None:
    image = {"name": "IMAGE", "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(png).decode()]}
    body = json.dumps({"inputs": [image], "outputs": [{"name": "logits", "parameters": {"datatype": "FP16"}}]})
    request = urllib.request.Request(f"{offered}/v2/models/dense/infer", body.encode())
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(request)
    assert error.value.code == 400
    assert b"15052800 numbers" in error.value.read()
