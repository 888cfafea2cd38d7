"""What `benchmarks/outage/outage.py` puts into the processes that it measures: a replica that can be held back, a link
that is watched. Both are given to HeadTail as anybody's own executor and link are."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from typing_extensions import override

from actors.network.emulated_link import EmulatedLink
from deployments.executors.emulated import EmulatedExecutor


class HeldExecutor(EmulatedExecutor):
    """An emulated accelerator that is not there before the file `hold` is gone: its replica cannot start."""

    def __init__(self, device: str = "cpu", threads: int | None = None, *, hold: str, **options: Any) -> None:
        while Path(hold).exists():
            time.sleep(0.02)
        super().__init__(device, threads, **options)


class WatchedLink(EmulatedLink):
    """An emulated link that writes down when a run began, and when something was sent, on this host's monotonic clock.

    Args:
        log: a file, which all links of a group append to.
    """

    def __init__(self, *, log: str, **options: Any) -> None:
        super().__init__(**options)
        # Unbuffered: the process is killed in the end.
        self._log = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    @override
    def begin(self, seed: int | str) -> None:
        os.write(self._log, f"begin {time.monotonic():.6f}\n".encode())
        super().begin(seed)

    @override
    async def send(self, size_bytes: int) -> None:
        os.write(self._log, f"send {time.monotonic():.6f}\n".encode())
        await super().send(size_bytes)
