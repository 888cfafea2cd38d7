"""A device whose process dies in mid-run is made again where it was, and what it had been answered is kept."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from actors.fleet.fleet import Fleet, parse_fleet
from deployments import app
from slicer.core.records.assignment import Assignment, Closed
from slicer.models.images import write_digits

NAME = "headtail-returns"
REQUESTS = 200


@pytest.mark.long
def test_a_device_that_dies_is_back_in_the_same_run(cluster: Cluster, no_application: None, tmp_path: Path) -> None:
    images = write_digits(tmp_path / "digits")
    app.run({"models": [{"name": "digits_vit"}], "torch_threads": 1, "shard_dir": str(tmp_path / "served")}, name=NAME)
    config = parse_fleet(
        {
            "groups": [{"name": "camera", "cut": 1, "count": 2, "placement": "STRICT_SPREAD"}],
            "cache": {"directory": str(tmp_path / "cache")},
        }
    )
    assignment = Assignment(
        run_id="run",
        images=tuple(map(str, images.files)),
        labels=tuple(images.labels),
        closed=Closed(images=(0, 1, 2), requests=REQUESTS, think_s=0.05),  # ten seconds and more
        warmup=(0,),
    )
    said: list[str] = []
    killed: list[str] = []

    def kill_one(outcomes: Counter[str]) -> None:
        if not killed and outcomes["answered"] >= 100:  # of both; records are fetched every second
            killed.append("camera-1")
            ray.kill(ray.get_actor("headtail:returns:camera-1"))

    with Fleet(config, app=NAME, run="returns", say=said.append) as fleet:
        before = {info.name: info.node_id for info in fleet.devices}
        records = fleet.run({"camera-0": assignment, "camera-1": assignment}, on_progress=kill_one)
        after = {info.name: info.node_id for info in fleet.devices}
    assert [record.outcome for record in records["camera-0"]] == ["answered"] * REQUESTS
    mine = records["camera-1"]
    # In a closed loop what was not answered is asked by the device that comes back.
    assert [record.outcome for record in mine] == ["answered"] * REQUESTS
    assert [record.id for record in mine] == [f"run/camera-1/{number}" for number in range(REQUESTS)]
    (absence,) = fleet.absences
    assert absence.devices == ("camera-1",) and absence.to_s is not None
    assert fleet.failures == []
    told = [line.partition(":")[0] for line in said if " ready" not in line]  # how far a start is, on a slow machine
    assert told == ["missing", "back"]
    assert after == before, "on its own node"
