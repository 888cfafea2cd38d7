"""`CudaGpu` against a recorded torch.cuda: which stream waits for what, and where work is put. A GPU runs tests/gpu."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from deployments.executors.cuda import gpu as streams
from deployments.executors.cuda.gpu import CudaGpu

LOG: list[tuple[Any, ...]] = []


class Event:
    def __init__(self, **options: bool) -> None:
        assert options == {"enable_timing": True, "blocking": True}, "on few cores a host that waits sleeps"
        self.at = 0

    def record(self, stream: Stream) -> None:
        self.at = len(LOG)
        LOG.append(("record", stream.name))

    def synchronize(self) -> None:
        LOG.append(("synchronize", self.at))

    def elapsed_time(self, other: Event) -> float:
        return (other.at - self.at) * 1000.0


class Stream:
    count = 0

    def __init__(self, device: torch.device) -> None:
        Stream.count += 1
        self.name = ("compute", "in", "out")[(Stream.count - 1) % 3]

    def wait_event(self, event: Event) -> None:
        LOG.append(("wait", self.name, event.at))


@contextmanager
def on(device: torch.device) -> Iterator[None]:
    yield


class Graph:
    def replay(self) -> None:
        LOG.append(("replay",))


@contextmanager
def capturing(graph: Graph, pool: Any, stream: Stream, capture_error_mode: str) -> Iterator[None]:
    assert capture_error_mode == "thread_local", "the event loop's thread may use CUDA meanwhile"
    LOG.append(("capture", pool, stream.name))
    yield


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> CudaGpu:
    LOG.clear()
    Stream.count = 0
    segments = [{"total_size": 8, "segment_pool_id": (0, 1)}, {"total_size": 4, "segment_pool_id": (0, 0)}]
    fakes: dict[str, Any] = {
        "current_device": lambda: 0,
        "Stream": Stream,
        "Event": Event,
        "set_stream": lambda stream: LOG.append(("on", stream.name)),
        "device": on,
        "graph_pool_handle": lambda: (0, 1),
        "CUDAGraph": Graph,
        "graph": capturing,
        "memory_snapshot": lambda: segments,
        "memory_reserved": lambda device: 12,
        "mem_get_info": lambda device: (60, 100),
        "synchronize": lambda device: LOG.append(("device",)),
        "set_sync_debug_mode": lambda mode: LOG.append(("syncs", mode)),
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr(streams, "cores", lambda: 2)
    made = CudaGpu("cuda")
    monkeypatch.setattr(made, "host", lambda shape, dtype: torch.empty(tuple(shape), dtype=dtype))
    LOG.clear()
    return made


def test_an_upload_waits_for_the_steps_that_read_its_target_on_the_device_only(gpu: CudaGpu) -> None:
    left = gpu.record()
    source, target = torch.ones(2, 3), torch.zeros(2, 3)
    ready = gpu.upload([(source, target)], [left])
    gpu.wait_for(ready)
    assert LOG == [
        ("record", "compute"),
        ("on", "in"),
        ("wait", "in", 0),
        ("on", "compute"),
        ("record", "in"),
        ("wait", "compute", 4),
    ]
    assert torch.equal(target, source)


def test_a_download_waits_for_its_step_on_a_stream_of_its_own(gpu: CudaGpu) -> None:
    ended = gpu.record()
    host, fetched = gpu.download(torch.ones(2), ended)
    gpu.synchronize(fetched)
    assert LOG[1:] == [("on", "out"), ("wait", "out", 0), ("on", "compute"), ("record", "out"), ("synchronize", 4)]
    assert host.tolist() == [1, 1]


def test_times_are_those_between_two_events(gpu: CudaGpu) -> None:
    began, ended = gpu.record(), gpu.record()
    assert gpu.seconds(began, ended) == 1.0
    with gpu.compute():
        assert torch.is_inference_mode_enabled()
    assert LOG[2:] == [("on", "compute")]


def test_graphs_share_a_pool_on_the_compute_stream_and_its_bytes_are_told_apart(gpu: CudaGpu) -> None:
    ran: list[int] = []
    replay = gpu.capture(lambda: ran.append(1))
    assert LOG == [("capture", (0, 1), "compute")] and ran == [1]
    replay()
    assert LOG[-1] == ("replay",)
    sizes = gpu.memory()
    assert sizes == {"graph_pools": 8, "device_reserved": 12, "device_used": 40}, "what nobody tells is missing"


def test_waiting_is_forbidden_inside_and_allowed_again_when_it_raised(gpu: CudaGpu) -> None:
    with pytest.raises(ZeroDivisionError), gpu.forbid_syncs():
        _ = 1 / 0
    assert LOG == [("syncs", "error"), ("syncs", "default")]


def test_a_device_that_answers_no_more_is_lost(gpu: CudaGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not gpu.lost()

    def dead(device: torch.device) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch.cuda, "synchronize", dead)
    assert gpu.lost()
