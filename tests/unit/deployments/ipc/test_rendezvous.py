"""How fronts and cores find each other: in a folder of their user alone, and never by what a dead core left."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployments.ipc import rendezvous
from slicer.errors import ServerError


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A temporary folder of a short name, unlike pytest's own."""
    with tempfile.TemporaryDirectory(prefix="ht") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


def test_those_that_are_told_the_same_meet_and_others_do_not(temporary: Path) -> None:
    place = rendezvous.meeting_place("cluster", "app", "node")
    assert rendezvous.meeting_place("cluster", "app", "node") == place
    others = [("cluster", "app", "other"), ("cluster", "app"), ("clustera", "pp", "node")]
    assert place not in [rendezvous.meeting_place(*names) for names in others]
    assert temporary in place.parents


def test_nobody_else_can_enter(temporary: Path) -> None:
    place = rendezvous.meeting_place("a")
    core = rendezvous.new_core(place)
    for folder in (place.parent, place, core):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700, folder


@pytest.mark.parametrize("way", ["mode", "owner", "link", "file", "dangling"])
def test_what_others_could_have_put_there_is_refused(
    way: str, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = rendezvous.meeting_place("a").parent
    rendezvous.forget(folder)
    if way == "mode":
        folder.mkdir(mode=0o750)
    elif way == "owner":
        folder.mkdir(mode=0o700)
        # Another user's number gives another name, so the folder of that name is somebody else's.
        there = folder.stat().st_uid + 1
        monkeypatch.setattr(os, "getuid", lambda: there)
        folder.rename(folder.with_name(f"headtail-{there}"))
    elif way == "file":
        folder.touch(mode=0o600)
    else:
        elsewhere = temporary / "elsewhere"
        if way == "link":
            elsewhere.mkdir(mode=0o700)
        folder.symlink_to(elsewhere)
    with pytest.raises(ServerError, match=r"is not a folder of this user alone \(mode 0700\): remove it"):
        rendezvous.meeting_place("a")


def test_a_name_that_is_too_long_for_sockets_is_refused(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = temporary / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with pytest.raises(ServerError, match="set TMPDIR to a shorter one"):
        rendezvous.meeting_place("a")


def test_a_core_is_found_when_it_has_published_and_no_more_when_it_is_forgotten(temporary: Path) -> None:
    place = rendezvous.meeting_place("a")
    core, other = rendezvous.new_core(place), rendezvous.new_core(place)
    assert core != other
    assert list(rendezvous.published(place)) == []
    rendezvous.publish(core, {"models": [1, "two"]})
    assert list(rendezvous.published(place)) == [core]
    assert rendezvous.facts_of(core) == {"models": [1, "two"]}
    assert sorted(path.name for path in core.iterdir()) == [rendezvous.FACTS]
    rendezvous.forget(core)
    rendezvous.forget(core)
    assert list(rendezvous.published(place)) == []
    with pytest.raises(OSError):
        rendezvous.facts_of(core)
