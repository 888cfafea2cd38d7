"""The client against the real HTTP way in: what it sends, what it makes of the answers, and its promises to threads."""

from __future__ import annotations

import asyncio
import doctest
import json
import re
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

import headtail
from headtail import AsyncClient, Client, Prediction
from slicer.core.client import client as client_module
from slicer.core.common import loop_thread
from slicer.core.protocol.messages import Refusal, Reply, Request
from slicer.errors import (
    BadRequestError,
    CodecError,
    ConfigError,
    CutError,
    ImageError,
    ModelError,
    RefusedError,
    ServerError,
    ShardError,
)
from slicer.models.images import Preprocess
from slicer.slicing.sliced_model import SlicedModel
from tests.paths import ROOT
from tests.unit.slicer.core.client.conftest import LABELS
from tests.unit.tiny_server import TIMINGS, TinyServer

File = Callable[[str], Path]


def whole(sliced: SlicedModel, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Logits of the unsliced model."""
    with torch.inference_mode():
        found: npt.NDArray[np.float32] = sliced.head(4)(torch.from_numpy(pixels)).numpy()
    return found


def inputs(count: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=(count, 3, 32, 32)).astype(np.float32)


def at_cut(sliced: SlicedModel, cut: int, count: int) -> npt.NDArray[np.float32]:
    with torch.inference_mode():
        found: npt.NDArray[np.float32] = (
            sliced.head(cut)(torch.from_numpy(inputs(count))).numpy() if cut else inputs(count)
        )
    return found


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_file_travels_as_it_is_by_path_or_bytes(
    client: Client, server: TinyServer, sliced: SlicedModel, digit: File, suffix: str
) -> None:
    path = digit(suffix)
    found = client.predict(path)
    assert (
        found
        == client.predict(str(path))
        == client.predict(path.read_bytes())
        == client.predict(bytearray(path.read_bytes()))
    )
    assert {bytes(row.payload) for row in server.rows} == {path.read_bytes()}
    logits = whole(sliced, Preprocess(sliced.spec)(path)[np.newaxis])[0]
    best = int(logits.argmax())
    assert (found.label, found.class_index, found.model, found.server) == (LABELS[best], best, "digits", "tiny")
    assert found.timings == TIMINGS
    scores = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    assert [one.class_index for one in found.top_k] == np.argsort(-scores, kind="stable")[:5].tolist()
    np.testing.assert_allclose([one.score for one in found.top_k], np.sort(scores)[::-1][:5], rtol=1e-4)
    assert found.top_k[0].score == found.score and found.top_k[0].label == found.label


@pytest.mark.parametrize("send_as", ["pixels", "png"])
def test_pictures_and_arrays_get_the_answer_of_their_file(client: Client, digit: File, send_as: str) -> None:
    picture = Image.open(digit(".png"))
    want = client.predict(digit(".png"), top_k=10)
    pixels = np.asarray(picture)
    assert pixels.shape == (30, 40, 3)  # not square: height and width cannot be swapped unseen
    for same in (picture, pixels, pixels[:, ::-1][:, ::-1], np.dstack([pixels, np.full((30, 40, 1), 9, np.uint8)])):
        assert client.predict(same, top_k=10, send_as=send_as) == want
    grey = Image.fromarray(pixels[..., 0])
    want = client.predict(np.dstack([pixels[..., 0]] * 3), top_k=10)
    for same in (grey, pixels[..., 0], pixels[..., :1]):
        assert client.predict(same, top_k=10, send_as=send_as) == want


def test_a_file_that_the_server_does_not_read_is_opened_here(client: Client, server: TinyServer, digit: File) -> None:
    assert client.predict(digit(".bmp")) == client.predict(digit(".png"))
    assert [row.codec for row in server.rows] == ["pixels", "png"]


def test_many_travel_in_one_body_and_come_back_in_order(client: Client, server: TinyServer, digit: File) -> None:
    images = [digit(".png"), np.zeros((9, 8, 3), np.uint8), Image.new("L", (20, 20), 255), digit(".jpg").read_bytes()]
    together = client.predict_many(images, top_k=2)
    assert [len(call) for call in server.calls] == [4]
    assert [len(one.top_k) for one in together] == [2] * 4
    assert together == [client.predict(image, top_k=2) for image in images]
    assert len({one.score for one in together}) == 4  # else order would prove nothing
    assert client.predict_many([]) == []


@pytest.mark.parametrize("cut", range(4))
def test_an_activation_at_any_cut_gets_the_whole_models_logits(client: Client, sliced: SlicedModel, cut: int) -> None:
    rows, want = at_cut(sliced, cut, 3), whole(sliced, inputs(3))
    np.testing.assert_allclose(client.infer(rows, cut=cut), want, rtol=1e-4, atol=1e-5)
    one = client.infer(rows[1].astype(np.float64), cut=cut)
    assert one.shape == (10,) and one.dtype == np.float32
    np.testing.assert_allclose(one, want[1], rtol=1e-4, atol=1e-5)
    one += 1  # it is the caller's own
    many = client.infer(rows, cut=cut, top_k=1)
    assert isinstance(many, list)
    assert [one.class_index for one in many] == want.argmax(axis=1).tolist()
    single = client.infer(rows[2], cut=cut, top_k=10)
    assert isinstance(single, Prediction) and single.class_index == want[2].argmax() and len(single.top_k) == 10
    assert single.label == LABELS[single.class_index]


@pytest.mark.parametrize(("codec", "tolerance"), [("fp16", 0.01), ("bf16", 0.2), ("int8", 0.5), ("int4", 8.0)])
def test_every_codec_with_the_channels_where_the_manifest_has_them(
    client: Client, server: TinyServer, sliced: SlicedModel, codec: str, tolerance: float
) -> None:
    want = whole(sliced, inputs(3))
    found = client.infer(at_cut(sliced, 2, 3), cut=2, codec=codec)
    np.testing.assert_allclose(found, want, atol=tolerance)
    assert not (found == want).all()
    assert {row.codec for row in server.rows} == {codec}
    cut_0 = client.infer(inputs(1)[0], cut=0, codec=codec)  # its channels are the first axis
    assert np.isfinite(cut_0).all()


def test_the_description_is_asked_once_and_models_are_named(client: Client, server: TinyServer, exported: Path) -> None:
    assert client.models() == ["digits"] and client.ready()
    served = client.describe()
    assert (served.name, served.entries, served.manifest) == ("digits", (0, 1, 2, 3), server.models["digits"].digest)
    with pytest.raises(ModelError, match="no model 'x'; there is digits"):
        client.describe("x")
    shard = server.models["digits"].manifest.shards[1]
    data = b"".join(client.shard(shard.sha256, at, 1 << 20) for at in range(0, shard.size_bytes, 1 << 20))
    assert data == (exported / shard.file).read_bytes()
    with pytest.raises(ShardError):
        client.shard("0" * 64, 0, 1)
    server.healthy = False
    assert not client.ready()
    with Client("http://127.0.0.1:1/headtail") as nowhere:
        assert not nowhere.ready()


def test_a_name_is_needed_where_there_are_several_models(
    client: Client, server: TinyServer, exported: Path, digit: File
) -> None:
    server.serve(exported, ["a", "b"])
    with pytest.raises(BadRequestError, match=r"several models; give model=, one of a, b"):
        client.predict(digit(".png"))
    found = client.predict(digit(".png"), model="b")
    assert found.model == "b" and found.label is None and found.class_index == 8
    server.serve(exported, ["a"])
    assert client.predict(digit(".png")).model == "a"
    server.serve(exported, ["c"])
    with pytest.raises(RefusedError, match="no model 'a'") as caught:
        client.predict(digit(".png"))
    assert caught.value.code == "unknown_model"
    assert client.predict(digit(".png")).model == "c"  # the name was forgotten
    server.models = {}
    with (
        Client(client._client._connection.url, "secret") as other,
        pytest.raises(BadRequestError, match="no model now"),
    ):
        other.predict(digit(".png"))


@pytest.mark.parametrize(
    ("image", "says"),
    [
        ("/nowhere/photo.jpg", "photo.jpg.*No such file"),
        (b"hello", "5 bytes that begin with b'hello' are no image"),
        (b"", "no image"),
        (np.zeros((4, 4, 3), np.float32), "array of float32.*uint8"),
        (np.zeros((4, 4, 2), np.uint8), r"shape \[4, 4, 2\]"),
        (np.zeros((0, 4, 3), np.uint8), r"shape \[0, 4, 3\]"),
        (np.zeros((2, 4, 4, 3), np.uint8), r"shape \[2, 4, 4, 3\]"),
        (Image.new("RGB", (400, 2)), "the longer edge"),
    ],
    ids=lambda value: str(value)[:20] if isinstance(value, str) else type(value).__name__,
)
def test_what_is_no_image_is_said_here(client: Client, server: TinyServer, image: object, says: str) -> None:
    with pytest.raises(ImageError, match=says):
        client.predict(image)  # type: ignore[arg-type]
    assert server.calls == []


def test_what_cannot_be_asked_is_said_before_it_is_sent(client: Client, server: TinyServer, digit: File) -> None:
    row = np.zeros((16, 96), np.float32)
    with pytest.raises(CutError, match=r"cut 4: model 'digits' takes activations at 0, 1, 2, 3"):
        client.infer(row, cut=4)
    with pytest.raises(BadRequestError, match=r"shape \[15, 96\] at cut 1.*\[16, 96\].*\['B', 16, 96\]"):
        client.infer(row[1:], cut=1)
    with pytest.raises(BadRequestError, match="shape"):
        client.infer(np.empty((0, 16, 96), np.float32), cut=1)
    with pytest.raises(BadRequestError, match="int64"):
        client.infer(np.zeros((16, 96), np.int64), cut=1)  # type: ignore[arg-type]
    with pytest.raises(CodecError, match="unknown codec 'zip'"):
        client.infer(row, cut=1, codec="zip")
    with pytest.raises(CodecError, match="NaN"):
        client.infer(row * np.nan, cut=1)
    for top_k in (0, -1, 2.5, True):
        with pytest.raises(BadRequestError, match="top_k="):
            client.predict(digit(".png"), top_k=top_k)  # type: ignore[arg-type]
        with pytest.raises(BadRequestError, match="top_k="):
            client.infer(row, cut=1, top_k=top_k)  # type: ignore[arg-type]
    for timeout_s in (0, -1, float("nan"), float("inf"), "3"):
        with pytest.raises(ConfigError, match="timeout_s="):
            client.predict(digit(".png"), timeout_s=timeout_s)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="timeout_s="):
            Client("http://h/a", timeout_s=timeout_s)  # type: ignore[arg-type]
    with pytest.raises(BadRequestError, match="give a list of images"):
        client.predict_many(str(digit(".png")))
    with pytest.raises(BadRequestError, match="1025 requests"):
        client.predict_many([np.zeros((1, 1), np.uint8)] * 1025)
    with pytest.raises(ImageError, match="send_as='zip'"):
        client.predict(row.astype(np.uint8), send_as="zip")  # type: ignore[arg-type]
    assert server.calls == []


def test_rows_of_devices_go_by_the_same_connection(client: Client, server: TinyServer, sliced: SlicedModel) -> None:
    rows, digest = at_cut(sliced, 1, 2), server.models["digits"].digest
    requests = [Request(f"r{n}", "digits", digest, 1, "fp32", (16, 96), row.tobytes()) for n, row in enumerate(rows)]
    bad = Request("bad", "digits", digest, 9, "fp32", (16, 96), rows[0].tobytes())
    cut_short = Request("short", "digits", digest, 1, "fp32", (16, 96), rows[0].tobytes()[:-4])
    first, refused, short, second = client.infer_requests([requests[0], bad, cut_short, requests[1]])
    assert isinstance(first, Reply) and isinstance(second, Reply) and isinstance(refused, Refusal)
    assert isinstance(short, Refusal) and (short.id, short.code) == ("short", "bad_request")
    assert "6140 bytes; FP32 of shape [1, 16, 96] has 6144" in short.message
    assert client.infer_requests([cut_short]) == [short]
    assert (first.id, refused.id, refused.code, second.id) == ("r0", "bad", "bad_cut", "r1")
    found = np.stack([np.frombuffer(one.logits, "<f4") for one in (first, second)])
    np.testing.assert_allclose(found, whole(sliced, inputs(2)), rtol=1e-4, atol=1e-5)
    (alone,) = client.infer_requests([bad])
    assert alone == refused
    (best,) = client.infer_requests([Request("k", "digits", digest, 1, "fp32", (16, 96), rows[0].tobytes(), 2, 5e3)])
    assert isinstance(best, Reply) and [index for index, _ in best.top_k] == np.argsort(-found[0])[:2].tolist()


def test_threads_share_a_client(client: Client, server: TinyServer, sliced: SlicedModel) -> None:
    rows, want = at_cut(sliced, 1, 16), whole(sliced, inputs(16))
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda row: client.infer(row, cut=1), rows))
    np.testing.assert_allclose(np.stack(found), want, rtol=1e-4, atol=1e-5)
    assert len({row.key for row in server.rows}) == 16


def test_a_closed_client_says_so_and_its_thread_ends(url: str, server: TinyServer) -> None:
    before = threading.active_count()
    client = Client(url, "secret")
    assert threading.active_count() == before  # nothing is started before the first call
    assert client.models() == ["digits"]
    assert threading.active_count() > before
    client.close()
    client.close()
    assert threading.active_count() == before
    with pytest.raises(ServerError, match="closed"):
        client.models()


def test_after_a_fork_a_client_says_so_and_does_not_hang(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    assert client.models() == ["digits"]
    with monkeypatch.context() as child:
        child.setattr(loop_thread.os, "getpid", lambda: -1)
        with pytest.raises(ServerError, match="fork"):
            client.models()
        client.close()  # the parent's thread is none of its business
        with Client("http://127.0.0.1:9") as own, pytest.raises(ServerError, match="cannot be reached"):
            own.models()
    assert client.models() == ["digits"]


def test_on_another_event_loop_a_client_says_so(url: str) -> None:
    client = AsyncClient(url, "secret")

    async def closed() -> None:
        assert await client.models() == ["digits"]
        await client.close()

    asyncio.run(closed())
    asyncio.run(closed())  # a closed one begins anew
    loop = asyncio.new_event_loop()
    assert loop.run_until_complete(client.models()) == ["digits"]
    with pytest.raises(ServerError, match="another event loop"):
        asyncio.run(client.models())
    loop.run_until_complete(client.close())
    loop.close()


def test_a_call_that_waits_ends_when_the_client_is_closed(digit: File) -> None:
    came = threading.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.set()
        await reader.read(-1)
        writer.close()

    async def run() -> None:
        there = await asyncio.start_server(silent, "127.0.0.1", 0)
        client = Client(f"http://127.0.0.1:{there.sockets[0].getsockname()[1]}/headtail")
        call = asyncio.create_task(asyncio.to_thread(client.predict, digit(".png"), model="m", timeout_s=1000))
        await asyncio.to_thread(came.wait)
        await asyncio.to_thread(client.close)
        with pytest.raises(ServerError, match="closed while a call waited"):
            await call
        there.close()

    asyncio.run(run())


def test_the_asynchronous_client_overlaps_its_calls(url: str, server: TinyServer, sliced: SlicedModel) -> None:
    rows, want = at_cut(sliced, 3, 8), whole(sliced, inputs(8))

    async def run() -> list[npt.NDArray[np.float32]]:
        async with AsyncClient(url, "secret") as client:
            return await asyncio.gather(*(client.infer(row, cut=3) for row in rows))

    np.testing.assert_allclose(np.stack(asyncio.run(run())), want, rtol=1e-4, atol=1e-5)


def test_the_token_is_the_environments(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Client(url, "wrong") as client, pytest.raises(ServerError, match="401: a missing or wrong token") as caught:
        client.models()
    assert not isinstance(caught.value, RefusedError)
    monkeypatch.setenv("HEADTAIL_TOKEN", "secret")
    with Client(url) as client:
        assert client.models() == ["digits"]


FRESH = """
import json, sys
url, path = sys.argv[1:]
from headtail import Client
import numpy as np
with Client(url, "secret") as client:
    names = [client.predict(image).label for image in (path, np.zeros((8, 8, 3), np.uint8))]
    for codec in ("fp32", "int8"):
        client.infer(np.zeros((16, 96), np.float32), cut=1, codec=codec)
heavy = {"torch", "ray", "timm", "torchvision", "scipy", "pydantic", "deployments", "actors"}
print(json.dumps([names[0], sorted(heavy & set(sys.modules))]))
"""


def test_in_a_fresh_process_a_client_needs_neither_torch_nor_ray(url: str, digit: File) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", FRESH, url, str(digit(".png"))], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["digit: 8", []] and not done.stderr


def test_what_headtail_offers_is_there() -> None:
    assert {name: getattr(headtail, name).__name__ for name in headtail.__all__} == {n: n for n in headtail.__all__}
    with pytest.raises(AttributeError, match="no attribute 'Server'"):
        headtail.Server  # noqa: B018


def test_the_example_in_the_docstring_runs(
    url: str, sliced: SlicedModel, digit: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADTAIL_TOKEN", "secret")
    names = {"url": url, "photo": digit(".png"), "activation": at_cut(sliced, 2, 1)[0]}
    (test,) = doctest.DocTestFinder(recurse=False).find(client_module.Client, "Client", globs=names)
    said: list[str] = []
    doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test, out=said.append)
    assert test.examples and not said, "".join(said)


def test_the_guides_code_runs(
    client: Client, url: str, sliced: SlicedModel, digit: File, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADTAIL_TOKEN", "secret")
    monkeypatch.chdir(tmp_path)
    for name in ("photo.jpg", "a.jpg", "b.png"):
        Path(name).write_bytes(digit(name[-4:]).read_bytes())
    rows = at_cut(sliced, 2, 3)
    names: dict[str, Any] = {
        "client": client,
        "activation": rows[0],
        "activations": rows,
        "pixels": np.zeros((9, 9, 3), np.uint8),
    }
    text = (ROOT / "docs/guide/client.md").read_text(encoding="utf-8").replace("http://10.0.0.7:8000/headtail", url)
    first, many, at_a_cut, awaited = re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    exec(first, {})
    exec(many + at_a_cut, names)
    assert [len(one.top_k) for one in names["several"]] == [3, 3, 3]
    assert isinstance(names["best"], Prediction)
    function = f"async def run():\n{textwrap.indent(awaited, '    ')}    return answers"
    scope: dict[str, Any] = {"asyncio": asyncio, "AsyncClient": AsyncClient, "url": url, "paths": ["a.jpg", "b.png"]}
    exec(function, scope)
    assert [one.label for one in asyncio.run(scope["run"]())] == ["digit: 8"] * 2
