"""A model in slices: its boundaries and cuts, and any span of it as a module."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, SupportsIndex

import torch
from torch import nn

from slicer.core.protocol.outputs import LOGITS, packed
from slicer.core.shards.spec import ModelSpec
from slicer.errors import CutError
from slicer.models.outputs import has_outputs, outputs_of
from slicer.slicing.boundaries import Boundary, Crossing
from slicer.slicing.program import program
from slicer.tracing.tensors import named_tensors
from slicer.tracing.traced_graph import Traced, build_span

TensorKind = Literal["parameter", "buffer", "derived"]


@dataclass(frozen=True)
class SliceInfo:
    """One slice in numbers.

    Attributes:
        index: 0-based; slice `index` is ``span(index, index + 1)``.
        units: names of its units, in the order they run.
        parameters: how many numbers it learns; a parameter that several slices need counts in each.
        weight_bytes: of its parameters and all its buffers.
        flops: of one row; matmul, convolution and attention, a multiply-add is two.
        shape: of the activation that leaves it, without the batch dimension.
        dtype: of that activation, torch's name.
    """

    index: int
    units: tuple[str, ...]
    parameters: int
    weight_bytes: int
    flops: float
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class SpanTensor:
    """A tensor that a span needs.

    Attributes:
        kind: "parameter" and "buffer" stand in the model's state_dict; "derived" does not (a non-persistent buffer or a
            plain attribute): whoever builds a span on meta must bring it along.
        tensor: the model's own.
    """

    kind: TensorKind
    tensor: torch.Tensor


class SlicedModel:
    """A model in slices S1..Sn. Made by `slice_model`, `slice_spec` and `slice_module`; immutable.

    Spans are ordinary modules in eval mode that share the model's weights: moving or casting one in place changes the
    model (copy.deepcopy it before). Their state_dict keys are the model's own. Run them under torch.inference_mode().
    All methods may be called from several threads at once.

    Attributes:
        spec: how to build the model again; None for a module that the caller built.
        module: the unsliced model.
        boundaries: all places where it could be cut, in order.
        cuts: the n - 1 boundaries where it is cut.
        slices: the n slices in numbers.
        input_shape: of one input, without the batch dimension.
        input_dtype: of the input.
        programs: what each slice does, line by line (`slicer.slicing.program`).
        outputs: what a row that leaves the last slice holds; more than `LOGITS` only where the spec says so, and then
            that row is flat (`slicer.core.protocol.outputs`).
        reads: the numbers that the model's forward read out of its weights while it was traced.
        shared_names: state_dict keys that more than one slice holds (tied weights, or an embedding that each slice adds
            again); empty for most models, whose heads and tails then have disjoint keys.
    """

    def __init__(
        self,
        module: nn.Module,
        traced: Traced,
        crossings: Sequence[Crossing],
        cuts: Sequence[Boundary],
        input_dtype: torch.dtype,
        spec: ModelSpec | None,
    ) -> None:
        self.spec = spec
        self.module = module
        self.boundaries: tuple[Boundary, ...] = tuple(crossing.boundary for crossing in crossings[:-1])
        self.cuts: tuple[Boundary, ...] = tuple(cuts)
        self.input_shape = traced.input_shape
        self.input_dtype = input_dtype
        self._traced = traced
        self._crossings = tuple(crossings)
        # _ends[k]: how many crossings lie in the first k slices.
        self._ends = [0, *(cut.index + 1 for cut in cuts), len(crossings)]
        self._state_names = {*dict(module.named_parameters(remove_duplicate=False))}, {*module.state_dict()}
        # Before anything runs: some units remember the shapes that they have seen.
        self.programs = tuple(tuple(program(self.span(index, index + 1), module)) for index in range(self.num_slices))
        self.reads = traced.reads
        self.outputs = (
            outputs_of(module, self.input_shape)
            if has_outputs(module)
            else packed([(LOGITS, self.shape_at(self.num_slices))])
        )
        tensors = [self.tensors(index, index + 1) for index in range(self.num_slices)]
        self.slices: tuple[SliceInfo, ...] = tuple(
            self._describe(index, tensors[index]) for index in range(len(tensors))
        )
        self.shared_names: tuple[str, ...] = _in_several(tensors)

    @property
    def num_slices(self) -> int:
        """n; cuts are 0..n."""
        return len(self.cuts) + 1

    @property
    def kept_whole(self) -> dict[str, str]:
        """Containers that are one unit because their inside cannot be recorded, and why."""
        return dict(self._traced.failures)

    def shape_at(self, cut: int) -> tuple[int, ...]:
        """Shape of the activation at `cut`, without the batch dimension; 0: the input, n: the output."""
        self._check(cut, "cut")
        return self.input_shape if cut == 0 else self._crossings[self._ends[cut] - 1].boundary.shape

    def head(self, cut: int) -> nn.Module:
        """S1..S`cut`, what a device runs; ``head(0)`` passes its input on."""
        self._check(cut, "cut")
        return self.span(0, cut)

    def tail(self, cut: int) -> nn.Module:
        """S(`cut`+1)..Sn, what the server runs; ``tail(n)`` passes its input on."""
        self._check(cut, "cut")
        return self.span(cut, self.num_slices)

    def span(self, start: int, end: int) -> nn.Module:
        """Slices ``start:end``, half-open; a new module each time, with the model's weights.

        Its input and output have shape (batch, *shape_at(start)) and (batch, *shape_at(end)), any batch size.

        Raises:
            CutError: not 0 <= start <= end <= num_slices.
        """
        self._check(start, "start")
        self._check(end, "end")
        if start > end:
            raise CutError(f"span {start}:{end} ends before it starts; give start <= end")
        if start == end:
            return nn.Identity().eval()
        first, last = self._ends[start], self._ends[end]
        source = self._traced.nodes[0] if first == 0 else self._crossings[first - 1].node
        body = [node for crossing in self._crossings[first:last] for node in crossing.body]
        return build_span(self.module, self._traced, source, body, self._crossings[last - 1].node)

    def tensors(self, start: int, end: int) -> dict[str, SpanTensor]:
        """All tensors that slices ``start:end`` need, by their path in the model (and in the span)."""
        parameters, state = self._state_names
        return {
            name: SpanTensor("parameter" if name in parameters else "buffer" if name in state else "derived", tensor)
            for name, tensor in named_tensors(self.span(start, end)).items()
        }

    def _check(self, cut: int, what: str) -> None:
        # numpy's integers have an __index__, too
        if isinstance(cut, bool) or not isinstance(cut, SupportsIndex) or not 0 <= cut.__index__() <= self.num_slices:
            raise CutError(
                f"{what} {cut!r} is none of this model's cuts; with {self.num_slices} slices they are 0 to "
                f"{self.num_slices}"
            )

    def _describe(self, index: int, tensors: Mapping[str, SpanTensor]) -> SliceInfo:
        first, last = self._ends[index], self._ends[index + 1]
        end = self._crossings[last - 1].boundary
        unique = {id(entry.tensor): entry for entry in tensors.values()}.values()
        return SliceInfo(
            index=index,
            units=tuple(crossing.boundary.name for crossing in self._crossings[first:last]),
            parameters=sum(entry.tensor.numel() for entry in unique if entry.kind == "parameter"),
            weight_bytes=sum(entry.tensor.numel() * entry.tensor.element_size() for entry in unique),
            flops=end.flops - (self._crossings[first - 1].boundary.flops if first else 0.0),
            shape=end.shape,
            dtype=end.dtype,
        )


def _in_several(slices: Sequence[Mapping[str, SpanTensor]]) -> tuple[str, ...]:
    """state_dict keys that more than one of the slices holds."""
    holders = Counter(name for tensors in slices for name, entry in tensors.items() if entry.kind != "derived")
    return tuple(sorted(name for name, count in holders.items() if count > 1))
