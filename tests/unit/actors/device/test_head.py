"""Heads from real shards: what the device computes, the tail finishes to the unsliced model's answer."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from actors.device.config import DeviceConfig, Retry
from actors.device.device import Device
from actors.device.head_loader import load_head
from actors.device.torch_slices import TorchSlices
from actors.testing.fake_server import FakeServer
from slicer.core.codecs import activations, images
from slicer.core.device.answer import RequestOptions
from slicer.core.heads import image_payload
from slicer.core.heads.head import Head
from slicer.core.heads.served_model import head_memory
from slicer.core.planning.cut_planner import Choice
from slicer.core.protocol.messages import Request, ServedModel
from slicer.core.protocol.outputs import packed
from slicer.core.records.record import Record
from slicer.core.settings import pause_s
from slicer.core.shards.manifest import Manifest
from slicer.errors import CodecError, ConfigError, CutError, HeadTailError, ImageError, ShardError
from slicer.models import zoo
from slicer.models.images import Preprocess, write_digits
from slicer.profiles.device_profile import NATIVE, Profile, Spread
from slicer.shards.load import load_span
from slicer.shards.save import export
from slicer.slicing.slice_model import SlicedModel, slice_spec

N = 4
SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 4, "num_heads": 3, "num_classes": 10}


class Exported:
    """A small ViT with random weights, exported once, as a server would serve it."""

    def __init__(self, directory: Path, outputs: list[str] | None = None) -> None:
        spec = zoo.resolve("vit_tiny_patch16_224", kwargs=SMALL, outputs=outputs)
        self.sliced: SlicedModel = slice_spec(spec, N)
        self.directory = directory / "shards"
        self.manifest: Manifest = export(self.sliced, self.directory)
        self.content = {s.sha256: (self.directory / s.file).read_bytes() for s in self.manifest.shards}
        self.served = ServedModel(
            "small",
            self.manifest.digest,
            self.manifest.to_json(),
            N,
            tuple(range(N)),
            "per_tail",
            tuple(activations.CODECS),
        )
        self.images = [str(path) for path in write_digits(directory / "digits").files[:3]]
        self.fetched: list[str] = []

    def get(self, sha256: str, offset: int, length: int) -> bytes:
        self.fetched.append(sha256)
        return self.content[sha256][offset : offset + length]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return Exported(tmp_path_factory.mktemp("head"))


def config(tmp_path: Path, **changes: Any) -> DeviceConfig:
    fields: dict[str, Any] = {
        "name": "cam-0",
        "group": "cam",
        "model": "small",
        "cut": 2,
        "profile": NATIVE,
        "cache_directory": str(tmp_path / "cache"),
        "cache_max_bytes": 100_000_000,
    }
    return DeviceConfig(**{**fields, **changes})


def decoded(name: str, payload: bytes, shape: tuple[int, ...]) -> torch.Tensor:
    row = torch.empty((1, *shape))
    activations.decode_into(name, payload, row.numpy()[0])
    return row


def whole(exported: Exported, image: str) -> torch.Tensor:
    pixels = torch.from_numpy(Preprocess(exported.manifest.spec)(image)).unsqueeze(0)
    with torch.inference_mode():
        return exported.sliced.module(pixels)[0]


@pytest.mark.parametrize("cut", range(N + 1))
def test_head_and_tail_give_the_unsliced_models_logits_at_every_cut(
    exported: Exported, tmp_path: Path, cut: int
) -> None:
    head = load_head(exported.served, config(tmp_path, cut=cut), exported.get)
    for image in exported.images:
        computed = head.compute(image, Choice(cut, "fp32"))
        if computed.logits is not None:
            assert cut == N
            logits = torch.from_numpy(computed.logits)
        else:
            row = decoded("fp32", computed.payload, computed.shape)
            with torch.inference_mode():
                logits = load_span(exported.directory, cut, N)(row)[0]
        assert tuple(computed.shape) == exported.manifest.shapes[cut]
        # What crosses is row-major. In the unsliced ViT it is a transposed view, whose kernels sum in another order:
        # 5e-7 here. With the head's own strides it is bit for bit the same, as the tests of the slicer show.
        assert (logits - whole(exported, image)).abs().max() < 1e-5
        assert logits.argmax() == whole(exported, image).argmax()


def test_what_crosses_is_the_heads_activation_bit_for_bit(exported: Exported, tmp_path: Path) -> None:
    computed = load_head(exported.served, config(tmp_path, cut=3), exported.get).compute(
        exported.images[0], Choice(3, "fp32")
    )
    pixels = torch.from_numpy(Preprocess(exported.manifest.spec)(exported.images[0])).unsqueeze(0)
    with torch.inference_mode():
        expected = exported.sliced.head(3)(pixels)
    assert torch.equal(decoded("fp32", computed.payload, computed.shape), expected)


def test_a_device_fetches_only_its_own_slices_and_only_once(exported: Exported, tmp_path: Path) -> None:
    exported.fetched.clear()
    load_head(exported.served, config(tmp_path, cut=2), exported.get)
    assert set(exported.fetched) == {shard.sha256 for shard in exported.manifest.shards[:2]}
    exported.fetched.clear()
    load_head(exported.served, config(tmp_path, cut=2), exported.get)
    assert exported.fetched == []


def test_a_whole_device_from_shards_to_answer(exported: Exported, tmp_path: Path) -> None:
    """The shards come through the transport; the fake server runs the real tail."""
    tail = load_span(exported.directory, 2, N)

    def answer(request: Request) -> tuple[tuple[int, float], ...]:
        with torch.inference_mode():
            best = int(tail(decoded(request.codec, request.payload, request.shape))[0].argmax())
        return ((best, 1.0),)

    async def scenario() -> Record:
        server = FakeServer({"small": exported.served}, answer=answer, shards=exported.content)
        device = Device(config(tmp_path, codec="fp16"), server)
        await device.start()
        assert device.head_bytes == sum(shard.size_bytes for shard in exported.manifest.shards[:2])
        record = Record("x", "cam-0", "cam", 2, 0, None, 0.0)
        await device.answer(exported.images[0], record, device.clock.now_s(), RequestOptions())
        await device.close()
        return record

    record = asyncio.run(scenario())
    assert record.outcome == "answered", record.message
    assert record.top1 == int(whole(exported, exported.images[0]).argmax())
    assert record.payload_bytes == activations.encoded_bytes("fp16", exported.manifest.shapes[2])


def test_a_server_that_serves_nothing_of_the_kind_is_an_error_of_start(exported: Exported, tmp_path: Path) -> None:
    async def scenario() -> None:
        device = Device(config(tmp_path, model="other"), FakeServer({"small": exported.served}))
        try:
            await device.start()
        finally:
            await device.close()

    with pytest.raises(HeadTailError, match="other"):
        asyncio.run(scenario())


def test_an_unreadable_image_is_named(exported: Exported, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(b"no image")
    head = load_head(exported.served, config(tmp_path), exported.get)
    with pytest.raises(ImageError, match=r"damaged\.png"):
        head.compute(str(damaged), Choice(2, "fp32"))


def emulated(**changes: Any) -> Profile:
    fields: dict[str, Any] = {"name": "board", "hypothetical": True, "slices_ms": [{"mean": 5.0, "std": 0.5}] * N}
    return Profile(**{**fields, **changes})


def test_a_head_that_does_not_fit_is_refused_before_anything_is_fetched(exported: Exported, tmp_path: Path) -> None:
    head_bytes, activation_bytes = head_memory(exported.manifest, 2)
    fits = head_bytes + activation_bytes
    exported.fetched.clear()
    with pytest.raises(ConfigError, match=rf"'board'.*{head_bytes} bytes.*{activation_bytes} bytes.*{fits - 1} bytes"):
        load_head(exported.served, config(tmp_path, profile=emulated(memory_budget_bytes=fits - 1)), exported.get)
    assert exported.fetched == []
    load_head(exported.served, config(tmp_path, profile=emulated(memory_budget_bytes=fits)), exported.get)


@pytest.mark.parametrize(
    ("changes", "error", "word"),
    [
        ({"cut": 5}, CutError, "cuts are 0 to 4"),
        ({"cut": 3}, CutError, "no entry"),
        ({"codec": "int2"}, ConfigError, "int2"),
        ({"profile": emulated(slices_ms=[{"mean": 1, "std": 0}])}, ConfigError, "1 slices"),
        ({"profile": emulated(model="other")}, ConfigError, "other"),
        ({"accelerator": "cuda"}, ConfigError, "cuda"),
    ],
)
def test_what_does_not_go_with_the_served_model_is_refused(
    exported: Exported, tmp_path: Path, changes: dict[str, Any], error: type[Exception], word: str
) -> None:
    if changes.get("accelerator") == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    served = replace(exported.served, entries=(0, 1, 2))
    with pytest.raises(error, match=word):
        load_head(served, config(tmp_path, **changes), exported.get)


def test_a_manifest_under_another_digest_is_refused(exported: Exported, tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="announces"):
        load_head(replace(exported.served, manifest="0" * 64), config(tmp_path), exported.get)


def test_slices_that_are_dropped_leave_no_weights_behind_even_where_something_still_holds_them() -> None:
    shared = torch.nn.Parameter(torch.ones(8))
    slices = [torch.nn.Linear(4, 4), torch.nn.LayerNorm(8), torch.nn.LayerNorm(8)]
    slices[0].shared, slices[2].shared = shared, shared
    slices[2].register_buffer("table", torch.ones(100))
    head = Head(lambda image: np.ones(4, np.float32), TorchSlices(slices), manifest="d", num_slices=3)
    head.trim(1)
    assert head.loaded == 1
    assert [p.numel() for one in slices[1:] for p in (*one.parameters(), *one.buffers())] == [0, 0, 0, 0, 8, 0]
    assert torch.equal(shared, torch.ones(8))  # the slice that is kept holds it, too
    assert head.compute("any", Choice(1, "fp32")).shape == (4,)


# --- outputs ---------------------------------------------------------------------------------------------------------

NAMES = ("logits", "features", "tokens")


@pytest.fixture(scope="module")
def further(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return Exported(tmp_path_factory.mktemp("further"), outputs=["features", "tokens"])


def rows_of(exported: Exported, image: str) -> dict[str, Any]:
    """What the server has of an image: its outputs, cut from the row that the whole model gives."""
    pixels = torch.from_numpy(Preprocess(exported.manifest.spec)(image))[None]
    with torch.inference_mode():
        row = exported.sliced.module(pixels)[0].numpy()
    return {output.name: output.of(row) for output in exported.manifest.outputs}


def test_at_the_last_cut_and_alone_a_device_has_the_servers_outputs(further: Exported, tmp_path: Path) -> None:
    head = load_head(further.served, config(tmp_path, cut=2, alone="tail", outputs=NAMES), further.get)
    assert head.outputs == NAMES
    image = further.images[0]
    want = rows_of(further, image)
    at_once = head.compute(image, Choice(N, "fp32"))
    finished = head.finish(head.compute(image, Choice(2, "fp32")), image)
    for computed in (at_once, finished):
        assert computed.outputs is not None and list(computed.outputs) == list(NAMES)
        for name in NAMES:
            np.testing.assert_array_equal(computed.outputs[name], want[name])
        assert computed.logits is computed.outputs["logits"]
        assert computed.shape == (10,)
    assert head.compute(image, Choice(2, "fp32")).outputs is None


def test_without_further_outputs_the_logits_are_the_only_one(exported: Exported, tmp_path: Path) -> None:
    computed = load_head(exported.served, config(tmp_path, cut=N), exported.get).compute(
        exported.images[0], Choice(N, "fp32")
    )
    assert computed.outputs is not None and list(computed.outputs) == ["logits"]
    assert computed.outputs["logits"] is computed.logits


def test_what_is_not_finite_in_an_output_fails_the_image_as_it_does_at_the_server() -> None:
    row = np.array([1.0, 2.0, np.nan], np.float32)
    outputs = packed([("logits", (2,)), ("features", (1,))])
    head = Head(lambda image: row, TorchSlices([torch.nn.Identity()]), manifest="d", num_slices=1, outputs=outputs)
    with pytest.raises(CodecError, match="NaN"):
        head.compute("any", Choice(1, "fp32"))


# --- emulated time ---------------------------------------------------------------------------------------------------


class Waits(list[float]):
    def __call__(self, seconds: float) -> None:
        self.append(seconds)


def emulated_head(draw_ms: float, draw_prepare_ms: float | None, spent_s: float = 0.0) -> tuple[Head, Waits]:
    waits = Waits()

    def prepare(image: str) -> Any:
        time.sleep(spent_s)
        return np.ones((3, 4, 4), np.float32)

    exact = {"mean": draw_ms, "std": 0.0}
    profile = Profile(
        name="exact",
        hypothetical=True,
        slices_ms=(exact, exact),  # type: ignore[arg-type]
        preprocess_ms=None if draw_prepare_ms is None else Spread(mean=draw_prepare_ms, std=0.0),
    )
    head = Head(
        prepare,
        TorchSlices([torch.nn.Identity()]),
        manifest="d",
        num_slices=N,
        profile=profile,
        sleep=waits,
    )
    return head, waits


def test_an_emulated_head_waits_for_what_is_left_of_its_drawn_time() -> None:
    head, waits = emulated_head(draw_ms=5000.0, draw_prepare_ms=1000.0)
    computed = head.compute("any", Choice(1, "fp32"))
    assert not computed.overrun
    assert len(waits) == 1
    assert 5.5 < waits[0] < 6.0  # six seconds less what this host really needed


def test_without_a_drawn_time_preprocessing_takes_what_it_takes() -> None:
    head, waits = emulated_head(draw_ms=1000.0, draw_prepare_ms=None, spent_s=0.05)
    assert not head.compute("any", Choice(1, "fp32")).overrun
    assert 0.9 < waits[0] <= 1.0  # the 50 ms of preprocessing are not taken off the slices' second


def test_a_host_that_is_slower_than_the_device_is_an_overrun() -> None:
    head, waits = emulated_head(draw_ms=1.0, draw_prepare_ms=1.0, spent_s=0.05)
    assert head.compute("any", Choice(1, "fp32")).overrun
    assert waits == []


@pytest.mark.parametrize("codec", ["rgb8", "jpeg-75", "webp-75"])
def test_what_a_file_takes_to_write_is_encoding_and_the_crop_is_preprocessing(
    codec: str, exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 100.0
    monkeypatch.setattr(time, "perf_counter", lambda: now_s)

    class Slow(Preprocess):
        def crop(self, image: Any) -> Any:
            nonlocal now_s
            now_s += 0.005
            return super().crop(image)

    def encode_image(*args: Any) -> bytes:
        nonlocal now_s
        now_s += 0.002
        return images.encode_image(*args)

    monkeypatch.setattr(image_payload, "encode_image", encode_image)
    prepare = Slow(exported.manifest.spec)
    computed = Head(prepare, TorchSlices([]), manifest="d", num_slices=N).compute(exported.images[0], Choice(0, codec))
    assert (computed.prepare_ms, computed.head_ms, computed.encode_ms) == pytest.approx((5.0, 5.0, 2.0))


def test_drawn_times_follow_the_seed_and_the_devices_name(exported: Exported, tmp_path: Path) -> None:
    def drawn(**changes: Any) -> float:
        head = load_head(exported.served, config(tmp_path, cut=1, profile=emulated(), **changes), exported.get)
        return head._rng.random()

    assert drawn(seed=1) == drawn(seed=1)
    assert drawn(seed=1) != drawn(seed=2)
    assert drawn(name="cam-0") != drawn(name="cam-1")


def test_retry_pauses_double_up_to_their_limit() -> None:
    retry = Retry(first_pause_s=0.1, max_pause_s=0.5)
    assert [pause_s(retry, attempt) for attempt in (1, 2, 3, 4)] == [0.1, 0.2, 0.4, 0.5]


def test_spread_draws_have_the_mean_and_std_that_were_given() -> None:
    rng = random.Random(0)
    draws = np.array([Spread(mean=20.0, std=4.0).draw_ms(rng) for _ in range(20_000)])
    assert draws.mean() == pytest.approx(20.0, rel=0.01)
    assert draws.std() == pytest.approx(4.0, rel=0.03)
    assert draws.min() > 0
