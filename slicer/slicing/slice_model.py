"""Slice a model: one generic trace, cut where exactly one tensor crosses. No model's forward is copied anywhere.

>>> model = slice_model("vit_tiny_patch16_224", num_slices=4)
>>> head, tail = model.head(1), model.tail(1)    # tail(head(x)) equals model.module(x), bit for bit
"""

from __future__ import annotations

import contextlib
import operator
import os
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from torch import nn

from slicer.core.shards.spec import ModelSpec
from slicer.errors import CutError, ModelError, NotSliceable
from slicer.models import zoo
from slicer.models.checkpoints import load_checkpoint
from slicer.models.data_config import data_config
from slicer.models.numbers import sizes, whole
from slicer.models.weights import convert, refuse_not_finite
from slicer.slicing import verification
from slicer.slicing.boundaries import Boundary, find_crossings
from slicer.slicing.partition import choose, named
from slicer.slicing.sliced_model import SlicedModel, SliceInfo, SpanTensor
from slicer.slicing.verification import Verify
from slicer.tracing.module_state import snapshot
from slicer.tracing.plain_module import must_be_plain
from slicer.tracing.tensors import named_tensors
from slicer.tracing.traced_graph import Traced, takes, trace
from slicer.tracing.value_tracer import Read

__all__ = ["Boundary", "SliceInfo", "SlicedModel", "SpanTensor", "slice_model", "slice_module", "slice_spec"]

NumSlices = int | Literal["all"]


def slice_model(
    name_or_module: str | os.PathLike[str] | nn.Module,
    num_slices: NumSlices = 4,
    *,
    at: Sequence[str | int] | None = None,
    pretrained: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_key: str | None = None,
    input_shape: Sequence[int] | None = None,
    dtype: str | None = None,
    seed: int | None = None,
    verify: Verify = True,
    **timm_kwargs: Any,
) -> SlicedModel:
    """Slice a model of timm, a demo model, a model file, or an own module.

    Args:
        name_or_module: what `slicer.models.zoo.resolve` understands, or a module (put into eval mode, gradients off).
        num_slices: balanced by FLOPs; "all" cuts at every boundary.
        at: cut here instead: names of boundaries, or numbers of blocks ("cut after block i"), in order.
        pretrained: timm's pretrained weights.
        checkpoint: a file with the weights (.safetensors, .pth, .ckpt, ...).
        checkpoint_key: where in that file they lie (`slicer.core.shards.spec.ModelSpec`).
        input_shape: of one input, without the batch dimension; None: what the model says, else 3x224x224.
        dtype: fp32, fp16 or bf16; None: as the model is.
        seed: of random weights.
        verify: refuse the model unless its slices give its result, bit for bit, and each row of a batch is its own,
            on inputs of unlike kinds (eight forward passes of an image); "quick": on one image beside a row of NaN
            (four). False: nothing is run, unless the model reads its own weights.
        timm_kwargs: for timm's create_model, such as img_size, num_classes, drop_path_rate.

    Raises:
        ModelError: the model is unknown or cannot be built; as NotSliceable: it offers no boundary, and why.
        CutError: num_slices or `at` does not fit the model.
    """
    if not isinstance(name_or_module, nn.Module):
        spec = zoo.resolve(
            name_or_module,
            kwargs=timm_kwargs,
            checkpoint=checkpoint,
            checkpoint_key=checkpoint_key,
            pretrained=pretrained,
            dtype=dtype,
            seed=seed,
        )
        return slice_spec(spec, num_slices, at, input_shape=input_shape, verify=verify)
    module = name_or_module
    must_be_plain(module)
    if pretrained or timm_kwargs or seed is not None:
        given = ", ".join([*timm_kwargs, *(["pretrained"] * pretrained), *(["seed"] * (seed is not None))])
        raise ModelError(f"{given} cannot be applied to a module that is built already; build it with them")
    if checkpoint_key is not None and checkpoint is None:
        raise ModelError(f"checkpoint_key {checkpoint_key!r} is for a checkpoint; give checkpoint=FILE")
    with torch.inference_mode(False):  # the caller may be inside of it; what is made there cannot be traced
        if checkpoint is not None:
            load_checkpoint(module, str(checkpoint), checkpoint_key)
        if dtype is not None:
            convert(module, dtype)
        shape = _shape_of(module) if input_shape is None else input_shape
    return slice_module(module, num_slices, at=at, input_shape=shape, verify=verify)


def slice_spec(
    spec: ModelSpec,
    num_slices: NumSlices = 4,
    at: Sequence[str | int] | None = None,
    *,
    input_shape: Sequence[int] | None = None,
    verify: Verify = True,
) -> SlicedModel:
    """Build what `spec` says and slice it; arguments and errors as for `slice_model`.

    The model has as many classes as its checkpoint, where nobody says how many (`zoo.build_for_weights`).
    """
    num_slices, at = _checked_cuts(num_slices, at)  # before anything is built
    shape = data_config(spec)["input_size"] if input_shape is None else _checked_shape(input_shape)
    module, spec = zoo.build_for_weights(spec)
    return slice_module(module, num_slices, at=at, input_shape=shape, spec=spec, verify=verify)


