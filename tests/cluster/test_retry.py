"""A request whose answer got lost on the way comes again, runs once, and is answered once. Through a real Serve."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray import serve
from ray.cluster_utils import Cluster

from actors.fleet.fleet import Fleet, parse_fleet
from deployments import app
from slicer.core.codecs import activations
from slicer.core.protocol.messages import Reply, Request
from slicer.core.records.assignment import Assignment, Capture
from slicer.errors import ServerError
from slicer.models.images import write_digits

NAME = "headtail-retry"
IMAGES = 10


class LosesAnswers:
    """A link that, once a run has begun, loses every other answer after the server has given it."""

    emulated = "a link that loses answers"

    def __init__(self) -> None:
        self._answers: int | None = None

    def begin(self, seed: str) -> None:
        self._answers = 0

    async def send(self, size_bytes: int) -> None: ...

    async def receive(self, size_bytes: int) -> None:
        if self._answers is not None:
            self._answers += 1
            if self._answers % 2:
                raise ServerError("the answer was lost")


@pytest.fixture
def handle(cluster: Cluster, no_application: None, tmp_path: Path) -> Any:
    # unbatched: a row is one step, so steps count what was run.
    models = [{"name": "digits_vit", "strategy": "unbatched"}]
    app.run({"models": models, "torch_threads": 1, "shard_dir": str(tmp_path / "served")}, name=NAME)
    return serve.get_app_handle(NAME)


def steps(handle: Any) -> int:
    return int(handle.status.remote().result(timeout_s=30)["steps"])


def test_every_answer_of_a_run_is_lost_once_and_no_request_runs_twice(handle: Any, tmp_path: Path) -> None:
    files = tuple(str(path) for path in write_digits(tmp_path / "digits").files[:IMAGES])
    groups = [{"name": "camera", "cut": 1, "link": "tests.cluster.test_retry:LosesAnswers", "transport": "handle"}]
    config = parse_fleet({"model": "digits_vit", "groups": groups, "cache": {"directory": str(tmp_path / "cache")}})
    arrivals = tuple(Capture(0.2 * index, index) for index in range(IMAGES))
    with Fleet(config, app=NAME, run="retry") as fleet:
        before = steps(handle)
        records = fleet.run({"camera-0": Assignment("retry", files, (None,) * IMAGES, arrivals)})["camera-0"]
    assert [record.outcome for record in records] == ["answered"] * IMAGES
    assert sum(record.attempts for record in records) == 2 * IMAGES
    assert steps(handle) - before == IMAGES


def test_the_same_request_while_it_is_at_work_and_after_it_has_ended(handle: Any) -> None:
    served = handle.describe.remote("digits_vit").result(timeout_s=30)
    payload = activations.encode("fp32", np.ones((3, 32, 32), np.float32))
    one = Request("one", "digits_vit", served.manifest, 0, "fp32", (3, 32, 32), payload, top_k=10, key="test/1")
    before = steps(handle)

    async def all_at_once() -> list[Reply]:
        calls = [handle.infer_parcel.remote([one]) for _ in range(4)]
        return [answer for [answer] in await asyncio.gather(*calls)]

    answers = asyncio.run(all_at_once())
    assert steps(handle) - before == 1
    [later] = handle.infer_parcel.remote([one]).result(timeout_s=30)
    assert (
        len({(answer.top_k, answer.timings.execution_ms) for answer in (*answers, later)}) == 1
    )  # one run, five times
    assert steps(handle) - before == 1
    unkeyed = replace(one, key="")
    handle.infer_parcel.remote([unkeyed]).result(timeout_s=30)  # it runs: what counts above does count
    assert steps(handle) - before == 2
