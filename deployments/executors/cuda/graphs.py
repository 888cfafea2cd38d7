"""CUDA graphs of single slices: one per weights, slice and batch size, from fixed memory to fixed memory.

A span of several slices is a chain of them: what slice i writes is where slice i + 1 reads, so nothing is copied in
between, and L slices need L graphs per batch size instead of one for each of the L * (L + 1) / 2 spans.

A graph's own memory is shared with all others, so its result must leave it: the addition that most transformer blocks
end with writes straight to the target (`_Additions`); other results are copied there as the graph's last node.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from deployments.executors.cuda.gpu import Gpu
from slicer.core.common.error_text import named_line

logger = logging.getLogger("headtail.executor")

Mode = Literal["auto", "on", "off"]

#: model, weights, slice
Key = tuple[str, str, int]

#: In mode auto a graph and eager execution are each timed so often; the fastest counts.
_TIMES = 5


@dataclass(frozen=True, slots=True)
class _Captured:
    replay: Callable[[], None]
    graph_s: float
    eager_s: float


class Graphs:
    """The graphs of one executor. Under `Gpu.compute`, on one thread.

    Args:
        mode: ``off``: none; ``on``: whatever can be captured is run so; ``auto``: where that measures faster.
        direct: let additions write to the target. Not for compiled modules: torch would run them uncompiled then.

    Attributes:
        notes: what could not be captured, and why, for people.
    """

    def __init__(self, gpu: Gpu, mode: Mode, direct: bool = True) -> None:
        self._gpu, self._mode, self._direct = gpu, mode, direct
        self._captured: dict[tuple[Key, int], _Captured | None] = {}
        self._hopeless: set[Key] = set()
        self.notes: list[str] = []

    def hopeless(self, key: Key) -> bool:
        """Whether this slice runs eager whatever the batch size."""
        return self._mode == "off" or key in self._hopeless

    def known(self, key: Key, size: int) -> bool:
        """Whether there is nothing to capture any more, be it that it is done or that it cannot be done."""
        return self.hopeless(key) or (key, size) in self._captured

    def replay(self, key: Key, size: int) -> Callable[[], None] | None:
        """What runs the slice on a batch padded to `size`; None: eager is better, or all there is.

        Better is what measured faster at this very size. That fewer rows would take less time eager is no reason: the
        host would be busy launching kernels, and those for a shape that has never run are chosen, and compiled, first.
        """
        captured = self._captured.get((key, size))
        if captured is None or (self._mode == "auto" and captured.graph_s > captured.eager_s):
            return None
        return captured.replay

    def capture(self, key: Key, size: int, part: nn.Module, source: Tensor, target: Tensor) -> None:
        """Capture ``target = part(source)``. What is in `target` is lost; `source` stays.

        A slice that cannot be captured is noted and left to eager execution; this raises nothing but what ends the
        accelerator.
        """
        try:
            part(source)  # kernels are chosen, and compiled, at the first time
            with self._gpu.forbid_syncs():
                part(source)
            body = self._body(part, source, target)
            replay = self._gpu.capture(body)
        except Exception as error:
            reason = named_line(error)
            if _is_out_of_memory(error):
                self._note(key, f"no memory for a graph at batch size {size} ({reason})")
                self._captured[key, size] = None
            elif self._gpu.lost():
                raise
            else:
                self.give_up(key, f"it cannot be captured as a CUDA graph ({reason})")
            return
        graph_s = eager_s = 0.0
        if self._mode == "auto":
            eager_s, graph_s = self._time(lambda: part(source)), self._time(replay)
        self._captured[key, size] = _Captured(replay, graph_s, eager_s)

    def chosen(self) -> dict[str, str]:
        """Per slice and batch size ``graph`` or ``eager``, with what was measured, for reports."""
        return {
            f"{model}/{weights} slice {index} batch {size}": "eager"
            if captured is None or (self._mode == "auto" and captured.graph_s > captured.eager_s)
            else f"graph ({captured.graph_s * 1e6:.0f} us, eager {captured.eager_s * 1e6:.0f} us)"
            for ((model, weights, index), size), captured in self._captured.items()
        }

    def _body(self, part: nn.Module, source: Tensor, target: Tensor) -> Callable[[], None]:
        number = _result_is_addition(part, source, target) if self._direct else None

        def add_into() -> None:
            with _Additions(number, target):
                part(source)

        def copy_into() -> None:
            target.copy_(part(source))

        return copy_into if number is None else add_into

    def _time(self, run: Callable[[], object]) -> float:
        times_s = []
        for _ in range(_TIMES):
            began = self._gpu.record()
            run()
            ended = self._gpu.record()
            self._gpu.synchronize(ended)
            times_s.append(self._gpu.seconds(began, ended))
        return min(times_s)

    def give_up(self, key: Key, why: str) -> None:
        """This slice runs eager from now on."""
        self._hopeless.add(key)
        self._note(key, why)

    def _note(self, key: Key, why: str) -> None:
        model, weights, index = key
        self.notes.append(f"slice {index} of {model} ({weights}) runs eager: {why}")
        logger.warning(self.notes[-1])


class _Additions(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the additions of tensors that run inside; the one with this number writes its sum into `target`."""

    def __init__(self, number: int | None = None, target: Tensor | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._number, self._target = number, target
        self.count = 0
        self.last: Tensor | None = None

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is not torch.ops.aten.add.Tensor:
            return func(*args, **kwargs)
        redirected = self.count == self._number
        result = torch.add(*args, **kwargs, out=self._target) if redirected else func(*args, **kwargs)
        self.count, self.last = self.count + 1, result
        return result


def _result_is_addition(part: nn.Module, source: Tensor, target: Tensor) -> int | None:
    """The number of the addition whose sum is the result, if it may as well be written to the target; else None."""
    try:
        with _Additions() as watched:
            plain = part(source)
        if plain is not watched.last or plain.shape != target.shape or plain.dtype != target.dtype:
            return None
        with _Additions(watched.count - 1, target):
            part(source)
        return watched.count - 1 if torch.equal(plain, target) else None
    except torch.OutOfMemoryError:
        raise
    except Exception:  # a compiled module, an operation that does not go along: the copy does
        return None


def _is_out_of_memory(error: BaseException | None) -> bool:
    """A capture that fails half-way may raise something else on its way out."""
    while error is not None:
        if isinstance(error, torch.OutOfMemoryError):
            return True
        error = error.__cause__ or error.__context__
    return False


class Compiled(nn.Module):
    """A slice by torch.compile, and as it is from the first time on that this fails."""

    def __init__(self, plain: nn.Module, notes: list[str]) -> None:
        super().__init__()
        self._plain, self._notes = plain, notes
        self._fast: Any = torch.compile(plain)

    def forward(self, x: Tensor) -> Tensor:
        """The slice."""
        result: Tensor
        if self._fast is not None:
            try:
                result = self._fast(x)
                return result
            except torch.OutOfMemoryError:
                raise
            except Exception as error:
                failure = error
        result = self._plain(x)  # where this raises, too, it is not the compiler's fault
        if self._fast is not None:
            self._fast = None
            self._notes.append(f"torch.compile failed, a slice runs without: {type(failure).__name__}: {failure}")
            logger.warning(self._notes[-1])
        return result
