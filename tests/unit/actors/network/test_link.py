"""The example in the documentation of `Link` runs as it stands."""

from __future__ import annotations

import doctest

import pytest

from actors.network import Link, link
from actors.network.client import Kept, LinkedServer
from actors.network.link import DirectLink
from actors.testing.fake_server import FakeServer
from slicer.core.network.server import ServerWrapper


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


def test_a_server_that_devices_share_is_not_told_of_the_run_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    server = FakeServer({})
    monkeypatch.setattr(server, "begin", lambda seed: pytest.fail(seed))
    LinkedServer(Kept(server), DirectLink()).begin("run-1")
