"""What asks for a processor before others, and whom that reaches."""

from __future__ import annotations

import os
import threading

import pytest

from slicer.common import thread_timing


def _allowed() -> bool:
    before = os.getpriority(os.PRIO_PROCESS, 0)
    try:
        os.setpriority(os.PRIO_PROCESS, 0, before - 1)
    except OSError:
        return False
    os.setpriority(os.PRIO_PROCESS, 0, before)
    return True


root = pytest.mark.skipif(not _allowed(), reason="this user may not ask for a higher priority")


@root
def test_prefer_thread_leaves_the_others_alone() -> None:
    found: list[int] = []

    def work() -> None:
        thread_timing.prefer_thread()
        found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    before = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [thread_timing.NICENESS]
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == before


def test_where_it_is_not_allowed_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "setpriority", refuse)
    thread_timing.prefer_thread()
