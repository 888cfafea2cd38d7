"""`headtail load` on a real Serve: devices ask for whole outputs instead of classes, or are cameras that play files."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from slicer.core.client import Client
from slicer.models import zoo
from slicer.models.images import Preprocess, write_digits
from tests.cluster.own_ray.own_server import TOKEN, own_server
from tests.unit.video_files import every, make_video

FLEET = """
model: digits_vit
groups:
- {name: camera, cut: 0}
- {name: board, cut: 1}
- {name: box, cut: 3}
"""
CLASSES, FEATURES = 10, 96  # of digits_vit


@dataclass
class Server:
    """`headtail serve`: where it answers, its Ray, and the environment of commands."""

    url: str
    cluster: str
    folder: Path
    env: Mapping[str, str]

    def load(self, *flags: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """The one strategy's figures of a job of three devices, and its records."""
        out = self.folder / f"out{len(list(self.folder.glob('out*')))}"
        done = subprocess.run(
            [sys.executable, "-m", "headtail", "load", "--address", self.cluster, "--server", "headtail",
             "--fleet", "fleet.yaml", "--warmup", "0", "--out", str(out), *flags],
            cwd=self.folder, env=self.env, text=True, capture_output=True, timeout=200,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        result = json.loads(done.stdout.splitlines()[-1])
        (figures,) = result["strategies"].values()
        return figures, [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("outputs")
    (folder / "fleet.yaml").write_text(f"{FLEET}cache: {{directory: {folder / 'cache'}}}\n")
    config = {"models": [{"name": "digits_vit", "strategy": "continuous", "outputs": ["features"]}]}
    with own_server(folder, config, limit_s=900) as own:
        yield Server(own.url, own.cluster, folder, own.env)


@pytest.mark.long
def test_devices_get_whole_outputs_instead_of_classes(server: Server) -> None:
    file = write_digits(server.folder / "digits").files[0]
    module = zoo.build(zoo.resolve("digits_vit"))
    with torch.inference_mode():
        pixels = torch.from_numpy(Preprocess(zoo.resolve("digits_vit"))(file))[None]
        want = module.forward_head(module.forward_features(pixels), pre_logits=True)[0].numpy()  # type: ignore[operator]
    with Client(server.url, TOKEN) as client:
        np.testing.assert_array_equal(client.output("features", file), want)

    figures, records = server.load("--rate", "10", "--duration", "2", "--outputs", "features")
    assert figures["requests"] == figures["answered"] == len(records) > 0
    assert {record["cut"] for record in records} == {0, 1, 3}
    assert {record["answer_bytes"] for record in records} == {4 * FEATURES}
    assert figures["answer_bytes"] == 4 * FEATURES
    assert figures["agreement_top1"] is None  # features say no class


@pytest.mark.long
def test_logits_among_the_outputs_agree_with_the_unsliced_model(server: Server) -> None:
    figures, records = server.load("--rate", "10", "--duration", "2", "--outputs", "logits,features")
    assert figures["requests"] == figures["answered"] == len(records) > 0
    assert {record["answer_bytes"] for record in records} == {4 * (CLASSES + FEATURES)}
    assert figures["agreement_top1"] == 1.0  # whatever the cut


@pytest.mark.long
def test_devices_are_cameras_that_play_files(server: Server) -> None:
    pytest.importorskip("av")
    files = [make_video(server.folder / name, every(Fraction(1, 10), 15)) for name in ("a.mp4", "b.mp4")]
    figures, records = server.load("--video", *map(str, files), "--duration", "2", "--max-age-ms", "20000")
    assert figures["requests"] == figures["answered"] == len(records) > 0
    assert figures["agreement_top1"] == 1.0
    for device in {record["device"] for record in records}:
        mine = sorted((record for record in records if record["device"] == device), key=lambda one: one["scheduled_s"])
        assert len(mine) in (19, 20)  # of 15 frames: the file is played again; a camera begins up to a frame late
        steps_s = [later["scheduled_s"] - earlier["scheduled_s"] for earlier, later in pairwise(mine)]
        assert steps_s == pytest.approx([0.1] * len(steps_s), abs=1e-3)
        assert [one["finished_s"] for one in mine] == sorted(one["finished_s"] for one in mine)  # the frames' order
