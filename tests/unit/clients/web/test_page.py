"""The page in a real browser: at every kind of cut, and where it plans, it shows the class of the unsliced model.

HEADTAIL_SHOTS=FOLDER: pictures of the page are left there.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from deployments.replica.ingress.http_ingress import Ingress
from deployments.replica.ingress.web_page import WebPage
from slicer import onnx, shards
from slicer.calibration.calibrate import calibrate
from slicer.core.protocol.messages import Refusal, ServedModel
from slicer.models import zoo
from slicer.models.data_config import preprocessing_of
from slicer.models.images import Preprocess, write_digits
from slicer.slicing.slice_model import slice_spec
from slicer.slicing.sliced_model import SlicedModel
from tests.unit.asgi import served_in_a_thread
from tests.unit.clients.web.chromium import Tab, find_chromium, open_tab
from tests.unit.tiny_server import TinyServer

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

MODEL = "digits_vit"
TOKEN = "secret"
LABELS = tuple(f"digit {number}" for number in range(10))

_LOADED_WITHOUT_THE_SIZE_OF_BATCHES = f"""(async () => {{
  const {{ onnxRuntime }} = await import("./page/runtime.js");
  const {{ Server }} = await import("./src/server.js");
  const server = new Server(new URL("..", location), "{TOKEN}");
  const [slice] = await server.headSlices(await server.describe("digits"));
  const file = await server.file("/shard", slice);
  const {{ runtime, options }} = await onnxRuntime("gpu");
  await (await runtime.InferenceSession.create(file, options)).release();
  const ofAnySize = {{ ...options, freeDimensionOverrides: {{}} }};
  return runtime.InferenceSession.create(file, ofAnySize).then(() => "loaded", String);
}})()"""


class OnnxServer(TinyServer):
    """It says how images become inputs, as servers do."""

    async def describe(self, model: str) -> ServedModel | Refusal:
        served = await super().describe(model)
        if isinstance(served, Refusal):
            return served
        return dataclasses.replace(served, preprocessing_json=preprocessing_of(zoo.resolve(MODEL)).to_json())


@pytest.fixture(scope="module")
def sliced() -> SlicedModel:
    return slice_spec(zoo.resolve(MODEL), 4)


@pytest.fixture(scope="module")
def server(sliced: SlicedModel, tmp_path_factory: pytest.TempPathFactory) -> OnnxServer:
    directory = tmp_path_factory.mktemp("onnx")
    onnx.export(sliced, directory)
    return OnnxServer(sliced, directory, ["digits"], LABELS)


@pytest.fixture(scope="module")
def url(server: OnnxServer) -> Iterator[str]:
    page = WebPage()
    if "ort/ort.wasm.min.mjs" not in page.names:
        pytest.skip("onnxruntime-web is not installed: make web")
    with served_in_a_thread(Ingress(server, token=TOKEN, page=page)) as found:  # type: ignore[arg-type]
        yield found


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 digits to calibrate on."""
    folder = tmp_path_factory.mktemp("photos")
    for file in write_digits(tmp_path_factory.mktemp("digits")).files[::15]:
        shutil.copy(file, folder / f"{file.parent.name}-{file.name}")
    return folder


@pytest.fixture(scope="module")
def chromium() -> str:
    found = find_chromium()
    if found is None:
        pytest.skip("no Chromium is installed: apt-get install chromium, or HEADTAIL_CHROMIUM=path")
    return found


async def settled(tab: Tab) -> str:
    """What the page says of an error when it has done what it was told; empty: there is none."""
    await tab.until("time.textContent !== 'none yet' && status_.className !== 'busy' || !error_.hidden")
    return str(await tab.evaluate("error_.hidden ? '' : error_.textContent"))


async def choose(tab: Tab, name: str, value: str) -> None:
    await tab.evaluate(
        f"{{ const field = document.getElementById('{name}'); field.value = '{value}';"
        f"if (field.value !== '{value}') throw new Error('no {name} {value}');"
        "field.dispatchEvent(new Event('change')); }"
    )


async def connected(tab: Tab, url: str) -> None:
    """The page, with the token in its address."""
    await tab.call("Page.navigate", url=f"{url}/device#token={TOKEN}")
    await tab.until("document.getElementById('status')?.className === 'ready'")
    await tab.evaluate(
        "globalThis.time = document.getElementById('time-total'); globalThis.error_ = document.getElementById('error');"
        "globalThis.status_ = document.getElementById('status'); time.textContent = 'none yet'"
    )


