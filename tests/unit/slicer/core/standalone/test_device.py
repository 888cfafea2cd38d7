"""A device on its own: it classifies as the unsliced model does, at every cut, and says why when it cannot."""

from __future__ import annotations

import asyncio
import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from slicer.core.standalone import AsyncDevice, Device
from slicer.core.standalone import device as device_module
from slicer.errors import ConfigError, CutError, ImageError, ServerError
from tests.unit.slicer.core.standalone.conftest import TOKEN, OnnxServer


@pytest.fixture
def make(url: str, tmp_path: Path) -> Any:
    def made(**arguments: Any) -> Device:
        return Device(url, TOKEN, **{"cache": tmp_path / "cache", "name": "board", **arguments})

    return made


@pytest.mark.parametrize("cut", [0, 1, 2, 3, 4])
def test_top_1_is_the_unsliced_models_at_every_cut(make: Any, cut: int, digits: list[str], whole: np.ndarray) -> None:
    with make(cut=cut, codec="fp32") as device:
        found = [result.class_index for result in device.batch(digits[::12])]
    assert found == whole[::12].tolist()


def test_a_result_has_labels_logits_and_where_the_time_went(make: Any, digits: list[str], whole: np.ndarray) -> None:
    with make(cut=2, codec="int8", top_k=3) as device:
        result = device(digits[0])
    assert result.label == f"digit: {whole[0]}"
    assert [one.label for one in result.top_k] == [f"digit: {one.class_index}" for one in result.top_k]
    assert len(result.top_k) == 3 and result.logit == result.top_k[0].logit >= result.top_k[1].logit
    assert {"head", "encode", "network", "queue", "execution", "inference"} <= set(result.timings)
    assert (result.cut, result.codec, result.alone) == (2, "int8", False)
    assert 0 < result.payload_bytes < 16 * 96 * 2


@pytest.mark.parametrize("cut", [0, 2, 4])
def test_an_image_is_the_same_as_a_file_bytes_a_picture_or_an_array(make: Any, cut: int, digits: list[str]) -> None:
    picture = Image.open(digits[5])
    data = io.BytesIO()
    picture.save(data, "PNG")
    with make(cut=cut, codec="fp32") as device:
        first, *others = [
            device(given) for given in (digits[5], Path(digits[5]), data.getvalue(), picture, np.asarray(picture))
        ]
    assert [one.top_k for one in others] == [first.top_k] * 4


def test_a_jpeg_in_memory_is_sent_as_it_is(make: Any, server: OnnxServer, digits: list[str]) -> None:
    data = io.BytesIO()
    Image.open(digits[3]).convert("RGB").resize((64, 64)).save(data, "JPEG", quality=40)
    with make(cut=0) as device:
        assert device(data.getvalue()).codec == "jpeg"
    assert bytes(server.rows[-1].payload) == data.getvalue()


def test_a_head_is_fetched_once_and_only_the_slices_of_the_cut(
    make: Any, server: OnnxServer, digits: list[str]
) -> None:
    with make(cut=2) as device:
        device(digits[0])
    wanted = {server.index.digest, *(file.sha256 for file in server.index.files(0, 2))}
    assert set(server.fetched) == wanted
    server.fetched.clear()
    with make(cut=2) as device:
        device(digits[0])
    assert set(server.fetched) == {server.index.digest}  # the files are in the cache


def test_int8_heads_are_other_files(make: Any, server: OnnxServer, digits: list[str], whole: np.ndarray) -> None:
    with make(cut=3, int8=True) as device:
        found = [result.class_index for result in device.batch(digits[::24])]
    assert {file.sha256 for file in server.index.files(0, 3, int8=True)} <= set(server.fetched)
    assert np.mean(np.array(found) == whole[::24]) > 0.8


def test_without_a_cut_the_device_plans(make: Any, digits: list[str]) -> None:
    with make() as device:
        cuts = {device(digit).cut for digit in digits[:20]}
    assert cuts <= {0, 1, 2, 3, 4}


def test_a_device_that_holds_all_goes_on_without_its_server(
    make: Any, server: OnnxServer, digits: list[str], whole: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    with make(cut=1, codec="fp32", alone=True) as device:
        assert not device(digits[0]).alone
        server.refusals.extend([["overloaded"]] * 100)
        results = device.batch(digits[1:5])
    assert all(result.alone for result in results)
    assert [result.class_index for result in results] == whole[1:5].tolist()


def test_a_head_that_the_server_calls_stale_is_looked_up_again(
    make: Any, server: OnnxServer, digits: list[str], whole: np.ndarray
) -> None:
    with make(cut=1, codec="fp32") as device:
        device(digits[0])
        described = server.described
        server.refusals.append(["stale"])
        assert device(digits[1]).class_index == whole[1]
    assert server.described == described + 1


def test_bad_images_are_refused_and_the_next_is_answered(make: Any, digits: list[str], tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no image")
    with make(cut=1) as device:
        for bad in (tmp_path / "bad.png", tmp_path / "none.png", b"no image"):
            with pytest.raises(ImageError):
                device(bad)
        for shape in ((3, 4, 5), (0,), (2, 2, 2)):
            with pytest.raises(ImageError, match="an array of"):
                device(np.zeros(shape, np.uint8))
        assert device(digits[0]).label


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"cut": 9}, CutError, "cuts are 0 to 4"),
        ({"cut": 1, "codec": "jpeg"}, ConfigError, "only cut 0"),
        ({"cut": 1, "codec": "mp3"}, ConfigError, "codec 'mp3'"),
        ({"cut": 1, "memory_bytes": 1000}, ConfigError, "budget 1000 bytes"),
        ({"cut": 1, "model": "cats"}, Exception, "cats"),
        ({"cut": 1, "cache_max_bytes": 100}, Exception, "the shard cache"),
        ({"cut": 1, "providers": ["NpuProvider"]}, ConfigError, "no NpuProvider"),
    ],
)
def test_what_does_not_go_is_refused_at_the_start(make: Any, arguments: Any, error: Any, said: str) -> None:
    with pytest.raises(error, match=said), make(**arguments):
        pass


@pytest.mark.parametrize("arguments", [{"top_k": 0}, {"threads": 0}, {"budget_s": 0.0}, {"cut": 1, "plan": object()}])
def test_contradictions_are_refused_when_it_is_made(arguments: Any) -> None:
    with pytest.raises(ConfigError):
        Device("http://127.0.0.1:9/x", **arguments)


def test_a_server_without_onnx_files_is_told_how_to_have_them(make: Any, server: OnnxServer) -> None:
    async def describe(model: str) -> Any:
        return dataclasses.replace(await OnnxServer.describe(server, model), onnx="")

    server.describe = describe  # type: ignore[method-assign]
    with pytest.raises(ConfigError, match="onnx: true"), make(cut=1):
        pass


def test_no_server_is_an_error_with_its_address(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match=r"127\.0\.0\.1:9"), Device("http://127.0.0.1:9/x", model="m", cut=1):
        pass


def test_32_bit_arm_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_module.platform, "machine", lambda: "armv7l")
    with pytest.raises(ConfigError, match="64-bit"):
        Device("http://127.0.0.1:9/x")


def test_calls_of_the_async_device_overlap(url: str, tmp_path: Path, digits: list[str], whole: np.ndarray) -> None:
    async def ask() -> list[int]:
        async with AsyncDevice(url, TOKEN, cut=1, codec="fp32", cache=tmp_path) as device:
            results = await asyncio.gather(*(device(digit) for digit in digits[:6]))
        return [result.class_index for result in results]

    assert asyncio.run(ask()) == whole[:6].tolist()
