"""A whole server without Ray: the real ingress over a real engine, on a port of its own."""

from __future__ import annotations

import asyncio
import contextlib
import io
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import uvicorn
from PIL import Image

from deployments.replica.ingress.http_ingress import Ingress
from deployments.replica.tail_server import TailServer
from slicer.models import zoo
from slicer.models.images import Preprocess
from slicer.slicing.slice_model import SlicedModel, slice_spec
from tests.unit.replica_context import put_replica_context

MODEL = "digits_vit"

PREFIX = "/headtail"

#: Longer bodies are refused.
MOST_BYTES = 4 << 20


@dataclass
class Running:
    """The server of a test module.

    Attributes:
        address: ``host:port``.
        sliced: the model that it serves. whole: the same, unsliced.
        digest: of its manifest.
    """

    address: str
    sliced: SlicedModel
    whole: torch.nn.Module
    digest: str

    @property
    def url(self) -> str:
        """Of the application, which lies under a prefix as in Serve."""
        return f"http://{self.address}{PREFIX}"

    def activation(self, cut: int, rows: int = 1) -> npt.NDArray[np.float32]:
        """[rows, *shape] of random images."""
        with torch.inference_mode():
            return np.asarray(self.sliced.head(cut)(inputs(self.sliced, rows)).numpy())

    def logits(self, rows: int = 1) -> npt.NDArray[np.float32]:
        """What the unsliced model says of these, one by one as the server may run them."""
        with torch.inference_mode():
            return np.concatenate([self.whole(one[None]).numpy() for one in inputs(self.sliced, rows)])

    def logits_of(self, image: Image.Image) -> npt.NDArray[np.float32]:
        """What the unsliced model says of an image as it was taken."""
        with torch.inference_mode():
            return np.asarray(self.whole(torch.from_numpy(Preprocess(self.sliced.spec)(image))[None]).numpy()[0])


def inputs(sliced: SlicedModel, rows: int) -> torch.Tensor:
    return torch.randn(rows, *sliced.shape_at(0), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="session")
def photo() -> Image.Image:
    """An image of another size than the model's."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8))


@pytest.fixture(scope="session")
def png(photo: Image.Image) -> bytes:
    """That image as a file."""
    file = io.BytesIO()
    photo.save(file, "PNG")
    return file.getvalue()


@contextlib.contextmanager
def serving(config: dict[str, Any]) -> Iterator[tuple[str, TailServer]]:
    """A server of that configuration in a thread: its ``host:port``, and what it serves."""
    started: dict[str, object] = {}
    ready = threading.Event()

    async def serve() -> None:
        tail = TailServer(config, "cpu")
        ingress = Ingress(tail, max_body_bytes=MOST_BYTES)

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await ingress({**scope, "root_path": PREFIX}, receive, send)

        server = uvicorn.Server(uvicorn.Config(app, "127.0.0.1", 0, log_level="error", lifespan="off", ws="none"))
        server.config.load()
        server.lifespan = server.config.lifespan_class(server.config)
        await server.startup()
        started.update(server=server, port=server.servers[0].sockets[0].getsockname()[1], tail=tail)
        ready.set()
        await server.main_loop()
        await server.shutdown()
        tail.close()

    with pytest.MonkeyPatch.context() as patch:
        put_replica_context(patch)
        thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
        thread.start()
        assert ready.wait(120)
        tail = started["tail"]
        assert isinstance(tail, TailServer)
        yield f"127.0.0.1:{started['port']}", tail
        server = started["server"]
        assert isinstance(server, uvicorn.Server)
        server.should_exit = True
        thread.join(20)


@pytest.fixture(scope="session")
def serve() -> Callable[[dict[str, Any]], AbstractContextManager[tuple[str, TailServer]]]:
    """`serving`, for a test with a configuration of its own."""
    return serving


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server of `MODEL` in four slices, in a thread."""
    config = {
        "models": [{"name": MODEL, "strategy": "continuous"}],
        "torch_threads": 1,
        "shard_dir": str(tmp_path_factory.mktemp("served")),
        "http": {"max_body_bytes": MOST_BYTES},
    }
    with serving(config) as (address, tail):
        sliced = slice_spec(zoo.resolve(MODEL), 4)
        yield Running(address, sliced, zoo.build(sliced.spec), tail.models[MODEL].digest)