def test_the_label_is_the_unsliced_models_at_every_kind_of_cut(
    url: str, chromium: str, server: OnnxServer, sliced: SlicedModel, tmp_path: Path
) -> None:
    files: Sequence[Path] = write_digits(tmp_path / "digits").files[::60]
    prepare = Preprocess(sliced.spec)
    with torch.inference_mode():
        whole = np.asarray(sliced.span(0, 4)(torch.from_numpy(np.stack([prepare(str(file)) for file in files]))))
    likely = np.exp(whole) / np.exp(whole).sum(1, keepdims=True)

    async def drive() -> None:
        async with open_tab(chromium, tmp_path / "profile") as tab:
            await connected(tab, url)
            assert await tab.evaluate("location.href") == f"{url}/device/"  # the token has left the address
            assert await tab.evaluate("crossOriginIsolated")  # so onnxruntime-web has threads
            for cut, codec in [("0", "fp32"), ("2", "fp32"), ("4", "")]:
                await choose(tab, "cut", cut)
                if codec:
                    await choose(tab, "codec", codec)
                server.rows.clear()
                for file, expected in zip(files, likely, strict=True):
                    await tab.evaluate("time.textContent = 'none yet'")
                    await tab.give_file("#file", file)
                    assert await settled(tab) == "", (cut, file)
                    shown = await tab.evaluate("document.getElementById('label').textContent")
                    assert shown == f"{LABELS[expected.argmax()]}, {100 * expected.max():.1f} %", (cut, file)
                assert [row.cut for row in server.rows] == ([] if cut == "4" else [int(cut)] * len(files))
            assert tab.complaints == []

    asyncio.run(asyncio.wait_for(drive(), 300))


def test_a_page_that_plans_shows_the_unsliced_models_labels_and_says_why(
    url: str, chromium: str, server: OnnxServer, sliced: SlicedModel, tmp_path: Path
) -> None:
    files: Sequence[Path] = write_digits(tmp_path / "digits").files[::60]
    prepare = Preprocess(sliced.spec)
    with torch.inference_mode():
        best = sliced.span(0, 4)(torch.from_numpy(np.stack([prepare(str(file)) for file in files]))).argmax(1).tolist()

    async def drive() -> None:
        async with open_tab(chromium, tmp_path / "profile") as tab:
            await connected(tab, url)
            server.rows.clear()
            await choose(tab, "chooser", "planned")
            await tab.until("document.getElementById('why').textContent && status_.className === 'ready'")
            assert await tab.evaluate(
                "document.getElementById('cut').disabled && document.getElementById('codec').disabled"
            )
            asked = len(server.rows)
            assert asked == 1  # of zeros, beside the images
            for file, expected in zip(files, best, strict=True):
                await tab.evaluate("time.textContent = 'none yet'")
                await tab.give_file("#file", file)
                assert await settled(tab) == "", file
                shown = str(await tab.evaluate("document.getElementById('label').textContent"))
                assert shown.split(",")[0] == LABELS[expected], file
                cut = await tab.evaluate("Number(document.getElementById('cut').value)")
                why = str(await tab.evaluate("document.getElementById('why').textContent"))
                assert why.startswith({0: "no slice here", 4: "all slices here"}.get(cut, f"{cut} of 4")), why
                assert "ms expected; " in why
            assert tab.complaints == []
            if folder := os.environ.get("HEADTAIL_SHOTS"):
                for width, dark in itertools.product((390, 1280), (False, True)):
                    name = f"planned-{width}-{'dark' if dark else 'light'}.png"
                    await tab.picture(Path(folder) / name, width, dark=dark)

    asyncio.run(asyncio.wait_for(drive(), 300))


