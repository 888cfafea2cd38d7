"""A head that belongs to other weights: refused by the server, loaded again by the device, never answered wrongly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from ray.cluster_utils import Cluster

from actors.fleet.fleet import Fleet, parse_fleet
from deployments import app
from slicer.models import zoo
from slicer.models.images import Preprocess, write_digits

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
