"""The peers' accelerator: one step at a time for all processes, each as long as its table says."""

from __future__ import annotations

import multiprocessing
import struct
import sys
import threading
import time
from pathlib import Path
from subprocess import run

import pytest

from benchmarks.peers.accelerator import Accelerator, answer, prepare
from tests.paths import ROOT

SPANS_S = {0: [0.010, 0.012], 3: [0.005, 0.006]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    prepare(tmp_path, SPANS_S)
    return tmp_path


def test_a_step_takes_at_least_the_time_of_its_entry_and_rows(folder: Path) -> None:
    accelerator = Accelerator(folder)
    began_s = time.monotonic()
    accelerator.run(0, 2)
    assert time.monotonic() - began_s >= 0.012
    assert accelerator.done() == (1, 2)


def _steps(folder: Path, count: int) -> None:
    accelerator = Accelerator(folder)
    for _ in range(count):
        accelerator.run(3, 1)


def test_steps_of_several_processes_and_threads_never_overlap(folder: Path) -> None:
    began_s = time.monotonic()
    processes = [multiprocessing.get_context("spawn").Process(target=_steps, args=(folder, 3)) for _ in range(2)]
    threads = [threading.Thread(target=_steps, args=(folder, 3)) for _ in range(2)]
    for worker in (*processes, *threads):
        worker.start()
    for worker in (*processes, *threads):
        worker.join()
    accelerator = Accelerator(folder)
    assert accelerator.done() == (12, 12)
    # One after another, 12 steps of 5 ms end no sooner than this.
    assert accelerator.free_s() - began_s >= 12 * 0.005


def test_a_step_that_was_handed_over_in_time_begins_when_the_one_before_ends(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock stands still: both are handed over at second 100."""
    waited_s: list[float] = []
    monkeypatch.setattr("benchmarks.peers.accelerator.time.monotonic", lambda: 100.0)
    monkeypatch.setattr("benchmarks.peers.accelerator._wait_until", lambda until_s, spin_s: waited_s.append(until_s))
    accelerator = Accelerator(folder)
    accelerator.run(0, 1)
    accelerator.run(3, 2)
    assert waited_s == [pytest.approx(100.010), pytest.approx(100.016)]


@pytest.mark.parametrize(("entry", "rows"), [(1, 1), (0, 0), (0, 3)])
def test_what_the_table_does_not_know_is_refused(folder: Path, entry: int, rows: int) -> None:
    with pytest.raises(ValueError, match=f"entry {entry} with {rows} rows"):
        Accelerator(folder).run(entry, rows)


def test_an_answer_holds_what_a_client_needs_to_know_it_as_its_own() -> None:
    assert struct.unpack("<2f", answer(b"\x07rest", 9)) == (7.0, 9.0)


def test_it_needs_no_more_than_the_standard_library() -> None:
    """Triton's stub imports it."""
    code = "import sys; import benchmarks.peers.accelerator; print('numpy' in sys.modules)"
    said = run([sys.executable, "-S", "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "False"
