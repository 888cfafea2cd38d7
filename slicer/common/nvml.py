"""What NVIDIA's driver says of GPUs, by NVML (the module `pynvml`). Whatever it does not say is None, never zero.

The doctor sends this module to nodes that lack HeadTail (`deployments.doctor.cli`): it imports nothing of ours.
NVML stays open once it was asked, until the process ends.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")

#: What `NvmlGpu.read` tells.
READINGS = ("utilisation_percent", "memory_bytes", "power_watts", "energy_joules")


class NvmlGpu:
    """One GPU.

    Args:
        name: its number on this machine, or its UUID (``GPU-...``); None: the first one that this process may use, as
            CUDA_VISIBLE_DEVICES says, where Ray names it.
    """

    def __init__(self, name: str | None = None) -> None:
        if name is None:
            name = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
        self._nvml = _opened()
        self._handle: Any = None
        if self._nvml is not None:
            by_index = name.isdigit()
            find = self._nvml.nvmlDeviceGetHandleByIndex if by_index else self._nvml.nvmlDeviceGetHandleByUUID
            self._handle = self._told(lambda: find(int(name) if by_index else name))

    def read(self) -> dict[str, float | None]:
        """The READINGS, each None where NVML does not say.

        Utilisation is NVML's: the share of time in which some kernel ran, not how full the GPU was. Energy is since the
        driver was loaded.
        """
        nvml, handle = self._nvml, self._handle
        if handle is None:
            return dict.fromkeys(READINGS)
        calls: tuple[Callable[[], float], ...] = (
            lambda: float(nvml.nvmlDeviceGetUtilizationRates(handle).gpu),
            lambda: float(nvml.nvmlDeviceGetMemoryInfo(handle).used),
            lambda: float(nvml.nvmlDeviceGetPowerUsage(handle) / 1e3),
            lambda: float(nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3),
        )
        return {name: self._told(call) for name, call in zip(READINGS, calls, strict=True)}

    def process_bytes(self) -> int | None:
        """What this process holds of the GPU's memory; None also in a container, where its number is another one."""
        if self._handle is None:
            return None
        processes = self._told(lambda: self._nvml.nvmlDeviceGetComputeRunningProcesses(self._handle)) or ()
        return next((int(p.usedGpuMemory) for p in processes if p.pid == os.getpid() and p.usedGpuMemory), None)

    def _told(self, read: Callable[[], T]) -> T | None:
        return _told(self._nvml, read)


def gpu_names() -> list[str] | None:
    """Of all GPUs of this machine, in NVML's order; None without a driver."""
    nvml = _opened()
    if nvml is None:
        return None

    def name_of(index: int) -> str | bytes:
        name: str | bytes = nvml.nvmlDeviceGetName(nvml.nvmlDeviceGetHandleByIndex(index))
        return name

    names = []
    for index in range(_told(nvml, nvml.nvmlDeviceGetCount) or 0):
        name = _told(nvml, partial(name_of, index)) or f"GPU {index}"
        names.append(name.decode() if isinstance(name, bytes) else name)
    return names


def _opened() -> Any:
    """`pynvml`, ready to be asked; None without it, or without a driver."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return pynvml


def _told(nvml: Any, read: Callable[[], T]) -> T | None:
    try:
        return read()
    except nvml.NVMLError:
        return None
