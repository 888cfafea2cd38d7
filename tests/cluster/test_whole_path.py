"""The whole path on a cluster: devices at all cuts on edge nodes, the server on its own, every strategy, one answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from ray import serve
from ray.cluster_utils import Cluster

from actors.fleet.fleet import Fleet, parse_fleet
from deployments import app
from deployments.scheduling.registry import STRATEGIES
from slicer.core.images.folders import LabelledImages
from slicer.core.records.assignment import Assignment, Capture
from slicer.core.records.record import Record
from slicer.models import zoo
from slicer.models.images import Preprocess, write_digits

#: Not run in `make test`: the engine is the same, and unit tests hold every strategy to the same answers.
LONG = ("per_tail", "per_slice", "lazy")
NAME = "headtail-path"
CUTS = range(5)
PER_DEVICE = 12


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> LabelledImages:
    return write_digits(tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="module")
def unsliced_top1(images: LabelledImages) -> list[int]:
    spec = zoo.resolve("digits_vit")
    model, prepare = zoo.build(spec), Preprocess(spec)
    with torch.inference_mode():
        return [int(model(torch.from_numpy(prepare(f))[None]).argmax()) for f in images.files[: 5 * PER_DEVICE]]


@pytest.fixture(scope="module")
def fleet(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """One device per cut; the same processes for all strategies."""
    config = parse_fleet(
        {
            "model": "digits_vit",
            "groups": [{"name": f"cut{cut}", "cut": cut} for cut in CUTS],
            "cache": {"directory": str(tmp_path_factory.mktemp("cache"))},
        }
    )
    fleet = Fleet(config, app=NAME, run="path")
    fleet.place()
    yield fleet
    fleet.stop()


def assignment_of(device: int, images: LabelledImages) -> Assignment:
    mine = range(device * PER_DEVICE, (device + 1) * PER_DEVICE)
    return Assignment(
        run_id=f"run{device}",
        images=tuple(str(file) for file in images.files),
        labels=tuple(images.labels),
        # All at nearly the same moment, so that rows of different cuts meet in the server.
        arrivals=tuple(Capture(0.02 * i, image) for i, image in enumerate(mine)),
        top_k=1,
    )


@pytest.mark.parametrize(
    "strategy", [pytest.param(name, marks=pytest.mark.long) if name in LONG else name for name in STRATEGIES]
)
def test_devices_at_every_cut_get_the_unsliced_models_answers(
    strategy: str,
    fleet: Fleet,
    images: LabelledImages,
    unsliced_top1: list[int],
    node_ids: dict[str, str],
    tmp_path: Path,
) -> None:
    models = [{"name": "digits_vit", "strategy": strategy}]
    app.run({"models": models, "torch_threads": 1, "shard_dir": str(tmp_path)}, name=NAME)
    try:
        # The first strategy loads the heads, the others find them in the cache of their node.
        devices = fleet.connect(NAME) if fleet.devices else fleet.start()
        records = fleet.run({f"cut{cut}-0": assignment_of(cut, images) for cut in CUTS})
        status = serve.get_app_handle(NAME).status.remote().result(timeout_s=30)
    finally:
        app.stop(NAME)

    edges = {node_ids["edge-1"], node_ids["edge-2"]}
    assert {device.node_id for device in devices} == edges, "SPREAD over the edge nodes, none elsewhere"
    assert status["node"] == node_ids["server"]

    everything: list[Record] = [record for device in records.values() for record in device]
    assert Counter(record.outcome for record in everything) == {"answered": len(CUTS) * PER_DEVICE}
    assert len({record.id for record in everything}) == len(everything)
    assert [record.top1 for record in everything] == [unsliced_top1[record.image] for record in everything]
    for record in everything:
        on_the_device = record.cut == 4
        assert bool(record.rows_per_step) != on_the_device, "only rows that entered the server took part in steps"
        assert record.inference_ms is not None and record.inference_ms > 0
        if not on_the_device:
            assert record.network_ms is not None and record.network_ms >= 0
            assert record.execution_ms is not None and record.execution_ms > 0
