"""What executors on torch share: devices, dtypes, modules in their place, and torch's errors in the engine's words."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from deployments.executors.base import AcceleratorLost, OutOfMemory, Sliced
from deployments.scheduling.scheduler import Resident
from slicer.core.common.error_text import first_line
from slicer.errors import ConfigError
from slicer.tracing.tensors import named_tensors

#: What a configuration may say of the weights and activations.
DTYPES: Mapping[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def device_lost(device: torch.device) -> bool:
    """Whether a CUDA device answers no more. Waits for all that was enqueued there."""
    try:
        torch.cuda.synchronize(device)
    except RuntimeError:
        return True
    return False


@contextmanager
def in_our_words(name: str, lost: Callable[[], bool]) -> Iterator[None]:
    """Torch's errors in the engine's words: does a smaller batch help, does nothing help (`lost`)?"""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, (OutOfMemory, AcceleratorLost)):
            raise
        said = first_line(error)
        if isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in said:
            if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
                torch.cuda.empty_cache()
            raise OutOfMemory(f"{name}: {said}") from error
        if lost():
            raise AcceleratorLost(f"{name}: {said}; restart the replica") from error
        raise


def usable_device(device: str, threads: int | None) -> torch.device:
    """The device, with torch's threads set as they should be.

    Raises:
        ConfigError: CUDA is asked for and not there, or `threads` is below 1.
    """
    if threads is not None and threads < 1:
        raise ConfigError(f"threads {threads}: torch needs at least one; leave it out for torch's own choice")
    found = torch.device(device)
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f"device {device!r}: this process sees no CUDA device (torch {torch.__version__}); check the driver, "
            "torch's CUDA build and the replica's num_gpus, or use device cpu"
        )
    if threads is not None:
        torch.set_num_threads(threads)
    return found


def dtype_named(name: str | None) -> torch.dtype | None:
    """torch's dtype of this name; None for None.

    Raises:
        ConfigError: it is unknown.
    """
    if name is not None and name not in DTYPES:
        raise ConfigError(f"dtype {name!r} of executor torch: known are {', '.join(DTYPES)}")
    return None if name is None else DTYPES[name]


#: Tensors of the host, and what an executor made of them on its accelerator; those that nobody has any more are out.
Moved = WeakIdKeyDictionary


def parts_on(
    model: str,
    weights: str,
    resident: Resident,
    sliced: Sliced,
    device: torch.device,
    dtype: torch.dtype | None,
    moved: Moved,
) -> nn.ModuleList:
    """The resident slices as modules in eval mode; those of `sliced` itself where neither device nor dtype differ.

    Args:
        moved: what was put there before, for other models: a tensor that they share is not copied again.

    Raises:
        ConfigError: the resident lies outside the model.
    """
    if not 0 <= resident.start < resident.end <= sliced.num_slices:
        raise ConfigError(
            f"weights {weights!r} of {model}: slices {resident.start}:{resident.end} of {sliced.num_slices}; "
            "the strategy was made for another number of slices"
        )
    parts = nn.ModuleList([sliced.span(i, i + 1) for i in range(resident.start, resident.end)])
    if resident.own_copy or device.type != "cpu" or (dtype is not None and dtype_of(parts) != dtype):
        own = {} if resident.own_copy else dict(named_tensors(parts))
        parts = copy.deepcopy(parts, {id(tensor): moved[tensor] for tensor in own.values() if tensor in moved})
        parts = parts.to(device, dtype)
        there = named_tensors(parts)
        for name, tensor in own.items():
            moved[tensor] = there[name]
    return parts.eval()


def dtype_of(module: nn.Module) -> torch.dtype:
    """The dtype of a module's weights, and of the activations that it takes."""
    floats = (tensor.dtype for tensor in (*module.parameters(), *module.buffers()) if tensor.is_floating_point())
    return next(floats, torch.float32)


def storage_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the tensors' storages, each counted once: views and shared weights cost nothing more."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


def resident_set_bytes() -> int:
    """This process's resident set; 0 where /proc is missing (other systems than Linux)."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    line = next((line for line in status.splitlines() if line.startswith("VmRSS:")), "VmRSS: 0 kB")
    return int(line.split()[1]) * 1024
