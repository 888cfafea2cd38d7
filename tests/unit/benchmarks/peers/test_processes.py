"""Processes: spoken to in lines, frozen, ended with all that they started; and their CPU."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

import pytest

from benchmarks.peers.processes import Child, cpu_s, send_all, taken_s
from slicer.errors import ServerError

#: Says that it is ready, starts a child that waits, answers each line with it and the seconds of CPU it burnt.
ECHO = """
import json, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
print(json.dumps({"ready": True}), flush=True)
for line in sys.stdin:
    said = json.loads(line)
    until = time.process_time() + said.get("burn_s", 0)
    while time.process_time() < until:
        pass
    print(json.dumps({**said, "child": child.pid}), flush=True)
"""


@pytest.fixture
def echo(tmp_path: Path) -> Child:
    return Child([sys.executable, "-c", ECHO], tmp_path / "log", talks=True)


def state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "gone"


def wait_for(pid: int, states: str) -> None:
    until_s = time.monotonic() + 30
    while state(pid) not in states:
        assert time.monotonic() < until_s, f"{pid} is {state(pid)}, not one of {states}"
        time.sleep(0.01)


def test_cpu_is_that_of_the_process_and_all_below_it(echo: Child) -> None:
    child = echo.ask({})["child"]
    before = cpu_s(echo.pid)
    assert {echo.pid, child} <= set(before)
    echo.ask({"burn_s": 0.2})
    assert 0.15 <= taken_s(before, cpu_s(echo.pid)) <= 1.0
    assert child not in cpu_s(echo.pid, without=(sys.executable,))
    echo.stop()


def test_all_below_a_process_freeze_and_thaw_together(echo: Child) -> None:
    child = echo.ask({})["child"]
    send_all(echo.pid, signal.SIGSTOP)
    wait_for(echo.pid, "T")
    wait_for(child, "T")
    send_all(echo.pid, signal.SIGCONT)
    assert echo.ask({"still": "there"})["still"] == "there"
    echo.stop()


def test_the_end_leaves_nothing_behind(echo: Child) -> None:
    child = echo.ask({})["child"]
    echo.stop()
    assert state(echo.pid) == "gone"
    wait_for(child, "gone Z")


def test_a_process_that_ends_says_why(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="no such setting"):
        Child([sys.executable, "-c", "import sys; sys.exit('no such setting')"], tmp_path / "log", talks=True)


def test_a_process_that_answers_with_an_error_raises_it(tmp_path: Path) -> None:
    talk = 'import sys; print(\'{"ready": true}\', flush=True); input(); print(\'{"error": "full"}\', flush=True)'
    child = Child([sys.executable, "-c", talk], tmp_path / "log", talks=True)
    with pytest.raises(ServerError, match="full"):
        child.ask({})
    child.stop()


def test_cpu_of_a_process_that_came_in_between_counts_in_full() -> None:
    assert taken_s({1: 2.0, 2: 1.0}, {1: 2.5, 3: 0.25}) == pytest.approx(0.75)
