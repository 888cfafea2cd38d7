"""Slice a model: one generic trace, cut where exactly one tensor crosses. No model's forward is copied anywhere.

>>> model = slice_model("vit_tiny_patch16_224", num_slices=4)
>>> head, tail = model.head(1), model.tail(1)    # tail(head(x)) equals model.module(x), bit for bit
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from slicer.boundaries import Boundary, Crossing, find_crossings
from slicer.errors import CutError, ModelError, NotSliceable
from slicer.graph import Traced, build_span, trace
from slicer.partition import choose, named
from slicer.spec import ModelSpec
from slicer.tracer import named_tensors

NumSlices = int | Literal["all"]
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
        if isinstance(cut, bool) or not isinstance(cut, int) or not 0 <= cut <= self.num_slices:
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


def slice_model(
    name_or_module: str | nn.Module,
    num_slices: NumSlices = 4,
    *,
    at: Sequence[str | int] | None = None,
    pretrained: bool = False,
    checkpoint: str | None = None,
    input_shape: Sequence[int] | None = None,
    dtype: str | None = None,
    seed: int | None = None,
    verify: bool = True,
    **timm_kwargs: Any,
) -> SlicedModel:
    """Slice a model of timm, a demo model, a model file, or an own module.

    Args:
        name_or_module: what `slicer.zoo.resolve` understands, or a module (put into eval mode, gradients off).
        num_slices: balanced by FLOPs; "all" cuts at every boundary.
        at: cut here instead: names of boundaries, or numbers of blocks ("cut after block i"), in order.
        pretrained: timm's pretrained weights.
        checkpoint: a .safetensors or .pth file.
        input_shape: of one input, without the batch dimension; None: what the model says, else 3x224x224.
        dtype: fp32, fp16 or bf16; None: as the model is.
        seed: of random weights.
        verify: run the model once, whole and in slices, and refuse it unless the results are equal, bit for bit.
        timm_kwargs: for timm's create_model, such as img_size, num_classes, drop_path_rate.

    Raises:
        ModelError: the model is unknown or cannot be built; as NotSliceable: it offers no boundary, and why.
        CutError: num_slices or `at` does not fit the model.
    """
    if isinstance(name_or_module, str):
        from slicer import zoo

        spec = zoo.resolve(
            name_or_module, kwargs=timm_kwargs, checkpoint=checkpoint, pretrained=pretrained, dtype=dtype, seed=seed
        )
        return slice_spec(spec, num_slices, at, input_shape=input_shape, verify=verify)
    if pretrained or timm_kwargs or seed is not None:
        given = ", ".join([*timm_kwargs, *(["pretrained"] * pretrained), *(["seed"] * (seed is not None))])
        raise ModelError(f"{given} cannot be applied to a module that is built already; build it with them")
    if checkpoint is not None:
        from slicer.checkpoints import load_checkpoint

        load_checkpoint(name_or_module, checkpoint)
    if dtype is not None:
        from slicer.zoo import DTYPES

        if dtype not in DTYPES:
            raise ModelError(f"unknown dtype {dtype!r}; known are {', '.join(DTYPES)}")
        name_or_module.to(DTYPES[dtype])
    shape = _shape_of(name_or_module) if input_shape is None else tuple(input_shape)
    return slice_module(name_or_module, num_slices, at=at, input_shape=shape, verify=verify)


def slice_spec(
    spec: ModelSpec,
    num_slices: NumSlices = 4,
    at: Sequence[str | int] | None = None,
    *,
    input_shape: Sequence[int] | None = None,
    verify: bool = True,
) -> SlicedModel:
    """Build what `spec` says and slice it; arguments and errors as for `slice_model`."""
    from slicer import zoo

    shape = tuple(zoo.data_config(spec)["input_size"] if input_shape is None else input_shape)
    return slice_module(zoo.build(spec), num_slices, at=at, input_shape=shape, spec=spec, verify=verify)


def slice_module(
    module: nn.Module,
    num_slices: NumSlices = 4,
    *,
    at: Sequence[str | int] | None = None,
    input_shape: Sequence[int],
    spec: ModelSpec | None = None,
    verify: bool = True,
) -> SlicedModel:
    """Slice a built module, also one on the meta device, whose boundaries and graph are the same as with weights.

    Puts `module` into eval mode and switches its gradients off. Arguments and errors as for `slice_model`; on meta
    nothing can be verified.
    """
    module.eval().requires_grad_(False)
    dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
    traced = trace(module, tuple(input_shape), dtype)
    crossings = find_crossings(module, traced)
    if len(crossings) < 2:
        raise NotSliceable(
            f"{type(module).__name__} offers no boundary: between its units always more than one tensor is alive, "
            f"or one without a row per image{_because(traced)}"
        )
    boundaries = tuple(crossing.boundary for crossing in crossings[:-1])
    total = crossings[-1].boundary.flops
    cuts = choose(boundaries, total, num_slices) if at is None else named(boundaries, at)
    sliced = SlicedModel(module, traced, crossings, cuts, dtype, spec)
    if verify and not any(tensor.is_meta for tensor in named_tensors(module).values()):
        _verify(sliced)
    return sliced


def _because(traced: Traced) -> str:
    return "".join(f"; {path} is one unit, because: {reason}" for path, reason in traced.failures.items())


def _verify(sliced: SlicedModel) -> None:
    """Slices one after another must give the model's result, for a batch size that was not traced."""
    device = next((tensor.device for tensor in named_tensors(sliced.module).values()), torch.device("cpu"))
    example = torch.randn((1, *sliced.input_shape), generator=torch.Generator().manual_seed(1))
    value = example.to(device, sliced.input_dtype)
    with torch.inference_mode():
        try:
            whole = sliced.module(value.clone())
            for index in range(sliced.num_slices):
                value = sliced.span(index, index + 1)(value)
        except Exception as error:
            raise NotSliceable(
                f"{type(sliced.module).__name__} cannot be sliced: its slices failed on one image with "
                f"{type(error).__name__}: {error}"
            ) from error
    if value.shape != whole.shape or not torch.allclose(value, whole, rtol=0.0, atol=0.0, equal_nan=True):
        raise NotSliceable(
            f"{type(sliced.module).__name__} cannot be sliced: its slices, run one after another, give another result "
            "than the model; does its forward draw random numbers or keep state?"
        )


def _shape_of(module: nn.Module) -> tuple[int, ...]:
    """Shape of one input, as the module says by itself (timm's models do); else ImageNet's."""
    config = getattr(module, "pretrained_cfg", None) or {}
    embed = getattr(module, "patch_embed", None)
    channels, height, width = getattr(module, "input_shape", None) or config.get("input_size") or (3, 224, 224)
    height, width = getattr(embed, "img_size", None) or (height, width)
    channels = getattr(getattr(embed, "proj", None), "in_channels", channels)
    return (int(channels), int(height), int(width))
