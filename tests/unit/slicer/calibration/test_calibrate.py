"""`headtail slice --calibrate`: tables beside the shards, and what every codec keeps on images that no table saw."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deployments.config import parse_config
from deployments.ipc.hosted_model import HostedModel
from slicer import shards
from slicer.calibration.calibrate import Calibration, calibrate
from slicer.calibration.collect import run
from slicer.calibration.photos import find_photos, parted
from slicer.cli import slice_command
from slicer.core.codecs.transform.tables import TransformTables
from slicer.core.protocol.calibration_index import FILE, load_calibration
from slicer.core.protocol.messages import Refusal, Request
from slicer.errors import ConfigError, ImageError, ShardError
from slicer.models.images import Preprocess, write_digits
from slicer.slicing.slice_model import SlicedModel, slice_model


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 digits, in folders by class."""
    found = write_digits(tmp_path_factory.mktemp("digits") / "all")
    folder = tmp_path_factory.mktemp("photos")
    for number, file in enumerate(found.files[::15]):
        (folder / file.parent.name).mkdir(exist_ok=True)
        shutil.copy(file, folder / file.parent.name / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def sliced() -> SlicedModel:
    return slice_model("digits_vit", 3, verify=False)


@pytest.fixture(scope="module")
def made(sliced: SlicedModel, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Calibration]:
    folder = tmp_path_factory.mktemp("export")
    manifest = shards.export(sliced, folder)
    return folder, calibrate(sliced, manifest, photos, folder)


def test_each_cut_has_tables_that_the_index_names_by_their_digest(made: tuple[Path, Calibration]) -> None:
    folder, found = made
    assert load_calibration(folder) == found.index and not found.left_out
    assert [one.cut for one in found.index.cuts] == [1, 2] == list(found.ways)
    assert set(found.ways.values()) <= {"weighted", "plain"}
    for one in found.index.cuts:
        data = (folder / one.tables.file).read_bytes()
        assert hashlib.sha256(data).hexdigest() == one.tables.sha256 == TransformTables.from_bytes(data).digest


def test_a_name_keeps_the_fidelity_that_it_says(made: tuple[Path, Calibration]) -> None:
    with_tables = [one for one in made[1].index.measured if one.codec.startswith("transform-")]
    assert len(with_tables) == 8
    for one in with_tables:
        assert one.fidelity >= int(one.codec.removeprefix("transform-")) / 1000


def test_what_was_measured_is_what_the_codec_does(
    made: tuple[Path, Calibration], sliced: SlicedModel, photos: Path
) -> None:
    folder, found = made
    _, held = parted(find_photos(photos))
    assert len(held) == found.index.held_out == 6 and found.index.images == 18
    assert sliced.spec is not None
    preprocess = Preprocess(sliced.spec)
    model = hosted(folder)
    rows = run(sliced.head(2), np.stack([preprocess(photo) for photo in held]))
    payloads = [model.codecs.encode("transform-990", row, 2) for row in rows]
    answers = run(sliced.tail(2), model.codecs.decode("transform-990", payloads, 2))
    exact = run(sliced.tail(2), rows)
    cosine = (answers * exact).sum(1) / np.linalg.norm(answers, axis=1) / np.linalg.norm(exact, axis=1)
    (told,) = (one for one in found.index.measured if (one.cut, one.codec) == (2, "transform-990"))
    assert told.payload_bytes == np.median([len(payload) for payload in payloads])
    assert told.fidelity == pytest.approx(float(np.median(cosine)), abs=1e-4)
    assert told.agreement == pytest.approx(float((answers.argmax(1) == exact.argmax(1)).mean()))


def test_exact_codecs_are_found_exact_and_coarse_ones_smaller(made: tuple[Path, Calibration]) -> None:
    found = {(one.cut, one.codec): one for one in made[1].index.measured}
    assert found[0, "rgb8"].fidelity == 1 and found[1, "int8"].fidelity > 0.999
    assert (1, "fp32") not in found  # there is nothing to find out
    sizes = [found[1, name].payload_bytes for name in ("transform-980", "transform-998", "int4", "int8", "fp16")]
    assert sizes == sorted(sizes)
    assert found[0, "jpeg-50"].payload_bytes < found[0, "jpeg-90"].payload_bytes


def hosted(folder: Path) -> HostedModel:
    manifest = shards.load_manifest(folder)
    (config,) = parse_config({"models": [{"name": "digits", "model": "digits_vit"}]}).models
    return HostedModel(config, manifest, folder, manifest.shapes)


def test_a_server_hands_out_tables_and_offers_their_codecs(made: tuple[Path, Calibration]) -> None:
    folder, found = made
    model = hosted(folder)
    served = model.describe(())
    assert {"transform-980", "transform-998", "jpeg-75", "int8"} <= set(served.codecs)
    assert served.calibration_json == found.index.to_json()
    tables = found.index.cuts[0].tables
    assert model.read_shard(tables.sha256, 0, 1 << 24) == (folder / tables.file).read_bytes()


def asked(model: HostedModel, payload: bytes, codec: str = "transform-995", cut: int = 1) -> Request:
    return Request("r", "digits", model.digest, cut, codec, model.shapes[cut], payload)


def test_after_another_calibration_devices_load_anew_and_keep_their_slices(
    made: tuple[Path, Calibration], sliced: SlicedModel, photos: Path, tmp_path: Path
) -> None:
    again = tmp_path / "again"
    shutil.copytree(made[0], again)
    before, row = hosted(made[0]), np.ones((16, 96), np.float32)
    calibrate(sliced, before.manifest, photos, again, seed=1)
    after = hosted(again)
    assert after.digest == before.digest
    payload = before.codecs.encode("transform-995", row, 1)
    refusal = after.check(asked(after, payload))
    assert isinstance(refusal, Refusal) and refusal.code == "stale" and "calibrated again" in refusal.message
    assert before.check(asked(before, payload)) is None
    assert after.check(asked(after, after.codecs.encode("transform-995", row, 1))) is None


def test_a_payload_that_cannot_be_is_refused_by_itself(made: tuple[Path, Calibration]) -> None:
    model = hosted(made[0])
    for payload, codec, cut in ((b"", "transform-995", 1), (b"x" * 40, "transform-1000", 1), (b"", "transform-995", 0)):
        refusal = model.check(asked(model, payload, codec, cut))
        assert isinstance(refusal, Refusal) and refusal.code == "bad_codec", (codec, cut)


def test_tables_of_another_model_are_refused_when_it_is_served(made: tuple[Path, Calibration], tmp_path: Path) -> None:
    other = tmp_path / "other"
    shards.export(slice_model("digits_vit", 2, verify=False), other)
    shutil.copy(made[0] / FILE, other / FILE)
    with pytest.raises(ShardError, match="calibrate again"):
        hosted(other)


def test_too_few_images_say_how_many_it_takes(
    sliced: SlicedModel, made: tuple[Path, Calibration], tmp_path: Path
) -> None:
    with pytest.raises(ImageError, match=r"0 found.*takes 8 at least"):
        calibrate(sliced, shards.load_manifest(made[0]), tmp_path, made[0])
    with pytest.raises(ImageError, match="no such directory"):
        calibrate(sliced, shards.load_manifest(made[0]), tmp_path / "nowhere", made[0])


def test_no_photo_is_for_the_tables_and_held_out() -> None:
    all_of_them: Sequence[Path] = [Path(f"{number}.png") for number in range(1000)]
    taken, held = parted(all_of_them)
    assert not set(taken) & set(held) and len(held) == 96 and len(taken) == 400
    assert parted(all_of_them) == (taken, held)


def test_the_command_says_what_it_found(photos: Path, tmp_path: Path, capsys: Any) -> None:
    given = {
        name: None for name in (*vars(slice_command.SliceFlags("m")), *slice_command.PLAN_FLAGS) if name != "planner"
    }
    told = {**given, "model": "digits_vit", "slices": 2, "export": str(tmp_path), "calibrate": str(photos)}
    slice_command.run(**told)
    said = capsys.readouterr().out
    assert "Calibrated 1 cut on 18 images" in said and "transform-995" in said and "jpeg-75" in said
    slice_command.run(**{**told, "json": True})
    export = json.loads(capsys.readouterr().out)["export"]
    assert "transform_1.safetensors" in export["files"] and export["calibration"]["held_out"] == 6
    with pytest.raises(ConfigError, match=r"--calibrate .* give --export"):
        slice_command.run(**{**told, "export": None})
