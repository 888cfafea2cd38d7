"""CPU time of processes, by their threads."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from benchmarks.common.process_cpu import CpuWatch, between, descendants, of_this_process, threads, title


def spin(seconds: float) -> None:
    until_s = time.thread_time() + seconds
    while time.thread_time() < until_s:
        pass


def test_it_is_what_the_process_clock_says() -> None:
    watch, began_s = of_this_process(), time.process_time()
    spin(0.1)
    assert watch.seconds()["self"] == pytest.approx(time.process_time() - began_s, rel=0.2)


def test_a_new_thread_counts_from_its_beginning() -> None:
    assert between({1: 1.0, 2: 5.0}, {1: 1.5, 3: 0.25}) == 0.75


def test_a_child_is_found_and_counted_for_itself() -> None:
    code = "import sys, time\nwhile time.process_time() < 0.3: pass\nprint(flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None and child.stdin is not None
        child.stdout.readline()
        assert child.pid in descendants(os.getpid())
        assert title(child.pid).startswith(sys.executable)
        assert sum(threads(child.pid).values()) >= 0.3
        watch = CpuWatch({"child": [child.pid]})
        spin(0.1)
        assert watch.seconds()["child"] < 0.05
        child.stdin.close()
    with pytest.raises(RuntimeError, match="no CPU time of child"):
        watch.seconds()
    assert title(child.pid) == ""
