"""The example in the documentation of `Link` runs as it stands."""

from __future__ import annotations

import asyncio
import doctest
from collections.abc import Sequence

import pytest

from actors.network import Link, link
from actors.network.client import Kept, LinkedServer
from actors.network.link import DirectLink
from actors.testing.fake_server import FakeServer
from slicer.core.network.server import ENVELOPE_BYTES, ServerWrapper
from slicer.core.protocol.messages import PAIR_BYTES, Answer, Refusal, Reply, Request, Timings


def test_the_example_of_an_own_link_runs() -> None:
    assert ">>>" in (Link.__doc__ or "")
    failed, attempted = doctest.testmod(link)
    assert (failed, attempted > 0) == (0, True)


class NotedLink(DirectLink):
    def __init__(self) -> None:
        self.seeds: list[str] = []

    def begin(self, seed: str) -> None:
        self.seeds.append(seed)


def test_a_link_that_changes_is_told_of_a_run_and_another_one_need_not_know() -> None:
    changing = NotedLink()
    ServerWrapper(LinkedServer(FakeServer({}), changing)).begin("run-1")
    assert changing.seeds == ["run-1"]
    LinkedServer(FakeServer({}), DirectLink()).begin("run-1")


def test_all_of_an_answer_crosses_the_link() -> None:
    class Features(FakeServer):
        async def infer(self, requests: Sequence[Request]) -> list[Answer]:
            timings = Timings(0.0, 0.0, 0.0, 0.0, ())
            features = Reply("a", timings, outputs=(("features", (6,), bytes(24)),))
            return [features, Reply("b", timings, top_k=((1, 2.5),)), Refusal("c", "failed", "why")]

    class Counting(DirectLink):
        received: tuple[int, ...] = ()

        async def receive(self, size_bytes: int) -> None:
            self.received += (size_bytes,)

    link = Counting()
    asyncio.run(LinkedServer(Features({}), link).infer([]))
    assert link.received == (24 + PAIR_BYTES + 3 * ENVELOPE_BYTES,)


def test_a_server_that_devices_share_is_not_told_of_the_run_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    server = FakeServer({})
    monkeypatch.setattr(server, "begin", lambda seed: pytest.fail(seed))
    LinkedServer(Kept(server), DirectLink()).begin("run-1")
