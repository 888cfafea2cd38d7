"""What `deployments.executors.cuda.executor` asks of a GPU: streams, events, copies beside the computation, graphs,
bytes.

`CudaGpu` is the only code that needs a GPU to be tested. All but `memory` belong to the engine's thread (or to the one
that loads, before it). Work that is enqueued under `compute` runs in that order; uploads and downloads run on streams
of their own, and what depends on them waits on the device for their events, never on the host.

A thread that has called stays on the compute stream: to go back to its former one costs as much as a launch.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol, cast

import torch
from torch import Tensor
from typing_extensions import override

from deployments.executors.torch_common import device_lost
from slicer.common.nvml import NvmlGpu


class Gpu(Protocol):
    """The seam between the executor and the device. An event is opaque: it is made and understood here only.

    Attributes:
        device: where tensors lie.
    """

    device: torch.device

    def compute(self) -> AbstractContextManager[None]:
        """What is enqueued inside runs on the compute stream, in inference mode."""

    def record(self) -> object:
        """An event that happens when all that was enqueued for computation has been done."""

    def wait_for(self, event: object) -> None:
        """What is enqueued for computation from now on begins after the event; the host goes on at once."""

    def synchronize(self, event: object) -> None:
        """The host waits for the event, and for nothing else."""

    def happened(self, event: object) -> bool:
        """Whether the event has happened; the host does not wait."""

    def seconds(self, began: object, ended: object) -> float:
        """Seconds on the device between two events of `record` that have happened."""

    def host(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Page-locked memory on the host, not initialised. Its reuse waits for the copies that were enqueued on it."""

    def is_pinned(self, tensor: Tensor) -> bool:
        """Whether this memory on the host is page-locked, so that copies from it are made beside everything else."""

    def pin(self, memory: mmap.mmap) -> None:
        """Lock pages of this host that are mapped here, so that copies from them need no copy before.

        Raises:
            RuntimeError: the driver does not.
        """

    def unpin(self, memory: mmap.mmap) -> None:
        """Let them go, when copies from them have ended."""

    def upload(self, pieces: Sequence[tuple[Tensor, Tensor]], after: Iterable[object]) -> object:
        """Copy (host, device) pieces when the events have happened, beside the computation; returns when it is done."""

    def download(self, source: Tensor, after: object) -> tuple[Tensor, object]:
        """Copy to the host when `after` has happened, beside the computation; the caller keeps `source` until then."""

    def capture(self, body: Callable[[], None]) -> Callable[[], None]:
        """Record what `body` enqueues, without running it; the result enqueues it again, as one graph."""

    def forbid_syncs(self) -> AbstractContextManager[None]:
        """Inside, whatever makes the host wait for the device raises."""

    def settle(self) -> None:
        """The host waits for all that was enqueued on any stream; at the start only."""

    def lost(self) -> bool:
        """Whether the device answers no more. Waits for it."""

    def memory(self) -> dict[str, int]:
        """Bytes of ``graph_pools``, ``device_reserved``, ``device_used``, and where known of the process's share."""


#: With fewer cores a host that waits sleeps, instead of keeping one from the event loop; with more it watches the
#: event, which wakes it tens of microseconds earlier. It waits a part of a step at most, and never with Python's lock.
_CORES_TO_WATCH = 4


class _On:
    """Inside, work is enqueued on one stream; afterwards on another."""

    def __init__(self, stream: torch.cuda.Stream, afterwards: torch.cuda.Stream) -> None:
        self._stream, self._afterwards = stream, afterwards

    def __enter__(self) -> None:
        torch.cuda.set_stream(self._stream)

    def __exit__(self, *exc: object) -> None:
        torch.cuda.set_stream(self._afterwards)


