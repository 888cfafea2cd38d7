"""A tiny model behind the real HTTP way in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from deployments.replica.ingress.http_ingress import Ingress
from slicer import shards
from slicer.core.client import Client, retries
from slicer.models import zoo
from slicer.models.images import load_digits
from slicer.slicing.slice_model import slice_spec
from slicer.slicing.sliced_model import SlicedModel
from tests.unit.asgi import served_in_a_thread
from tests.unit.tiny_server import TinyServer

LABELS = tuple(f"digit: {number}" for number in range(10))


@pytest.fixture(scope="session")
def sliced() -> SlicedModel:
    return slice_spec(zoo.resolve("digits_vit"), 4)


@pytest.fixture(scope="session")
def exported(sliced: SlicedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("shards")
    shards.export(sliced, directory)
    return directory


@pytest.fixture
def server(sliced: SlicedModel, exported: Path) -> TinyServer:
    return TinyServer(sliced, exported, ["digits"], LABELS)


@pytest.fixture
def url(server: TinyServer) -> Iterator[str]:
    with served_in_a_thread(Ingress(server, token="secret")) as found:
        yield found


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with Client(url, "secret") as found:
        yield found


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "PAUSE_S", 0.01)


@pytest.fixture(scope="session")
def digit(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A picture of an 8 as a file, by its suffix."""
    pixels, labels = load_digits()
    picture = Image.fromarray(pixels[list(labels).index(8)]).resize((40, 30), Image.Resampling.BICUBIC).convert("RGB")
    folder = tmp_path_factory.mktemp("digits")

    def write(suffix: str) -> Path:
        path = folder / f"eight{suffix}"
        if not path.exists():
            picture.save(path)
        return path

    return write