def test_a_codec_with_tables_is_offered_at_its_cut_and_new_tables_are_fetched_when_the_model_was_calibrated_again(
    url: str, chromium: str, server: OnnxServer, sliced: SlicedModel, photos: Path, tmp_path: Path
) -> None:
    plain = next(iter(server.models.values())).directory
    manifest = shards.load_manifest(plain)
    folders = [shutil.copytree(plain, tmp_path / name) for name in ("first", "again")]
    indexes = [calibrate(sliced, manifest, photos, folder, seed=at).index for at, folder in enumerate(folders)]
    first, again = (index.by_cut[2].tables.sha256 for index in indexes)
    assert first != again
    file = write_digits(tmp_path / "digits").files[7]
    with torch.inference_mode():
        best = int(sliced.span(0, 4)(torch.from_numpy(Preprocess(sliced.spec)(str(file))[None])).argmax())
    offered = (
        "[...document.getElementById('codec').options].map(one => one.value).filter(one => /^transform/.test(one))"
    )
    fetched = (
        "performance.getEntriesByType('resource').map(one => /shard.([0-9a-f]+)/.exec(one.name)?.[1])"
        ".filter(one => one)"
    )

    async def answered(tab: Tab) -> None:
        assert await settled(tab) == ""
        shown = str(await tab.evaluate("document.getElementById('label').textContent"))
        assert shown.split(",")[0] == LABELS[best]
        assert (server.rows[-1].cut, server.rows[-1].codec) == (2, "transform-998")
        sent = str(await tab.evaluate("document.getElementById('sent').textContent"))
        assert sent == f"{len(server.rows[-1].payload) / 1e3:.1f} kB"

    async def drive() -> None:
        async with open_tab(chromium, tmp_path / "profile") as tab:
            await connected(tab, url)
            await choose(tab, "cut", "0")
            assert await tab.evaluate(offered) == []
            await choose(tab, "cut", "2")
            assert await tab.evaluate(offered) == sorted(indexes[0].by_cut[2].qualities)
            await choose(tab, "codec", "transform-998")
            assert first not in await tab.evaluate(fetched)
            await tab.give_file("#file", file)
            await answered(tab)
            if shots := os.environ.get("HEADTAIL_SHOTS"):
                await tab.picture(Path(shots) / "tables-390-light.png", 390, dark=False)
            slices = [one for one in await tab.evaluate(fetched) if one != first]

            server.serve(folders[1], ["digits"], LABELS)
            server.calls.clear()
            await tab.evaluate("time.textContent = 'none yet'; document.getElementById('again').click()")
            await answered(tab)
            assert len(server.calls) == 2  # the one that was refused, and the one with the new tables
            await tab.evaluate("time.textContent = 'none yet'; document.getElementById('again').click()")
            await answered(tab)
            assert len(server.calls) == 3
            found = await tab.evaluate(fetched)
            assert (found.count(first), found.count(again)) == (1, 1)
            # The index of ONNX files is asked for at every description, slices once.
            index = server.models["digits"].onnx
            assert [one for one in found if one not in (first, again, index)] == [one for one in slices if one != index]
            assert len(tab.complaints) == 1 and "409 (Conflict)" in tab.complaints[0]  # browsers tell of every refusal

    server.serve(folders[0], ["digits"], LABELS)
    try:
        asyncio.run(asyncio.wait_for(drive(), 300))
    finally:
        server.serve(plain, ["digits"], LABELS)


def test_slices_on_a_gpu_give_what_the_processor_gives_and_leave_nothing_to_it(
    url: str, chromium: str, server: OnnxServer, tmp_path: Path
) -> None:
    """WebGPU by SwiftShader, which computes a GPU's work on the processor: right or wrong shows, speed does not."""
    file = write_digits(tmp_path / "digits").files[0]
    swiftshader = ("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader")

    async def drive() -> None:
        async with open_tab(chromium, tmp_path / "profile", swiftshader) as tab:
            await connected(tab, url)
            if not await tab.evaluate("navigator.gpu?.requestAdapter().then(found => found !== null) ?? false"):
                pytest.skip("this Chromium has no WebGPU by SwiftShader")
            await tab.evaluate("document.addEventListener('answered', one => globalThis.logits = one.detail.logits)")
            await tab.give_file("#file", file)
            assert await settled(tab) == ""
            found: dict[tuple[str, str], npt.NDArray[np.float32]] = {}
            for place, cut in itertools.product(("processor", "gpu"), ("2", "4")):
                await choose(tab, "place", place)
                await choose(tab, "cut", cut)
                if cut != "4":
                    await choose(tab, "codec", "fp32")
                await tab.evaluate("time.textContent = 'none yet'")
                await tab.evaluate("document.getElementById('again').click()")
                assert await settled(tab) == "", (place, cut)
                found[place, cut] = np.array(await tab.evaluate("[...logits]"), np.float32)
            loaded = "performance.getEntriesByType('resource').map(one => one.name.split('/').pop())"
            assert "ort-wasm-simd-threaded.asyncify.wasm" in await tab.evaluate(loaded)
            for cut in ("2", "4"):
                expected = found["processor", cut]
                near = 1e-4 * float(np.abs(expected).max())
                np.testing.assert_allclose(found["gpu", cut], expected, rtol=0, atol=near)
            # Without the batch's size the processor would have to work out shapes, and the slice is refused.
            said = await tab.evaluate(_LOADED_WITHOUT_THE_SIZE_OF_BATCHES)
            assert "fallback to CPU EP has been explicitly disabled" in said

    asyncio.run(asyncio.wait_for(drive(), 300))
