"""Front processes and a core of their own on a real Serve: together on a node, and each may die without the others."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from ray import serve
from ray.cluster_utils import Cluster

from deployments import app
from slicer.core.codecs import activations
from slicer.core.protocol.messages import Answer, Refusal, Reply, Request
from slicer.models import zoo
from slicer.slicing.slice_model import SlicedModel, slice_spec

NAME = "headtail-fronts"
MODEL = "digits_vit"
FRONTS = 2

#: What a front may hold of its own above an empty replica.
MOST_BYTES = 40 << 20


@pytest.fixture(scope="module")
def sliced() -> SlicedModel:
    return slice_spec(zoo.resolve(MODEL), 4)


@pytest.fixture
def handle(cluster: Cluster, no_application: None, tmp_path: Path) -> Iterator[Any]:
    config = {
        "models": [{"name": MODEL, "strategy": "continuous"}],
        "torch_threads": 1,
        "shard_dir": str(tmp_path),
        "ingress": {"replicas": FRONTS},
    }
    app.run(config, name=NAME)
    yield serve.get_app_handle(NAME)


def pid_of(name: str) -> int:
    actor = ray.get_actor(name, namespace="serve")
    return int(ray.get(actor.__ray_call__.remote(lambda _: os.getpid())))


def named(deployment: str) -> list[str]:
    return [
        actor["name"]
        for actor in ray.util.list_named_actors(all_namespaces=True)
        if f"{NAME}#{deployment}#" in actor["name"]
    ]


async def until(condition: Callable[[], Awaitable[Any]], seconds: float = 60.0) -> Any:
    """Its first result that is true."""
    deadline_s = time.monotonic() + seconds
    while time.monotonic() < deadline_s:
        if found := await condition():
            return found
        await asyncio.sleep(0.05)
    raise AssertionError(f"not within {seconds:g} s")


def request(sliced: SlicedModel, manifest: str, number: int) -> tuple[Request, np.ndarray[Any, Any]]:
    """A request at one of the cuts, and the logits that the unsliced model gives."""
    image = torch.randn(1, *sliced.shape_at(0), generator=torch.Generator().manual_seed(number))
    cut = number % sliced.num_slices
    with torch.inference_mode():
        activation = sliced.head(cut)(image)[0].numpy()
        want = sliced.module(image)[0].numpy()
    payload = activations.encode("fp32", activation)
    return Request(str(number), MODEL, manifest, cut, "fp32", activation.shape, payload), want


def test_fronts_and_core_share_a_node_and_answer_as_the_model_does(
    handle: Any, node_ids: dict[str, str], sliced: SlicedModel
) -> None:
    manifest = handle.describe.remote(MODEL).result(timeout_s=30).manifest
    cases = [request(sliced, manifest, number) for number in range(32)]

    async def all_at_once() -> list[Answer]:
        calls = [handle.infer_parcel.remote([one]) for one, _ in cases]
        return [answer for [answer] in await asyncio.gather(*calls)]

    answers = asyncio.run(all_at_once())
    for answer, (_, want) in zip(answers, cases, strict=True):
        assert isinstance(answer, Reply), answer
        np.testing.assert_allclose(np.frombuffer(answer.logits, np.float32), want, atol=1e-4)
    assert len({answer.server for answer in answers}) == FRONTS, "both fronts took part"
    status = handle.status.remote().result(timeout_s=30)
    assert status["node"] == node_ids["server"]
    assert status["fronts"] == FRONTS
    assert status["front"]["shared_memory_bytes"] == 0, "nothing is left of what was answered"


def test_when_the_core_is_killed_fronts_say_so_at_once_and_find_the_next_one(handle: Any, sliced: SlicedModel) -> None:
    manifest = handle.describe.remote(MODEL).result(timeout_s=30).manifest
    one, want = request(sliced, manifest, 3)
    before = handle.status.remote().result(timeout_s=30)
    fronts = set(named("Front"))

    async def ask() -> Answer:
        [answer] = await handle.infer_parcel.remote([one])
        return answer

    async def work() -> Answer:
        os.kill(before["pid"], signal.SIGKILL)
        killed_s = time.monotonic()
        refusal = await until(lambda: _if(ask(), Refusal), 5)
        assert time.monotonic() - killed_s < 1.0
        assert refusal.code == "stopped"
        return await until(lambda: _if(ask(), Reply))

    answer = asyncio.run(work())
    np.testing.assert_allclose(np.frombuffer(answer.logits, np.float32), want, atol=1e-4)
    after = handle.status.remote().result(timeout_s=30)
    assert after["replica"] != before["replica"]
    assert set(named("Front")) == fronts, "no front was replaced"


def test_when_a_front_is_killed_the_core_and_the_other_front_go_on(handle: Any, sliced: SlicedModel) -> None:
    manifest = handle.describe.remote(MODEL).result(timeout_s=30).manifest
    one, _ = request(sliced, manifest, 2)
    before = handle.status.remote().result(timeout_s=30)
    fronts = set(named("Front"))
    killed = sorted(fronts)[0]

    async def ask() -> Answer | None:
        try:
            [answer] = await handle.infer_parcel.remote([one])
        except Exception:  # the call was on its way to the one that was killed
            return None
        return answer

    async def restored() -> bool:
        now = set(named("Front"))
        return len(now) == FRONTS and killed not in now

    async def work() -> list[Answer | None]:
        os.kill(pid_of(killed), signal.SIGKILL)
        answers = [await ask() for _ in range(50)]
        await until(restored)
        return answers

    answers = asyncio.run(work())
    assert sum(isinstance(answer, Reply) for answer in answers) >= len(answers) - 5
    after = handle.status.remote().result(timeout_s=30)
    assert after["replica"] == before["replica"], "the core went on"


@serve.deployment(name="Empty", ray_actor_options={"num_cpus": 0.01})
class Empty:
    """What Serve itself takes."""

    async def here(self) -> int:
        return os.getpid()


def test_a_front_imports_no_torch_and_is_small(handle: Any, sliced: SlicedModel) -> None:
    manifest = handle.describe.remote(MODEL).result(timeout_s=30).manifest
    one, _ = request(sliced, manifest, 1)
    for _ in range(20):
        handle.infer_parcel.remote([one]).result(timeout_s=30)
    serve.run(Empty.bind(), name="empty", route_prefix=None)
    empty = private_bytes(serve.get_app_handle("empty").here.remote().result(timeout_s=30))
    for name in named("Front"):
        pid = pid_of(name)
        assert "libtorch" not in Path(f"/proc/{pid}/maps").read_text()
        assert private_bytes(pid) - empty <= MOST_BYTES


def private_bytes(pid: int) -> int:
    """Of a process: what it shares with no other."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private"))


async def _if(answer: Awaitable[Any], kind: type[Any]) -> Any:
    """The answer, if it is of this kind."""
    try:
        found = await answer
    except Exception:
        return None
    return found if isinstance(found, kind) else None
