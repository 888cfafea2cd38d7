"""A front and a core without Ray: the unsliced model's answers, by shared memory, and no torch in the front."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from deployments.config import parse_config
from deployments.core.core import Core
from deployments.ipc.node_cores import NO_CORE
from deployments.replica.front import Front
from slicer.core.codecs import activations
from slicer.core.codecs.images import encode_image
from slicer.core.protocol import packet
from slicer.core.protocol.messages import Refusal, Reply, Request, ServedModel
from slicer.errors import ServerError
from slicer.models import zoo
from slicer.models.images import Preprocess
from slicer.slicing.slice_model import SlicedModel, slice_spec
from tests.paths import ROOT
from tests.unit.asgi import served

pytestmark = pytest.mark.usefixtures("replica_context")

MODEL = "digits_vit"

#: Of waits that end at once unless something hangs.
LIMIT_S = 60.0


class Serving:
    """A core on a thread of its own, as it has a process of its own in an application."""

    def __init__(self, config: dict[str, Any], place: Path) -> None:
        self._config, self._place = parse_config(config), place
        self._ready: Future[None] = Future()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        self._ready.result(LIMIT_S)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            if self._ready.done():
                raise
            self._ready.set_exception(error)

    async def _serve(self) -> None:
        self._loop, self._enough = asyncio.get_running_loop(), asyncio.Event()
        core = Core(self._config, "cpu", self._place, name="the core", notes=["a note"])
        await core.serve()
        self._ready.set_result(None)
        await self._enough.wait()
        core.healthy()
        core.close()

    def stop(self) -> None:
        """Calling it again is harmless."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._enough.set)
            self._thread.join(LIMIT_S)
            assert not self._thread.is_alive()


@pytest.fixture(scope="module")
def sliced() -> SlicedModel:
    return slice_spec(zoo.resolve(MODEL), 4)


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ht") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    models = [{"name": MODEL, "strategy": "continuous"}]
    shards = str(tmp_path_factory.mktemp("served"))
    return {"models": models, "torch_threads": 1, "shard_dir": shards, "ingress": {"shared_memory_bytes": 1 << 20}}


@pytest.fixture
def core(config: dict[str, Any], place: Path) -> Iterator[Serving]:
    serving = Serving(config, place)
    yield serving
    serving.stop()


def images(sliced: SlicedModel, count: int) -> torch.Tensor:
    return torch.randn(count, *sliced.shape_at(0), generator=torch.Generator().manual_seed(0))


def request_at(sliced: SlicedModel, digest: str, cut: int, image: torch.Tensor, name: str = "r") -> Request:
    with torch.inference_mode():
        activation = sliced.head(cut)(image[None])[0].numpy()
    return Request(name, MODEL, digest, cut, "fp32", activation.shape, activations.encode("fp32", activation))


def logits_of(answer: Any) -> np.ndarray[Any, Any]:
    assert isinstance(answer, Reply), answer
    return np.frombuffer(answer.logits, "<f4").reshape(answer.logits_shape)


def run(config: dict[str, Any], place: Path, work: Callable[[Front], Coroutine[Any, Any, Any]]) -> Any:
    async def whole() -> Any:
        front = Front(config, place=place)
        try:
            return await asyncio.wait_for(work(front), LIMIT_S)
        finally:
            front.close()

    return asyncio.run(whole())


async def digest_of(front: Front) -> str:
    described = await front.describe(MODEL)
    assert isinstance(described, ServedModel), described
    return described.manifest


@pytest.mark.parametrize("executor", ["torch", "emulated"])
def test_rows_of_all_cuts_get_the_unsliced_models_answers(
    executor: str, sliced: SlicedModel, config: dict[str, Any], place: Path
) -> None:
    """Also by an executor that takes a step while one runs, whose engine sleeps in another way."""
    options = {"profile": "launch-bound", "answers": "true"} if executor == "emulated" else {}
    batch = images(sliced, 24)
    with torch.inference_mode():
        want = sliced.module(batch).numpy()
    serving = Serving({**config, "executor": executor, "executor_options": options}, place)

    async def work(front: Front) -> None:
        digest = await digest_of(front)
        requests = [request_at(sliced, digest, i % 4, batch[i], f"r{i}") for i in range(24)]
        parcels = [requests[:8], *([request] for request in requests[8:])]
        answers = [answer for part in await asyncio.gather(*map(front.infer_parcel, parcels)) for answer in part]
        assert [answer.id for answer in answers] == [request.id for request in requests]
        np.testing.assert_allclose(np.stack([logits_of(answer) for answer in answers]), want, atol=1e-4)
        status = await front.status()
        assert status["front"] == {"replica": "unit", "cores": 1, "shared_memory_bytes": 0}
        assert (status["replica"], status["fronts"], status["waiting"]) == ("the core", 1, {})
        assert "a note" in status["notes"]
        assert sum(sum(step["entries"].values()) for step in (await front.steps())["steps"]) >= 24

    try:
        run(config, place, work)
    finally:
        serving.stop()


