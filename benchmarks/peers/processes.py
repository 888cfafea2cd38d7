"""Processes of servers and clients: started, spoken to in lines of JSON, ended; and the CPU they took. Linux: /proc."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from slicer.errors import ServerError

_TICK_S = 1.0 / os.sysconf("SC_CLK_TCK")


class Child:
    """A process in a group of its own; its stderr goes to a file.

    Args:
        talks: it reads and writes lines of JSON; the first one that it writes is ``{"ready": true}``.

    Raises:
        ServerError: a `talks` process is not ready in time; with the end of what it wrote to stderr.
    """

    def __init__(
        self, command: list[str], log: Path, env: dict[str, str] | None = None, *, talks: bool, timeout_s: float = 60.0
    ) -> None:
        self._log, self._rest = log, b""
        pipe = subprocess.PIPE if talks else subprocess.DEVNULL
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                command,
                stdin=pipe,
                stdout=pipe if talks else file,
                stderr=file,
                env={**os.environ, **(env or {})},
                start_new_session=True,
            )
        if talks:
            try:
                self._read(timeout_s)
            except BaseException:
                self.stop()
                raise

    @property
    def pid(self) -> int:
        """Of the process itself, the parent of all others that it starts."""
        return self._process.pid

    def ask(self, what: dict[str, Any], timeout_s: float = 120.0) -> dict[str, Any]:
        """Send a line and return the answer. ServerError: it ended, took too long, or answered with an error."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(what).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise self._failed("ended") from None
        said = self._read(timeout_s)
        if "error" in said:
            raise ServerError(str(said["error"]))
        return said

    def check(self) -> None:
        """Raise ServerError if it has ended."""
        if self._process.poll() is not None:
            raise self._failed(f"ended with {self._process.returncode}")

    def stop(self) -> None:
        """End it: by the end of its input, then by SIGTERM, then by SIGKILL to its group. Quiet if it has ended."""
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        else:
            self._process.terminate()
        for last in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(20)
                break
            self._signal(last)
        self._signal(signal.SIGKILL)  # what is left of its group
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def _read(self, timeout_s: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        until_s = time.monotonic() + timeout_s
        descriptor = self._process.stdout.fileno()
        with selectors.DefaultSelector() as ready:
            ready.register(descriptor, selectors.EVENT_READ)
            while b"\n" not in self._rest:
                if not ready.select(max(until_s - time.monotonic(), 0)):
                    raise self._failed(f"said nothing for {timeout_s:g} s")
                piece = os.read(descriptor, 1 << 20)
                if not piece:
                    raise self._failed("ended")
                self._rest += piece
        line, _, self._rest = self._rest.partition(b"\n")
        said: dict[str, Any] = json.loads(line)
        return said

    def _failed(self, what: str) -> ServerError:
        words = self._log.read_text("utf-8", "replace")[-1500:].strip()
        return ServerError(f"{' '.join(map(str, self._process.args))[:200]} {what}; it wrote:\n{words}")  # type: ignore[arg-type]


def cpu_s(root: int, without: tuple[str, ...] = ()) -> dict[int, float]:
    """CPU seconds so far, user and system, of a process and all its living descendants, by pid.

    Args:
        without: processes whose command line begins with one of these are left out, their descendants not.
    """
    parents, used = dict[int, int](), dict[int, float]()
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError, IndexError, ValueError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                parents[int(entry.name)] = int(fields[1])
                used[int(entry.name)] = (int(fields[11]) + int(fields[12])) * _TICK_S
    return {pid: used[pid] for pid in parents if _below(pid, root, parents) and not _titled(pid, without)}


def send_all(root: int, number: signal.Signals) -> None:
    """Send a signal to a process that this one started and to all below it: SIGSTOP freezes them, SIGCONT ends that."""
    for pid in cpu_s(root):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def taken_s(before: dict[int, float], after: dict[int, float]) -> float:
    """CPU seconds between two looks; of a process that came in between, all."""
    return sum(seconds - before.get(pid, 0.0) for pid, seconds in after.items())


def _below(pid: int, root: int, parents: dict[int, int]) -> bool:
    while pid != root and pid in parents and pid > 1:
        pid = parents[pid]
    return pid == root


def _titled(pid: int, starts: tuple[str, ...]) -> bool:
    if not starts:
        return False
    try:
        title = Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace")
    except OSError:
        return True
    return title.startswith(starts)
