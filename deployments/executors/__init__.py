"""What computes a step: torch on the CPU, an emulated accelerator, CUDA.

Not here: what to compute (`deployments.scheduling`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from slicer.core.common.lazy import lazy

if TYPE_CHECKING:
    from deployments.executors.base import Executor
    from deployments.executors.torch_executor import TorchExecutor

__all__ = ["Executor", "TorchExecutor"]

__getattr__ = lazy(
    __name__,
    {
        "Executor": "deployments.executors.base",
        "TorchExecutor": "deployments.executors.torch_executor",
    },
)
