"""A device sends by tables that it fetches from the server, anew when the model was calibrated again."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deployments.replica.ingress.http_ingress import Ingress
from slicer.calibration.calibrate import calibrate
from slicer.core.planning.settings import Plan
from slicer.core.standalone import Device
from slicer.errors import CodecError
from slicer.shards import load_manifest
from slicer.slicing.sliced_model import SlicedModel
from tests.unit.asgi import served_in_a_thread
from tests.unit.slicer.core.standalone.conftest import TOKEN, OnnxServer


@pytest.fixture(scope="module")
def photos(digits: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number, file in enumerate(digits[::22]):
        shutil.copy(file, folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def calibrated(
    sliced: SlicedModel, exported: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """The same model, calibrated twice."""
    found = []
    for seed in (0, 1):
        folder = tmp_path_factory.mktemp("calibrated") / "export"
        shutil.copytree(exported, folder)
        calibrate(sliced, load_manifest(folder), photos, folder, seed=seed)
        found.append(folder)
    return found[0], found[1]


@pytest.fixture
def server(sliced: SlicedModel, calibrated: tuple[Path, Path]) -> OnnxServer:
    return OnnxServer(sliced, calibrated[0], ["digits"])


@pytest.fixture
def url(server: OnnxServer) -> Iterator[str]:
    with served_in_a_thread(Ingress(server, token=TOKEN)) as found:
        yield found


@pytest.fixture
def make(url: str, tmp_path: Path) -> Any:
    def made(**arguments: Any) -> Device:
        return Device(url, TOKEN, **{"cache": tmp_path / "cache", "name": "board", **arguments})

    return made


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_answers_are_the_whole_models_for_a_fraction_of_the_bytes(
    make: Any, cut: int, digits: list[str], whole: np.ndarray
) -> None:
    with make(cut=cut, codec="transform-998") as device:
        results = device.batch(digits[::12])
    assert np.mean([one.class_index for one in results] == whole[::12]) >= 0.95
    assert {one.codec for one in results} == {"transform-998"}
    assert np.median([one.payload_bytes for one in results]) < 16 * 96 / 8  # an eighth of int8


@pytest.mark.parametrize("codec", ["jpeg-75", "webp-75"])
def test_the_models_own_crop_goes_as_a_file(make: Any, codec: str, digits: list[str], whole: np.ndarray) -> None:
    with make(cut=0, codec=codec) as device:
        results = device.batch(digits[::12])
    assert [one.class_index for one in results] == whole[::12].tolist()
    assert max(one.payload_bytes for one in results) < 1000


def test_tables_are_fetched_once_and_kept(make: Any, server: OnnxServer, digits: list[str]) -> None:
    index = server.models["digits"].codecs.calibration
    assert index is not None
    for _ in range(2):
        with make(cut=2, codec="transform-990") as device:
            device(digits[0])
            device(digits[1])
    assert server.fetched.count(index.by_cut[2].tables.sha256) == 1
    assert index.by_cut[1].tables.sha256 not in server.fetched


def test_another_calibration_is_fetched_while_the_device_runs(
    make: Any, server: OnnxServer, calibrated: tuple[Path, Path], digits: list[str], whole: np.ndarray
) -> None:
    with make(cut=2, codec="transform-998") as device:
        device(digits[0])
        server.serve(calibrated[1], ["digits"])
        assert device(digits[12]).class_index == whole[12]
    index = server.models["digits"].codecs.calibration
    assert index is not None and index.by_cut[2].tables.sha256 in server.fetched


def test_a_cut_that_was_not_calibrated_is_said_before_an_image_is_taken(
    make: Any, server: OnnxServer, calibrated: tuple[Path, Path]
) -> None:
    with (
        pytest.raises(CodecError, match="transform-998 at cut 0: the model has tables at 1, 2, 3"),
        make(cut=0, codec="transform-998"),
    ):
        pass


def test_a_plan_takes_a_small_payload_where_the_link_is_what_costs(make: Any, digits: list[str]) -> None:
    with make(plan=Plan(agreement=0.9)) as device:
        results = device.batch(digits[:30])
    assert all(one.class_index is not None for one in results)
