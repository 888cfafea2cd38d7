"""What runs a device's head: torch, onnxruntime, or a class of your own, as the fleet file's `runtime` says."""

from __future__ import annotations

from pathlib import Path

from actors.device.config import DeviceConfig
from actors.device.torch_runtime import load_torch
from slicer.common.plugins import load_object
from slicer.core.heads.head_runtime import GetShard, HeadRuntime, LoadHead
from slicer.core.heads.onnx_head import OnnxOptions, load_onnx
from slicer.core.protocol.messages import ServedModel
from slicer.errors import ConfigError

#: Without those of one's own.
RUNTIMES = ("torch", "onnx")


def make_load(name: str) -> LoadHead[DeviceConfig]:
    """How heads are loaded by a runtime's name.

    Raises:
        ConfigError: there is none of this name, or its class cannot be imported.
    """
    if name == "torch":
        return load_torch
    if name == "onnx":
        return _load_onnx
    if ":" not in name:
        raise ConfigError(
            f"unknown runtime {name!r}; this build has {', '.join(RUNTIMES)}; an own one is package.module:Class"
        )
    made = load_object(name, "runtime")

    async def load(served: ServedModel, config: DeviceConfig, get: GetShard) -> HeadRuntime:
        try:
            runtime: HeadRuntime = made(served, config, get)
        except TypeError as error:
            raise ConfigError(f"runtime {name}: it cannot be made of (served, config, get): {error}") from error
        return runtime

    return load


async def _load_onnx(served: ServedModel, config: DeviceConfig, get: GetShard) -> HeadRuntime:
    options = OnnxOptions(
        Path(config.cache_directory).expanduser(),
        config.cache_max_bytes,
        config.torch_threads,
        ("CUDAExecutionProvider",) if config.accelerator == "cuda" else (),
    )
    return await load_onnx(served, config, get, options)
