"""CPU time of processes, all their threads, by what the kernel counts for each. Linux: it reads /proc."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

#: CPU seconds of a process by thread.
Threads = dict[int, float]


def descendants(root: int) -> list[int]:
    """Processes that `root` has started, directly or not, and that live."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError, ValueError):
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found, todo = [], [root]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found


def title(pid: int) -> str:
    """What a process calls itself, such as ``ray::ServeReplica:app:TailServer``; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace").strip()
    except OSError:
        return ""


def threads(pid: int) -> Threads:
    """CPU seconds of each of its threads, to the nanosecond: /proc/PID/stat counts hundredths of a second only."""
    found = {}
    for task in Path(f"/proc/{pid}/task").glob("*"):
        try:
            found[int(task.name)] = int((task / "schedstat").read_text().split()[0]) / 1e9
        except OSError:  # it has ended
            continue
    return found


def between(before: Threads, after: Threads) -> float:
    """Seconds that passed on CPUs; what a thread did that has ended meanwhile is not known."""
    return sum(seconds - before.get(thread, 0.0) for thread, seconds in after.items())


class CpuWatch:
    """CPU of named groups of processes from here on.

    Args:
        groups: pids by name.

    Raises:
        RuntimeError: of a group no process lives, or the kernel does not say (CONFIG_SCHED_INFO).
    """

    def __init__(self, groups: Mapping[str, Iterable[int]]) -> None:
        self._groups = {name: list(pids) for name, pids in groups.items()}
        self._before = self._read()

    def seconds(self) -> dict[str, float]:
        """By group since it was made; without processes that have ended meanwhile. Raises as above."""
        after = self._read()
        return {
            name: sum(between(self._before[pid], after[pid]) for pid in pids) for name, pids in self._groups.items()
        }

    def _read(self) -> dict[int, Threads]:
        found = {pid: threads(pid) for pids in self._groups.values() for pid in pids}
        if gone := [name for name, pids in self._groups.items() if not any(found[pid] for pid in pids)]:
            raise RuntimeError(f"no CPU time of {', '.join(gone)}: no process of it lives, or /proc has no schedstat")
        return found


def of_this_process() -> CpuWatch:
    """Of the caller's, from here on."""
    return CpuWatch({"self": [os.getpid()]})
