"""What runs a step: the real accelerator behind one small interface. Torch is not imported here.

An executor owns the weights and the activations. Rows are moved to the accelerator once, by `put`, and stay there until
`take` or `drop`; in between only `run` touches them. So how activations are kept (torch's: in the batches that produced
them) is the executor's own affair.

All methods but `memory` and `receiving` belong to one thread, the engine's. `load` may run on another one before the
engine starts.
"""

from __future__ import annotations

import mmap
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from deployments.scheduling.scheduler import Resident, Row, Step

if TYPE_CHECKING:
    from torch import nn

Floats = npt.NDArray[np.float32]

#: Activations as they were sent: float32, or float16, which takes the model's dtype where it is computed.
ReceivedBatch = npt.NDArray[np.floating[Any]]


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

    def shape_at(self, cut: int, /) -> tuple[int, ...] | None:
        """Shape of one row's activation at a cut; None: nobody knows before a row comes."""
        return None


class Executor(Protocol):
    """Runs steps. One executor serves all models of one accelerator. An own one derives from it.

    A configuration names it as ``executor: package.module:Class``, and it is called with ``device``, ``threads`` and
    the ``executor_options``. What it offers beside running steps has defaults: see the attributes, and `receiving`.

    Attributes:
        name: what runs the steps, for reports: ``cpu``, ``cuda``, ...
        emulated: which part is emulated, for every result that is printed; None: all is real.
        padded: whether a step may cost as much as the next larger batch size does.
        notes: what a person should know, such as what runs slower than it was meant to.

    One whose slices double their input, without weights:

    >>> import numpy as np
    >>> from deployments.executors import Executor
    >>> from deployments.scheduling import Row, Step
    >>> class Doubling(Executor):
    ...     name = "doubling"
    ...     def load(self, model, sliced, residents):
    ...         self.at = {}
    ...     def put(self, model, rows, batch):
    ...         self.at.update((row.key, batch[i]) for i, row in enumerate(rows))
    ...     def run(self, step):
    ...         for row in step.rows:
    ...             self.at[row.key] = self.at[row.key] * 2.0 ** (step.end - step.start)
    ...         return 0.001
    ...     def take(self, rows):
    ...         return np.stack([self.at.pop(row.key) for row in rows])
    ...     def drop(self, row):
    ...         self.at.pop(row.key, None)
    ...     def memory(self):
    ...         return {"weights": 0, "activations": 0, "process": 0}
    >>> executor, row = Doubling(), Row(key=0, model="m", entry=1, arrival_s=0.0)
    >>> executor.load("m", None, {})
    >>> batch = executor.receiving((1, 2))
    >>> batch[:] = 3
    >>> executor.put("m", [row], batch)
    >>> executor.run(Step("m", "shared", start=1, end=4, rows=(row,)))
    0.001
    >>> executor.take([row])
    array([[24., 24.]], dtype=float32)
    >>> executor.padded, executor.notes, executor.emulated
    (False, (), None)
    """

    name: str
    emulated: str | None = None
    padded: bool = False
    notes: Sequence[str] = ()

    @abstractmethod
    def load(self, model: str, sliced: Sliced, residents: Mapping[str, Resident]) -> None:
        """Make the weights resident that the model's steps will name."""

    def receiving(self, shape: Sequence[int], dtype: npt.DTypeLike = np.float32) -> npt.NDArray[Any]:
        """Memory for a batch that is to be put, float32 or float16; its content is arbitrary. Any thread.

        By default ordinary memory. It is not to fail for want of a better kind.
        """
        return np.empty(shape, dtype)

    def pin(self, memory: mmap.mmap) -> None:
        """Rows will be put that lie in this memory, which another process writes; by default nothing is done.

        On the engine's thread, while it serves. It is not to fail for want of a better kind.
        """
        return

    def unpin(self, memory: mmap.mmap) -> None:
        """No row lies there any more."""
        return

    @abstractmethod
    def put(self, model: str, rows: Sequence[Row], batch: ReceivedBatch) -> None:
        """Move new rows of one entry to the accelerator, all at once; ``batch`` is [rows, *shape],
        float16 or float32, shape [tokens, channels], [channels, height, width], ...; ``batch[i]`` is ``rows[i]``'s.

        Raises:
            OutOfMemory: they do not fit; none of them has been moved.
        """

    @abstractmethod
    def run(self, step: Step) -> float:
        """Run slices ``step.start:step.end`` on the step's rows; their activations are then those at ``step.end``.

        Returns the seconds of execution on the accelerator. If it raises, the rows' activations are as before.

        Raises:
            OutOfMemory: a smaller batch may do.
            AcceleratorLost: nothing will run any more.
        """

    @abstractmethod
    def take(self, rows: Sequence[Row]) -> Floats:
        """Hand over the activations of rows of one step, float32 on the host, ``[len(rows), ...]``, and forget them."""

    @abstractmethod
    def drop(self, row: Row) -> None:
        """Forget a row; one that is not here is no error."""

    @abstractmethod
    def memory(self) -> dict[str, int]:
        """Bytes of ``weights``, ``activations`` and the whole ``process``. From any thread."""
