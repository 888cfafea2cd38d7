"""Memory of the processes that a benchmark's own Ray started, sampled while they work. Linux: it reads /proc."""

from __future__ import annotations

import os
import threading
import time
from collections import defaultdict
from pathlib import Path
from types import TracebackType
from typing import Any

#: How Ray titles the processes that are looked at -> what they are called here.
KINDS = {"ray::DeviceActor": "devices", "ray::ServeReplica": "replica"}

_PAGE = os.sysconf("SC_PAGE_SIZE")


def memory_bytes(pid: int | str = "self") -> tuple[int, int]:
    """Resident set of a process, and what of it is its own (anonymous, not of mapped files); 0, 0 when it is gone."""
    try:
        _, resident, shared, *_ = Path(f"/proc/{pid}/statm").read_text().split()
    except (OSError, ValueError):
        return 0, 0
    return int(resident) * _PAGE, (int(resident) - int(shared)) * _PAGE


def ours() -> dict[int, str]:
    """Descendants of this process that Ray calls one of KINDS, with the kind."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError, ValueError):
                continue
    me = os.getpid()
    found = {}
    for pid in parents:
        above = pid
        while above in parents and above not in (me, 1):
            above = parents[above]
        if above == me and (kind := _kind(pid)):
            found[pid] = kind
    return found


def _kind(pid: int) -> str:
    try:
        title = Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace")
    except OSError:
        return ""
    return next((kind for start, kind in KINDS.items() if title.startswith(start)), "")


class Watch:
    """Samples the resident set of each process every `every_s` while its block runs.

    Attributes:
        samples: by pid: (seconds since the block began, bytes resident, bytes of them that are its own).
        kinds: by pid.
    """

    def __init__(self, every_s: float = 0.5) -> None:
        self.samples: dict[int, list[tuple[float, int, int]]] = defaultdict(list)
        self.kinds: dict[int, str] = {}
        self._every_s = every_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def __enter__(self) -> Watch:
        self.kinds = ours()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        began_s = time.monotonic()
        while True:
            for pid in self.kinds:
                resident, own = memory_bytes(pid)
                if resident:
                    self.samples[pid].append((time.monotonic() - began_s, resident, own))
            if self._over.wait(self._every_s):
                return

    def summary(self, kind: str) -> dict[str, Any]:
        """MiB of the processes of one kind: the largest one's, and how much the one that grew most grew."""
        mine = [self.samples[pid] for pid, found in self.kinds.items() if found == kind and self.samples[pid]]
        if not mine:
            return {"processes": 0}
        halves = [[size for at_s, size, _ in run if at_s >= run[-1][0] / 2] for run in mine]
        return {
            "processes": len(mine),
            "first_mib": _mib(max(run[0][1] for run in mine)),
            "peak_mib": _mib(max(size for run in mine for _, size, _ in run)),
            "last_mib": _mib(max(run[-1][1] for run in mine)),
            "own_peak_mib": _mib(max(own for run in mine for _, _, own in run)),
            "grown_mib": _mib(max(run[-1][1] - run[0][1] for run in mine)),
            "grown_second_half_mib": _mib(max(half[-1] - half[0] for half in halves)),
        }


def _mib(size: int) -> float:
    return round(size / 2**20, 1)
