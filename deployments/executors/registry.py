"""The executors by name, and how a replica's is made. Torch is imported with the executor, not before."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import MethodType
from typing import Any, cast

from deployments.executors.base import Executor
from slicer.common.plugins import load_object
from slicer.errors import ConfigError

#: The executors that this package brings, by the name that the configuration uses, and where they are.
EXECUTORS: Mapping[str, str] = {
    "torch": "deployments.executors:TorchExecutor",
    "emulated": "deployments.executors.emulated:EmulatedExecutor",
}

#: What ``torch`` is on a CUDA device; `TorchExecutor` runs there, too, without graphs and without a step behind.
CUDA_EXECUTOR = "deployments.executors.cuda.executor:CudaExecutor"

#: Members of `Executor` that have a default.
_OFFERS = ("emulated", "padded", "notes", "receiving", "pin", "unpin")


def make_executor(
    name: str, *, device: str, threads: int | None = None, options: Mapping[str, Any] | None = None
) -> Executor:
    """The executor of a replica.

    Args:
        name: ``torch``, ``emulated`` (see `deployments.executors.emulated`), or ``package.module:Class`` for an own
            one, called with device, threads and the options.
        options: further arguments of the executor: ``dtype`` for ``torch``, and on CUDA those of
            `deployments.executors.cuda.executor.CudaExecutor`.

    Raises:
        ConfigError: the executor or an option is unknown, or the device is not there.
    """
    if name not in EXECUTORS and ":" not in name:
        known = ", ".join(EXECUTORS)
        raise ConfigError(f"executor {name!r}: known are {known}; an own one is written package.module:Class")
    path = CUDA_EXECUTOR if name == "torch" and device.partition(":")[0] == "cuda" else EXECUTORS.get(name, name)
    executor_class: Any = load_object(path, "executor")
    arguments: dict[str, Any] = {"device": device, "threads": threads}
    try:
        inspect.signature(executor_class).bind(**arguments, **dict(options or {}))
    except TypeError as error:
        raise ConfigError(f"executor {name!r} with options {dict(options or {})}: {error}") from None
    return _completed(name, executor_class(**arguments, **dict(options or {})))


def _completed(name: str, executor: Any) -> Executor:
    """An own executor that does not derive from `Executor`, with the defaults of what it leaves out."""
    for member in _OFFERS:
        if hasattr(executor, member):
            continue
        default = getattr(Executor, member)
        try:
            setattr(executor, member, MethodType(default, executor) if callable(default) else default)
        except AttributeError:
            raise ConfigError(
                f"executor {name!r} has no {member}; let it derive from deployments.executors.Executor"
            ) from None
    return cast(Executor, executor)
