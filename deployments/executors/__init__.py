"""What computes a step: torch on the CPU, an emulated accelerator, CUDA.

Not here: what to compute (`deployments.scheduling`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deployments.executors.torch_executor import Executor, TorchExecutor

__all__ = ["Executor", "TorchExecutor"]


def __getattr__(name: str) -> Any:  # lazy: who imports this package need not have torch
    if name in __all__:
        from deployments.executors import torch_executor

        return getattr(torch_executor, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
