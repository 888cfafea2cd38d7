"""What runs a step: the real accelerator behind one small interface.

An executor owns the weights and the activations. Rows are moved to the accelerator once, by `put`, and stay there until
`take` or `drop`; in between only `run` touches them. So how activations are kept (here: in the batches that produced
them) is the executor's own affair.

All methods but `memory` belong to one thread, the engine's. `load` may run on another one before the engine starts.
"""

from __future__ import annotations

import copy
import inspect
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from deployments.scheduling.scheduler import Resident, Row, Step
from slicer.common.error_text import first_line
from slicer.common.plugins import load_object
from slicer.errors import ConfigError

Floats = npt.NDArray[np.float32]

#: Activations as they were sent: float32, or float16, which takes the model's dtype where it is computed.
Arriving = npt.NDArray[np.floating[Any]]

#: The executors that this package brings, by the name that the configuration uses, and where they are.
EXECUTORS: Mapping[str, str] = {
    "torch": "deployments.executors:TorchExecutor",
    "emulated": "deployments.executors.emulated:EmulatedExecutor",
}

#: What ``torch`` is on a CUDA device; `TorchExecutor` runs there, too, without graphs and without a step behind.
CUDA_EXECUTOR = "deployments.executors.cuda.executor:CudaExecutor"

#: What a configuration may say of the weights and activations.
DTYPES: Mapping[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class OutOfMemory(RuntimeError):
    """The accelerator's memory does not hold this batch; the engine tries smaller ones. Nothing has changed."""


class AcceleratorLost(RuntimeError):
    """The accelerator answers no more (a sticky CUDA error): only a new process helps, so the engine ends."""


class Sliced(Protocol):
    """What an executor needs of `slicer.slicing.slice_model.SlicedModel`."""

    @property
    def num_slices(self) -> int:
        """Slices of the model."""

    def span(self, start: int, end: int, /) -> nn.Module:
        """Slices ``start:end`` as one module: one tensor in, one tensor out, batch first."""


class Executor(Protocol):
    """Runs steps. One executor serves all models of one accelerator."""

    @property
    def name(self) -> str:
        """What runs the steps, for reports: ``cpu``, ``cuda``, ..."""

    @property
    def emulated(self) -> str | None:
        """Which part is emulated, for every result that is printed; None: all is real."""

    def load(self, model: str, sliced: Sliced, residents: Mapping[str, Resident]) -> None:
        """Make the weights resident that the model's steps will name."""

    def put(self, model: str, rows: Sequence[Row], batch: Arriving) -> None:
        """Move new rows of one entry to the accelerator, all at once; ``batch[i]`` (float16, float32) is ``rows[i]``'s.

        Raises:
            OutOfMemory: they do not fit; none of them has been moved.
        """

    def run(self, step: Step) -> float:
        """Run slices ``step.start:step.end`` on the step's rows; their activations are then those at ``step.end``.

        Returns the seconds of execution on the accelerator. If it raises, the rows' activations are as before.

        Raises:
            OutOfMemory: a smaller batch may do.
            AcceleratorLost: nothing will run any more.
        """

    def take(self, rows: Sequence[Row]) -> Floats:
        """Hand over the activations of rows of one step, float32 on the host, ``[len(rows), ...]``, and forget them."""

    def drop(self, row: Row) -> None:
        """Forget a row; one that is not here is no error."""

    def memory(self) -> dict[str, int]:
        """Bytes of ``weights``, ``activations`` and the whole ``process``. From any thread."""


class _Place(NamedTuple):
    """Where a row's activation is: one row of a batch that was put, or that a step produced."""

    batch: Tensor
    position: int


class TorchExecutor:
    """Torch on ``cpu`` or ``cuda``: eager, in inference mode.

    A step whose rows lie side by side in an earlier batch runs on that memory; other rows are gathered by one copy. A
    batch's memory is held until its last row has moved on.

    Args:
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        threads: torch's intra-op threads, for the whole process; None leaves them as they are.
        dtype: ``fp32``, ``bf16`` or ``fp16`` for weights and activations; None: what the model has. Logits are float32.

    Raises:
        ConfigError: CUDA is asked for and not there, `threads` is below 1, or the dtype is unknown.
    """

    emulated: str | None = None

    def __init__(self, device: str = "cpu", threads: int | None = None, dtype: str | None = None) -> None:
        self._device = usable_device(device, threads)
        self._dtype = dtype_named(dtype)
        self.name = device
        self._slices: dict[tuple[str, str], tuple[int, nn.ModuleList]] = {}
        self._dtypes: dict[str, torch.dtype] = {}
        self._places: dict[int, _Place] = {}
        self._lock = threading.Lock()  # `memory` reads from other threads

    def load(self, model: str, sliced: Sliced, residents: Mapping[str, Resident]) -> None:
        """Make weights resident.

        An own copy is a copy of everything. Shared weights on the CPU are those of `sliced` itself; on CUDA they are
        copied there once, and `sliced` stays on the host (drop it when nobody needs it).

        Raises:
            ConfigError: a resident lies outside the model.
        """
        for weights, resident in residents.items():
            parts = parts_on(model, weights, resident, sliced, self._device, self._dtype)
            with self._lock:
                self._slices[model, weights] = (resident.start, parts)
                self._dtypes[model] = dtype_of(parts)

    def put(self, model: str, rows: Sequence[Row], batch: Arriving) -> None:
        """Move new rows to the device, in one transfer, as the model's dtype. `batch` must not be written afterwards.

        Raises:
            OutOfMemory: they do not fit.
        """
        # Torch wants memory that it may write, and a payload that was decoded from bytes is read-only.
        host = torch.from_numpy(np.require(batch, requirements=["C", "W"]))
        with self._guarded():
            moved = host.to(self._device, self._dtypes[model])
        with self._lock:
            self._places.update((row.key, _Place(moved, index)) for index, row in enumerate(rows))

    def run(self, step: Step) -> float:
        """Run one step; on CUDA the time is taken between two synchronisations. See `Executor.run`."""
        first, parts = self._slices[step.model, step.weights]
        with self._guarded():
            started_s = self._now_s()
            x = self._gather(step.rows)
            for part in parts[step.start - first : step.end - first]:
                x = part(x)
            execution_s = self._now_s() - started_s
        if x.shape[0] != len(step.rows):
            raise RuntimeError(f"slices {step.start}:{step.end} made {x.shape[0]} rows out of {len(step.rows)}")
        with self._lock:
            self._places.update((row.key, _Place(x, index)) for index, row in enumerate(step.rows))
        return execution_s

    def take(self, rows: Sequence[Row]) -> Floats:
        """Move rows to the host, in one transfer, and forget them."""
        with self._guarded():
            host: Floats = self._gather(rows).to("cpu", torch.float32).numpy()
        for row in rows:
            self.drop(row)
        return host

    def drop(self, row: Row) -> None:
        """Forget a row's activation."""
        with self._lock:
            self._places.pop(row.key, None)

    def memory(self) -> dict[str, int]:
        """Bytes: ``weights`` and ``activations`` (each storage once), ``process`` (resident set of this process).

        On CUDA also ``device_reserved``: what torch's allocator holds of the device, its cache included.
        """
        with self._lock:
            modules = [parts for _, parts in self._slices.values()]
            batches = {id(place.batch): place.batch for place in self._places.values()}
        weights = [tensor for parts in modules for tensor in (*parts.parameters(), *parts.buffers())]
        sizes = {
            "weights": storage_bytes(weights),
            "activations": storage_bytes(batches.values()),
            "process": resident_set_bytes(),
        }
        if self._device.type == "cuda":
            sizes["device_reserved"] = torch.cuda.memory_reserved(self._device)
        return sizes

    def _gather(self, rows: Sequence[Row]) -> Tensor:
        """The rows' activations as one batch: without a copy where they lie side by side in order."""
        places = [self._places[row.key] for row in rows]
        batch, start = places[0]
        if all(place.batch is batch and place.position == start + i for i, place in enumerate(places)):
            return batch if len(places) == batch.shape[0] else batch[start : start + len(places)]
        return torch.stack([place.batch[place.position] for place in places])

    def _now_s(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        on_cuda = self._device.type == "cuda"
        with in_our_words(self.name, lambda: on_cuda and device_lost(self._device)), torch.inference_mode():
            yield


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
    path = CUDA_EXECUTOR if name == "torch" and torch.device(device).type == "cuda" else EXECUTORS.get(name, name)
    executor_class: Any = load_object(path, "executor")
    arguments: dict[str, Any] = {"device": device, "threads": threads}
    try:
        inspect.signature(executor_class).bind(**arguments, **dict(options or {}))
    except TypeError as error:
        raise ConfigError(f"executor {name!r} with options {dict(options or {})}: {error}") from None
    return cast(Executor, executor_class(**arguments, **dict(options or {})))


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


def parts_on(
    model: str, weights: str, resident: Resident, sliced: Sliced, device: torch.device, dtype: torch.dtype | None
) -> nn.ModuleList:
    """The resident slices as modules in eval mode; those of `sliced` itself where neither device nor dtype differ.

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
        parts = copy.deepcopy(parts).to(device, dtype)
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