def slice_module(
    module: nn.Module,
    num_slices: NumSlices = 4,
    *,
    at: Sequence[str | int] | None = None,
    input_shape: Sequence[int],
    spec: ModelSpec | None = None,
    verify: Verify = True,
    reads: Sequence[Read] | None = None,
) -> SlicedModel:
    """Slice a built module, also one on the meta device, whose boundaries and graph are the same as with weights.

    Puts `module` into eval mode and switches its gradients off. Arguments and errors as for `slice_model`; on meta
    nothing can be verified. `reads`: the numbers that its forward reads out of weights, for a module without these.
    """
    num_slices, at = _checked_cuts(num_slices, at)
    input_shape = _checked_shape(input_shape)
    must_be_plain(module)
    with torch.inference_mode(False):
        module.eval().requires_grad_(False)
        refuse_not_finite(module)
        restore = snapshot(module)
        try:
            return _sliced(module, num_slices, at, input_shape, spec, verify, reads)
        except Exception:
            restore()
            raise


def _sliced(
    module: nn.Module,
    num_slices: NumSlices,
    at: Sequence[str | int] | None,
    input_shape: tuple[int, ...],
    spec: ModelSpec | None,
    verify: Verify,
    reads: Sequence[Read] | None,
) -> SlicedModel:
    dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
    traced = trace(module, input_shape, dtype, reads)
    crossings = find_crossings(module, traced)
    if len(crossings) < 2:
        raise NotSliceable(f"{type(module).__name__} offers no boundary: {_because(module, traced)}")
    boundaries = tuple(crossing.boundary for crossing in crossings[:-1])
    total = crossings[-1].boundary.flops
    cuts = choose(boundaries, total, num_slices) if at is None else named(boundaries, at)
    sliced = SlicedModel(module, traced, crossings, cuts, dtype, spec)
    if verify and not any(tensor.is_meta for tensor in named_tensors(module).values()):
        verification.verify(sliced, quick=verify == "quick")
    return sliced


def _checked_shape(value: Any) -> tuple[int, ...]:
    """The shape of one input as plain integers; ModelError for anything else."""
    count = len(value) if isinstance(value, Sequence) and value else 1
    return sizes(value, count, "input_shape", "the sizes of one input without the batch, such as (3, 224, 224)")


def _checked_cuts(num_slices: Any, at: Any) -> tuple[NumSlices, list[str | int] | None]:
    """Both as plain values, numpy's integers included; CutError for another kind."""
    if isinstance(num_slices, str) and num_slices == "all":
        count: NumSlices = "all"
    elif whole(num_slices):
        count = operator.index(num_slices)
    else:
        raise CutError(f"num_slices {num_slices!r}: give a whole number, or 'all'")
    if at is None:
        return count, None
    if isinstance(at, str) or not isinstance(at, Iterable):
        raise CutError(f"at={at!r}: give a list of boundaries' names or blocks' numbers, such as [2, 5]")
    places = [operator.index(place) if whole(place) else place for place in at]
    if wrong := [place for place in places if not isinstance(place, str | int) or isinstance(place, bool)]:
        raise CutError(f"at={wrong[0]!r}: give the name of a boundary or the number of a block")
    return count, places


def _because(module: nn.Module, traced: Traced) -> str:
    called = {str(node.target) for node in traced.nodes if node in traced.data and node.op == "call_module"}
    data_nodes = [node for node in traced.data if node.op != "placeholder"]
    if len(called) == 1 and len(data_nodes) <= 2:
        (path,) = called
        kind = type(module.get_submodule(path)).__name__
        said = f"all of it is one unit, its {path} ({kind}), which holds no list of blocks that could be recorded"
    else:
        said = "between its units always more than one tensor is alive, or one without a row per image"
    return said + "".join(f"; {path} is one unit, because: {reason}" for path, reason in traced.failures.items())


def _shape_of(module: nn.Module) -> tuple[int, ...]:
    """Shape of one input, as the module says by itself (timm's models do); else ImageNet's.

    What a model's config says may be outdated by options such as img_size and in_chans, which its parts tell.
    """
    if (own := getattr(module, "input_shape", None)) is not None:
        return tuple(int(size) for size in own)
    wrapped = [part for part in module.modules() if getattr(part, "pretrained_cfg", None)]
    model = wrapped[0] if wrapped else module
    config = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None) or {}
    channels, height, width = config.get("input_size") or (3, 224, 224)
    embed = getattr(model, "patch_embed", None)
    height, width = getattr(embed, "img_size", None) or (height, width)
    first: Any = next((part for part in model.modules() if isinstance(part, nn.Conv2d)), None)
    if isinstance(config.get("first_conv"), str):
        with contextlib.suppress(AttributeError):
            first = model.get_submodule(config["first_conv"])
    said, other = (int(channels), int(height), int(width)), getattr(first, "in_channels", channels)
    # Built for other channels (in_chans), or the first layer gathers pixels into channels before its convolution.
    return said if other == channels or takes(module, said) else (int(other), *said[1:])