class CudaGpu(Gpu):
    """A CUDA device. Args: a device such as ``cuda`` or ``cuda:1``."""

    def __init__(self, device: str) -> None:
        named = torch.device(device)
        index = torch.cuda.current_device() if named.index is None else named.index
        self.device = torch.device("cuda", index)
        self._compute = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        self._in = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        self._out = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        self._on_in, self._on_out = _On(self._in, self._compute), _On(self._out, self._compute)
        self._blocking = cores() < _CORES_TO_WATCH
        with torch.cuda.device(self.device):
            self._pool = torch.cuda.graph_pool_handle()
        self._pool_bytes = 0

    @override
    @contextmanager
    def compute(self) -> Iterator[None]:
        torch.cuda.set_stream(self._compute)
        with torch.inference_mode():
            yield

    @override
    def record(self) -> torch.cuda.Event:
        return self._record(self._compute)

    @override
    def wait_for(self, event: object) -> None:
        self._compute.wait_event(_event(event))

    @override
    def synchronize(self, event: object) -> None:
        _event(event).synchronize()

    @override
    def happened(self, event: object) -> bool:
        return bool(_event(event).query())  # type: ignore[no-untyped-call]

    @override
    def seconds(self, began: object, ended: object) -> float:
        return float(_event(began).elapsed_time(_event(ended))) / 1e3

    @override
    def host(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Torch keeps page-locked memory and gives it again, so this costs microseconds."""
        return torch.empty(tuple(shape), dtype=dtype, pin_memory=True)

    @override
    def is_pinned(self, tensor: Tensor) -> bool:
        return tensor.is_pinned()

    @override
    def pin(self, memory: mmap.mmap) -> None:
        with torch.cuda.device(self.device):
            torch.cuda.check_error(torch.cuda.cudart().cudaHostRegister(_address(memory), len(memory), 0))  # type: ignore[no-untyped-call]

    @override
    def unpin(self, memory: mmap.mmap) -> None:
        self._in.synchronize()
        with torch.cuda.device(self.device):
            torch.cuda.check_error(torch.cuda.cudart().cudaHostUnregister(_address(memory)))  # type: ignore[no-untyped-call]

    @override
    def upload(self, pieces: Sequence[tuple[Tensor, Tensor]], after: Iterable[object]) -> object:
        with self._on_in:
            for event in after:
                self._in.wait_event(_event(event))
            for source, target in pieces:
                target.copy_(source, non_blocking=True)
        return self._record(self._in)

    @override
    def download(self, source: Tensor, after: object) -> tuple[Tensor, object]:
        host = self.host(source.shape, source.dtype)
        with self._on_out:
            self._out.wait_event(_event(after))
            host.copy_(source, non_blocking=True)
        return host, self._record(self._out)

    @override
    def capture(self, body: Callable[[], None]) -> Callable[[], None]:
        """All graphs share one memory pool for what they need inside: they never run at the same time, and what must
        outlive a graph is written outside of it. Other threads may use CUDA meanwhile.
        """
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._compute, capture_error_mode="thread_local"):
            body()
        segments: Any = torch.cuda.memory_snapshot()  # type: ignore[no-untyped-call]
        self._pool_bytes = sum(
            int(segment["total_size"])
            for segment in segments
            if tuple(segment.get("segment_pool_id", (0, 0))) == tuple(self._pool)
        )
        return graph.replay

    @override
    @contextmanager
    def forbid_syncs(self) -> Iterator[None]:
        """For the whole process, so before it serves."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch says once that this mode does not find everything
            torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")

    @override
    def settle(self) -> None:
        torch.cuda.synchronize(self.device)

    @override
    def lost(self) -> bool:
        return device_lost(self.device)

    @override
    def memory(self) -> dict[str, int]:
        """``graph_pools``: what graphs need inside. ``device_reserved``: what torch's allocator holds, these and its
        cache included. ``device_used``: of the whole device, other processes included. Where the driver tells it (in
        many containers it does not), ``device_process``: this process's share, and ``context``: what of it lies outside
        of the allocator: the context, kernels, the graphs themselves.
        """
        reserved = torch.cuda.memory_reserved(self.device)
        free, total = torch.cuda.mem_get_info(self.device)
        sizes = {"graph_pools": self._pool_bytes, "device_reserved": reserved, "device_used": total - free}
        process = _process_bytes(self.device)
        if process is not None:
            sizes |= {"device_process": process, "context": max(process - reserved, 0)}
        return sizes

    def _record(self, stream: torch.cuda.Stream) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True, blocking=self._blocking)  # type: ignore[no-untyped-call]
        event.record(stream)
        return event


def _process_bytes(device: torch.device) -> int | None:
    """What the driver says that this process holds of the device; None where it does not say."""
    try:
        uuid = torch.cuda.get_device_properties(device).uuid
    except (RuntimeError, AttributeError):  # a driver or a torch that names no device
        return None
    return NvmlGpu(f"GPU-{uuid}").process_bytes()


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _address(memory: mmap.mmap) -> int:
    """Where a writable mapping begins."""
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def _event(event: object) -> torch.cuda.Event:
    return cast(torch.cuda.Event, event)
