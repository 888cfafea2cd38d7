"""A tiny model and its ONNX files behind the real HTTP way in."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from deployments.replica.ingress.http_ingress import Ingress
from slicer import onnx
from slicer.core.protocol.messages import Refusal, ServedModel
from slicer.core.protocol.onnx_index import load_index
from slicer.models import zoo
from slicer.models.data_config import preprocessing_of
from slicer.models.images import Preprocess, write_digits
from slicer.slicing.slice_model import slice_spec
from slicer.slicing.sliced_model import SlicedModel
from tests.unit.asgi import served_in_a_thread
from tests.unit.tiny_server import TinyServer

LABELS = tuple(f"digit: {number}" for number in range(10))
TOKEN = "secret"


class OnnxServer(TinyServer):
    """It says how images become inputs, and notes what is fetched."""

    def __init__(self, sliced: SlicedModel, directory: Path, names: Sequence[str]) -> None:
        super().__init__(sliced, directory, names, LABELS)
        self.index = load_index(directory)
        self.fetched: list[str] = []
        self.described = 0

    async def describe(self, model: str) -> ServedModel | Refusal:
        self.described += 1
        served = await super().describe(model)
        if isinstance(served, Refusal):
            return served
        return dataclasses.replace(served, preprocessing_json=preprocessing_of(zoo.resolve("digits_vit")).to_json())

    async def shard(self, sha256: str, offset: int, length: int) -> bytes:
        self.fetched.append(sha256)
        return await super().shard(sha256, offset, length)


@pytest.fixture(scope="session")
def sliced() -> SlicedModel:
    return slice_spec(zoo.resolve("digits_vit"), 4)


@pytest.fixture(scope="session")
def exported(sliced: SlicedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("onnx")
    onnx.export(sliced, directory, int8=True)
    return directory


@pytest.fixture
def server(sliced: SlicedModel, exported: Path) -> OnnxServer:
    return OnnxServer(sliced, exported, ["digits"])


@pytest.fixture
def url(server: OnnxServer) -> Iterator[str]:
    with served_in_a_thread(Ingress(server, token=TOKEN)) as found:
        yield found


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Files of the shipped held-out digits."""
    return [str(file) for file in write_digits(tmp_path_factory.mktemp("digits") / "all").files]


@pytest.fixture(scope="session")
def whole(sliced: SlicedModel, digits: list[str]) -> np.ndarray:
    """The unsliced model's classes of these files."""
    prepare = Preprocess(zoo.resolve("digits_vit"))
    with torch.inference_mode():
        rows = torch.from_numpy(np.stack([prepare(file) for file in digits]))
        return np.asarray(sliced.span(0, 4)(rows).argmax(1))