def test_images_are_decoded_in_the_front_and_bad_ones_answer_for_themselves(
    sliced: SlicedModel, config: dict[str, Any], place: Path, core: Serving
) -> None:
    height, width = sliced.shape_at(0)[-2:]
    image = Image.fromarray(np.arange(height * width, dtype=np.uint8).reshape(height, width) * 3, "L").convert("RGB")

    async def work(front: Front) -> None:
        digest = await digest_of(front)
        shape = tuple(sliced.shape_at(0))
        preprocess = Preprocess(zoo.resolve(MODEL))
        good = Request("good", MODEL, digest, 0, "png", shape, encode_image("png", image, preprocess))
        bad = replace(good, id="bad", payload=b"no image")
        stale = replace(good, id="stale", manifest="0" * 64)
        nan = request_at(sliced, digest, 2, images(sliced, 1)[0], "nan")
        nan = replace(nan, payload=np.full(nan.shape, np.nan, np.float32).tobytes())
        answers = await front.infer_parcel([good, bad, stale, nan])
        assert [answer.code if isinstance(answer, Refusal) else "" for answer in answers] == [
            "",
            "bad_codec",
            "stale",
            "not_finite",
        ]
        assert np.isfinite(logits_of(answers[0])).all()
        assert (await front.status())["front"]["shared_memory_bytes"] == 0

    run(config, place, work)


def test_a_front_answers_http_and_gives_shards(
    sliced: SlicedModel, config: dict[str, Any], place: Path, core: Serving
) -> None:
    import aiohttp

    async def work(front: Front) -> None:
        async with served(front.__serve_build_asgi_app__()) as url, aiohttp.ClientSession() as session:
            async with session.get(f"{url}/describe?model={MODEL}") as response:
                model = packet.decode_model(await response.json())
            assert model.labels == tuple("0123456789"), "the core has found them, and told the front"
            request = request_at(sliced, model.manifest, 1, images(sliced, 1)[0])
            async with session.post(f"{url}/infer", data=packet.encode_requests([request])) as response:
                (answer,) = packet.decode_answers(await response.read())
            assert logits_of(answer).shape == (10,)
            shard = json.loads(model.manifest_json)["shards"][0]
            async with session.get(f"{url}/shard/{shard['sha256']}?offset=0&length=100") as response:
                assert len(await response.read()) == 100
            async with session.get(f"{url}/health") as response:
                assert response.status == 200

    run(config, place, work)


def test_without_a_core_requests_are_told_to_come_again_and_are_answered_when_one_is_there(
    sliced: SlicedModel, config: dict[str, Any], place: Path
) -> None:
    async def work(front: Front) -> None:
        request = request_at(sliced, "", 1, images(sliced, 1)[0])
        (answer,) = await front.infer_parcel([request])
        assert isinstance(answer, Refusal) and (answer.code, answer.message) == ("stopped", NO_CORE)
        refusal = await front.describe(MODEL)
        assert isinstance(refusal, Refusal) and refusal.code == "stopped"
        with pytest.raises(ServerError, match="no accelerator serves here now"):
            await front.status()
        assert (await front.steps())["steps"] == []
        await front.check_health()  # it is the core's health that is missing, and that is Serve's to see
        loop = asyncio.get_running_loop()
        for _ in range(2):
            core = await loop.run_in_executor(None, Serving, config, place)
            try:
                digest = await digest_of(front)
                assert isinstance((await front.infer_parcel([replace(request, manifest=digest)]))[0], Reply)
                unknown = (await front.infer_parcel([replace(request, model="unknown")]))[0]
                assert isinstance(unknown, Refusal) and unknown.code == "unknown_model"
                # Who looked before the core was there, and asks why it found nothing when it is.
                assert front.absent("r", MODEL).code == "stopped"
            finally:
                await loop.run_in_executor(None, core.stop)
            (answer,) = await front.infer_parcel([replace(request, manifest=digest)])
            assert isinstance(answer, Refusal) and answer.code == "stopped"

    run(config, place, work)


_WITHOUT_TORCH = """
import asyncio, json, sys
from pathlib import Path
from deployments.replica.front import Front
from slicer.core.protocol import packet
from tests.ipc_processes import outside_of_ray

async def main():
    outside_of_ray()
    front = Front(json.loads(sys.argv[2]), place=Path(sys.argv[1]))
    answers = await front.infer_parcel(packet.decode_requests(sys.stdin.buffer.read()))
    await front.status()
    front.close()
    sys.stdout.buffer.write(packet.encode_answers(answers))
    print("torch" in sys.modules, "timm" in sys.modules, "torchvision" in sys.modules, file=sys.stderr)

asyncio.run(main())
"""


def test_a_front_that_answers_activations_has_no_torch_in_its_memory(
    sliced: SlicedModel, config: dict[str, Any], place: Path, core: Serving
) -> None:
    digest = asyncio.run(_digest(config, place))
    image = images(sliced, 1)
    requests = [replace(request_at(sliced, digest, 2, image[0]), codec=codec) for codec in ("fp32", "fp16", "int8")]
    activation = np.frombuffer(requests[0].payload, "<f4").reshape(requests[0].shape)
    requests = [replace(one, payload=activations.encode(one.codec, activation, axis=1)) for one in requests]
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_TORCH, str(place), json.dumps(config)],
        input=packet.encode_requests(requests),
        capture_output=True,
        cwd=ROOT,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.stderr.decode().splitlines()[-1:] == ["False False False"], done.stderr.decode()
    with torch.inference_mode():
        want = sliced.module(image).numpy()[0]
    for answer in packet.decode_answers(done.stdout):
        np.testing.assert_allclose(logits_of(answer), want, atol=0.5)


async def _digest(config: dict[str, Any], place: Path) -> str:
    front = Front(config, place=place)
    try:
        return await digest_of(front)
    finally:
        front.close()
