"""The seam of `deployments.executors.cuda.gpu` without a GPU: computes on the host, copies as late as it may.

A copy between host and device is done when somebody waits for its event, and its target holds NaN until then. So a row
that is used without waiting, or a source that is written too early, is found out.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor


class Event:
    """Happens when what belongs to it is done."""

    def __init__(self, at_s: float, pending: Callable[[], None] | None = None) -> None:
        self.at_s, self.pending = at_s, pending

    def happen(self) -> None:
        if self.pending is not None:
            with torch.inference_mode():
                self.pending()
            self.pending = None


class HostGpu:
    """Counts what it was asked for. `graph_s` and `eager_s` tell `Graphs` what is faster."""

    def __init__(self, fits_graphs: int = 1 << 30) -> None:
        self.device = torch.device("cpu")
        self.now_s = 0.0
        self.fits_graphs = fits_graphs
        self.captures = self.replays = self.syncs = 0
        self.copied_rows = 0
        self.awaited: list[object] = []
        self.pinned: set[int] = set()
        self.locked: list[mmap.mmap] = []
        self.uploads: list[Sequence[tuple[Tensor, Tensor]]] = []
        self.replay_s, self.dead = 1.0, False

    @contextmanager
    def compute(self) -> Iterator[None]:
        with torch.inference_mode():
            yield

    def record(self) -> Event:
        self.now_s += 2.0  # eager work takes two seconds, a replay one
        return Event(self.now_s)

    def wait_for(self, event: object) -> None:
        assert isinstance(event, Event)
        event.happen()

    def synchronize(self, event: object) -> None:
        assert isinstance(event, Event)
        self.syncs += 1
        if self.dead:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        event.happen()

    def happened(self, event: object) -> bool:
        assert isinstance(event, Event)
        return event.pending is None

    def pin(self, memory: mmap.mmap) -> None:
        if self.dead:
            raise RuntimeError("CUDA error: out of memory")
        self.locked.append(memory)

    def unpin(self, memory: mmap.mmap) -> None:
        self.locked.remove(memory)

    def is_pinned(self, tensor: Tensor) -> bool:
        within = [tensor.data_ptr() - np.frombuffer(memory, np.uint8).ctypes.data for memory in self.locked]
        return tensor.data_ptr() in self.pinned or any(
            0 <= offset < len(memory) for offset, memory in zip(within, self.locked, strict=True)
        )

    def seconds(self, began: object, ended: object) -> float:
        assert isinstance(began, Event) and isinstance(ended, Event)
        return ended.at_s - began.at_s

    def host(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        found = torch.full(tuple(shape), torch.nan, dtype=dtype)
        self.pinned.add(found.data_ptr())
        return found

    def upload(self, pieces: Sequence[tuple[Tensor, Tensor]], after: Iterable[object]) -> Event:
        self.awaited += after
        self.uploads.append(pieces)
        for _, target in pieces:
            target.fill_(torch.nan)

        def copy() -> None:
            for source, target in pieces:
                target.copy_(source)

        return Event(self.now_s, copy)

    def download(self, source: Tensor, after: object) -> tuple[Tensor, Event]:
        host = self.host(source.shape, source.dtype)

        def copy() -> None:
            host.copy_(source)

        return host, Event(self.now_s, copy)

    def capture(self, body: Callable[[], None]) -> Callable[[], None]:
        if self.captures >= self.fits_graphs:
            raise torch.OutOfMemoryError("CUDA out of memory: the graph's pool")
        self.captures += 1

        def replay() -> None:
            self.replays += 1
            self.now_s -= 2.0 - self.replay_s
            body()

        return replay

    @contextmanager
    def forbid_syncs(self) -> Iterator[None]:
        yield

    def settle(self) -> None: ...

    def lost(self) -> bool:
        return self.dead

    def memory(self) -> dict[str, int]:
        return {"graph_pools": 0, "device_reserved": 0, "device_used": 0}
