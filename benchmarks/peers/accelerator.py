"""The peers' emulated accelerator: one step at a time for all processes of a server, each as long as the table says.

It behaves as HeadTail's own (`deployments.executors.emulated`, `launch` and `wait`): a step may be handed over while
another one runs and begins when that ends, as on a GPU's queue, so a peer whose batches lie ready loses nothing
between two steps. Standard library only: Triton's Python backend imports it as it stands.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import mmap
import struct
import threading
import time
from pathlib import Path

_PR_SET_TIMERSLACK = 29  # linux/prctl.h; see slicer.common.thread_timing.sleep_exactly
_FORMAT = struct.Struct("dqq")  # when it is free (monotonic clock, which all processes share), steps, rows
_THREAD = threading.local()


def prepare(folder: Path, spans_s: dict[int, list[float]], spin_s: float = 0.0) -> None:
    """Make an accelerator that has done nothing yet.

    Args:
        folder: of its two files; exists.
        spans_s: by entry: seconds from there to the end of the model with 1, 2, ... rows.
        spin_s: the last stretch of a step, spent asking for the time, so that the step ends when it should.
    """
    (folder / "table.json").write_text(json.dumps({"spans_s": spans_s, "spin_s": spin_s}), encoding="ascii")
    (folder / "state").write_bytes(_FORMAT.pack(0.0, 0, 0))


class Accelerator:
    """A process's way to the accelerator of `folder`. Several threads may use it at once."""

    def __init__(self, folder: str | Path) -> None:
        table = json.loads((Path(folder) / "table.json").read_text(encoding="ascii"))
        self._spans_s = {int(entry): times for entry, times in table["spans_s"].items()}
        self._spin_s = float(table["spin_s"])
        self._file = (Path(folder) / "state").open("r+b")
        self._state = mmap.mmap(self._file.fileno(), _FORMAT.size)
        self._lock = threading.Lock()  # the file's lock is the process's: it does not part its threads

    @property
    def most_rows(self) -> int:
        """The largest batch that the table knows."""
        return len(next(iter(self._spans_s.values())))

    def run(self, entry: int, rows: int) -> None:
        """Take one step: from `entry` to the end with so many rows; returns when it has ended.

        Raises:
            ValueError: the table has no such entry or batch: the server that asks is set up wrongly.
        """
        if entry not in self._spans_s or not 1 <= rows <= self.most_rows:
            raise ValueError(
                f"entry {entry} with {rows} rows: the accelerator knows entries {sorted(self._spans_s)} "
                f"and 1 to {self.most_rows} rows; set the server's largest batch to that"
            )
        with self._lock:
            fcntl.flock(self._file, fcntl.LOCK_EX)
            try:
                free_s, steps, before = _FORMAT.unpack(self._state[:])
                ended_s = max(time.monotonic(), free_s) + self._spans_s[entry][rows - 1]
                self._state[:] = _FORMAT.pack(ended_s, steps + 1, before + rows)
            finally:
                fcntl.flock(self._file, fcntl.LOCK_UN)
        _wait_until(ended_s, self._spin_s)

    def done(self) -> tuple[int, int]:
        """Steps and rows that were handed over since `prepare`."""
        _, steps, rows = _FORMAT.unpack(self._state[:])
        return steps, rows

    def free_s(self) -> float:
        """When the last step ends, on the monotonic clock."""
        return float(_FORMAT.unpack(self._state[:])[0])


def answer(payload: bytes | memoryview, entry: int) -> bytes:
    """What a row is answered with: its first byte and its entry, so that a client sees that the answer is its own."""
    return struct.pack("<2f", payload[0], entry)


def _wait_until(until_s: float, spin_s: float) -> None:
    if not getattr(_THREAD, "asked", False):
        _THREAD.asked = True
        with contextlib.suppress(OSError, AttributeError, TypeError):
            ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)
    left_s = until_s - time.monotonic() - spin_s
    if left_s > 0:
        time.sleep(left_s)
    while time.monotonic() < until_s:
        time.sleep(0.0)
