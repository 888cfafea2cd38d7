"""A head of other weights, or tables of another calibration: refused by the server, loaded again by the device, never
answered wrongly."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from ray.cluster_utils import Cluster

from actors.fleet.fleet import Fleet, parse_fleet
from deployments import app
from slicer import shards
from slicer.calibration.calibrate import calibrate
from slicer.models import zoo
from slicer.models.images import Preprocess, write_digits
from slicer.slicing.slice_model import slice_model

NAME = "headtail-stale"
#: Small, untrained, three inputs wide: its weights are the seed's.
KWARGS: dict[str, Any] = {
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 48,
    "depth": 4,
    "num_heads": 3,
    "num_classes": 10,
}


def expected(seed: int, image: Path) -> list[float]:
    spec = zoo.resolve("vit_tiny_patch16_224", kwargs=KWARGS, seed=seed)
    with torch.inference_mode():
        logits = zoo.build(spec)(torch.from_numpy(Preprocess(spec)(image))[None])[0]
    return sorted(logits.tolist(), reverse=True)


def serve_weights(seed: int, shard_dir: Path) -> None:
    model = {"name": "vit", "model": "vit_tiny_patch16_224", "kwargs": KWARGS, "seed": seed, "strategy": "per_slice"}
    app.run({"models": [model], "torch_threads": 1, "shard_dir": str(shard_dir)}, name=NAME)


@pytest.mark.long
def test_new_weights_under_a_living_fleet(cluster: Cluster, no_application: None, tmp_path: Path) -> None:
    image = write_digits(tmp_path / "digits").files[0]
    config = parse_fleet(
        {
            "model": "vit",
            "groups": [{"name": "camera", "cut": 2}],
            "cache": {"directory": str(tmp_path / "cache"), "max_bytes": 1_000_000},
        }
    )
    serve_weights(0, tmp_path / "served")
    with Fleet(config, app=NAME, run="stale") as fleet:
        before, record = fleet.classify("camera-0", str(image), top_k=10)
        assert record.outcome == "answered" and record.attempts == 1
        assert [score for _, score in before] == pytest.approx(expected(0, image), abs=1e-4)

        app.stop(NAME)
        serve_weights(1, tmp_path / "served")  # the same name, the same shapes, other weights
        after, record = fleet.classify("camera-0", str(image), top_k=10)
    assert record.outcome == "answered" and record.attempts > 1, "refused as stale first, then asked again"
    assert [score for _, score in after] == pytest.approx(expected(1, image), abs=1e-4)
    assert expected(0, image) != pytest.approx(expected(1, image), abs=1e-4)


def serve_shards(directory: Path) -> None:
    model = {"name": "digits", "shards": str(directory)}
    app.run({"models": [model], "torch_threads": 1}, name=NAME)


@pytest.mark.long
def test_devices_of_all_kinds_send_by_tables_and_get_those_of_the_next_calibration(
    cluster: Cluster, no_application: None, tmp_path: Path
) -> None:
    files = write_digits(tmp_path / "digits").files
    (tmp_path / "photos").mkdir()
    for number, file in enumerate(files[::15]):
        shutil.copy(file, tmp_path / "photos" / f"{number}.png")
    sliced = slice_model("digits_vit", 4, verify=False)
    manifest = shards.export(sliced, tmp_path / "shards")
    calibrate(sliced, manifest, tmp_path / "photos", tmp_path / "shards")
    assert sliced.spec is not None
    asked = files[1:200:20]
    prepare = Preprocess(sliced.spec)
    with torch.inference_mode():
        whole = [int(sliced.module(torch.from_numpy(prepare(file))[None]).argmax()) for file in asked]
    config = parse_fleet(
        {
            "model": "digits",
            "groups": [
                {"name": "camera", "cut": 2, "codec": "transform-998"},
                {"name": "sender", "cut": 0, "codec": "webp-90"},
                {"name": "crowd", "cut": 1, "codec": "transform-998", "virtual": True, "profile": "fast-board"},
            ],
            "cache": {"directory": str(tmp_path / "cache"), "max_bytes": 20_000_000},
        }
    )
    serve_shards(tmp_path / "shards")
    with Fleet(config, app=NAME, run="calibrated") as fleet:
        for device, most in (("camera-0", 250), ("sender-0", 600), ("crowd-0", 250)):
            found = [fleet.classify(device, str(file), top_k=1) for file in asked]
            assert [record.outcome for _, record in found] == ["answered"] * len(asked)
            assert sum(top_k[0][0] == top for (top_k, _), top in zip(found, whole, strict=True)) >= len(asked) - 1
            assert all(0 < record.payload_bytes < most for _, record in found), device

        app.stop(NAME)
        calibrate(sliced, manifest, tmp_path / "photos", tmp_path / "shards", seed=1)
        serve_shards(tmp_path / "shards")
        for device in ("camera-0", "crowd-0"):
            top_k, record = fleet.classify(device, str(asked[0]), top_k=1)
            assert record.outcome == "answered" and record.attempts > 1, "refused as stale first, then sent again"
            assert top_k[0][0] == whole[0]
