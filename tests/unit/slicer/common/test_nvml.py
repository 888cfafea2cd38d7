"""Readings of GPUs: what the driver tells, None for what it does not, and nothing at all without one."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from slicer.common.nvml import READINGS, NvmlGpu, gpu_names


class NVMLError(Exception):
    """As pynvml's."""


def refuse(*_: Any) -> Any:
    raise NVMLError("not supported")


def driver(**functions: Callable[..., Any]) -> SimpleNamespace:
    """`pynvml` on a machine of two GPUs; a handle is the number."""
    told: dict[str, Callable[..., Any]] = {
        "nvmlInit": lambda: None,
        "nvmlDeviceGetCount": lambda: 2,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetHandleByUUID": lambda uuid: {"GPU-a": 0, "GPU-b": 1}[uuid] if uuid else refuse(),
        "nvmlDeviceGetName": lambda handle: (b"H100", "T4")[handle],
        "nvmlDeviceGetUtilizationRates": lambda handle: SimpleNamespace(gpu=50 + handle),
        "nvmlDeviceGetMemoryInfo": lambda handle: SimpleNamespace(used=1000),
        "nvmlDeviceGetPowerUsage": lambda handle: 70_500,
        "nvmlDeviceGetTotalEnergyConsumption": lambda handle: 2_000,
        "nvmlDeviceGetComputeRunningProcesses": lambda handle: [
            SimpleNamespace(pid=os.getpid() + 1, usedGpuMemory=7),
            SimpleNamespace(pid=os.getpid(), usedGpuMemory=9 + handle),
        ],
    }
    return SimpleNamespace(NVMLError=NVMLError, **{**told, **functions})


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    return lambda **functions: monkeypatch.setitem(sys.modules, "pynvml", driver(**functions))


def test_a_gpu_is_read_in_the_units_of_the_names(machine: Callable[..., None]) -> None:
    machine()
    assert NvmlGpu("0").read() == dict(zip(READINGS, (50.0, 1000.0, 70.5, 2.0), strict=True))
    assert NvmlGpu("GPU-b").process_bytes() == 10
    assert gpu_names() == ["H100", "T4"]


@pytest.mark.parametrize(("visible", "percent"), [("1,0", 51.0), ("GPU-b", 51.0), (None, 50.0), ("", None)])
def test_without_a_name_it_is_the_first_one_that_this_process_may_use(
    machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch, visible: str | None, percent: float | None
) -> None:
    machine()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert NvmlGpu().read()["utilisation_percent"] == percent


def test_what_a_board_does_not_answer_is_none_and_the_rest_is_there(machine: Callable[..., None]) -> None:
    machine(
        nvmlDeviceGetPowerUsage=refuse, nvmlDeviceGetName=refuse, nvmlDeviceGetComputeRunningProcesses=lambda handle: []
    )
    readings = NvmlGpu("0").read()
    assert (readings["power_watts"], readings["energy_joules"]) == (None, 2.0)
    assert gpu_names() == ["GPU 0", "GPU 1"]
    assert NvmlGpu("0").process_bytes() is None


@pytest.mark.parametrize("library", [None, driver(nvmlInit=refuse)], ids=["no pynvml", "no driver"])
def test_without_a_driver_nothing_is_known(monkeypatch: pytest.MonkeyPatch, library: Any) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", library)
    assert NvmlGpu("0").read() == dict.fromkeys(READINGS)
    assert NvmlGpu("0").process_bytes() is None
    assert gpu_names() is None
