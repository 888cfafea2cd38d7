"""Several hosts, what is run on them and what is done to them, through one command: the rig.

The rig is a program that understands, for the hosts ``head``, ``edge1`` .. ``edgeN`` and ``op`` (the operator's)::

    up N MBIT DELAY_MS   make them; each edge's link has so many Mbit/s and ms one way; prints `ADDRESS NAME` lines
    sh HOST COMMAND      run it in a login shell there, stdin and stdout passed on
    shape HOST MBIT      change a link's rate
    cut HOST, mend HOST  take the link down, and up again; nobody is told
    kill HOST, boot HOST power off, so that not even a FIN gets out; power on again
    down                 end and remove all of it

`op` has ``~/.ssh/rig_key``, with which root can log in everywhere, and sees the project's folder under its path here.
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

#: Names of the hosts that the claims speak of.
HEAD, OPERATOR = "head", "op"


class RigError(Exception):
    """A command that had to succeed did not."""


@dataclass
class Output:
    """What a running command prints, line by line with the time of arrival here (`time.monotonic`); thread-safe.

    Attributes:
        lines: all so far; code: its exit status, None while it runs.
    """

    lines: list[tuple[float, str]] = field(default_factory=list)
    code: int | None = None
    changed: threading.Condition = field(default_factory=threading.Condition)

    @property
    def text(self) -> str:
        """All lines so far."""
        with self.changed:
            return "\n".join(line for _, line in self.lines)

    def wait_for(self, part: str, timeout_s: float, after_s: float = 0.0) -> float | None:
        """When a line with `part` arrived, after so much of `time.monotonic`; None: it ended or the time is over."""
        until_s = time.monotonic() + timeout_s

        def found() -> float | None:
            return next((at_s for at_s, line in self.lines if at_s >= after_s and part in line), None)

        with self.changed:
            while (at_s := found()) is None and self.code is None and time.monotonic() < until_s:
                self.changed.wait(until_s - time.monotonic())
            return at_s

    def wait(self, timeout_s: float) -> int | None:
        """Its exit status; None if it still runs."""
        with self.changed:
            self.changed.wait_for(lambda: self.code is not None, timeout_s)
            return self.code


class Hosts:
    """The hosts of one rig.

    Args:
        rig: its program.

    Attributes:
        addresses: by name, once they are up.
    """

    def __init__(self, rig: Path) -> None:
        self.addresses: dict[str, str] = {}
        self._rig = str(rig)
        self._running: list[subprocess.Popen[str]] = []

    @property
    def edges(self) -> list[str]:
        """Names of the edge hosts, in order."""
        return [name for name in self.addresses if name.startswith("edge")]

    def up(self, edges: int, mbit: float, delay_ms: float) -> None:
        """Make the hosts."""
        said = self._do("up", str(edges), f"{mbit:g}", f"{delay_ms:g}")
        self.addresses = {name: address for address, name in (line.split()[:2] for line in said.splitlines())}

    def down(self) -> None:
        """End what was started here, then the hosts."""
        for process in self._running:
            process.kill()
        self._do("down")

    def power(self, host: str, on: bool) -> None:
        """Switch it."""
        self._do("boot" if on else "kill", host)

    def link(self, host: str, up: bool) -> None:
        """Plug its cable, or pull it."""
        self._do("mend" if up else "cut", host)

    def shape(self, host: str, mbit: float) -> None:
        """Change its link's rate."""
        self._do("shape", host, f"{mbit:g}")

    def run(self, host: str, command: str, *, stdin: str = "", timeout_s: float = 120.0, check: bool = True) -> str:
        """What the command printed, stderr included. Raises RigError when it fails, unless told not to check."""
        return self._do("sh", host, command, stdin=stdin, timeout_s=timeout_s, check=check)

    def start(self, host: str, command: str) -> Output:
        """Run the command beside this program."""
        words = [self._rig, "sh", host, command]
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self._running.append(process)
        output = Output()

        def read() -> None:
            assert process.stdout is not None
            for line in process.stdout:
                with output.changed:
                    output.lines.append((time.monotonic(), line.rstrip("\n")))
                    output.changed.notify_all()
            with output.changed:
                output.code = process.wait()
                output.changed.notify_all()

        threading.Thread(target=read, daemon=True).start()
        return output

    def write(self, host: str, path: str, text: str) -> None:
        """Make a file there, and its folder; `path` may begin with ~."""
        self.run(host, f"mkdir -p $(dirname {path}) && cat > {path}", stdin=text)

    def _do(self, *words: str, stdin: str = "", timeout_s: float = 120.0, check: bool = True) -> str:
        try:
            done = subprocess.run(
                [self._rig, *words],
                input=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=timeout_s,
                env=os.environ,
            )
        except subprocess.TimeoutExpired as error:
            raise RigError(f"{' '.join(words)}: not done after {timeout_s:g} s") from error
        if check and done.returncode:
            raise RigError(f"{' '.join(words)}: exit status {done.returncode}\n{done.stdout[-2000:]}")
        return done.stdout
