"""Which axis of an activation holds the channels: what the layers on both sides of a boundary say of it.

int8 and int4 share a scale over a channel, so the axis decides over their accuracy, and a shape does not tell it: a
convolution leaves [C, H, W], Swin [H, W, C]. It is found once, where a model is exported, and stands in the manifest.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from slicer.codecs.integer import measured_axis
from slicer.slicing.sliced_model import SlicedModel
from slicer.tracing.tensors import named_tensors

#: By shape, without the batch dimension: an axis, 0 or -1.
_Axes = dict[tuple[int, ...], int]

_FIRST = (nn.modules.conv._ConvNd, nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.modules.instancenorm._InstanceNorm)


def channel_axes(sliced: SlicedModel) -> tuple[int, ...]:
    """Of the activation at each cut 0..n, without the batch dimension: 0, or its last axis.

    One image of noise runs through the slices. The first layer behind the boundary that takes the activation itself
    decides, else the last one before it that made a tensor of its shape; where neither knows channels, the axis along
    which peaks differ most. Deterministic; needs the weights.
    """
    device = next((tensor.device for tensor in named_tensors(sliced.module).values()), torch.device("cpu"))
    image = torch.randn((1, *sliced.input_shape), generator=torch.Generator().manual_seed(0))
    value = image.to(device, sliced.input_dtype)
    activations: list[torch.Tensor] = [value]
    made: list[_Axes] = [{}]
    taken: list[_Axes] = []
    with torch.inference_mode():
        for index in range(sliced.num_slices):
            with _watched(sliced.module) as (inputs, outputs):
                value = sliced.span(index, index + 1)(value)
            activations.append(value)
            taken.append(inputs)
            made.append(outputs)
    taken.append({})
    return tuple(_axis(activation, taken[cut], made[cut]) for cut, activation in enumerate(activations))


def _axis(activation: torch.Tensor, taken: _Axes, made: _Axes) -> int:
    shape = tuple(activation.shape[1:])
    if len(shape) < 2:
        return 0
    found = taken.get(shape, made.get(shape))
    return measured_axis(activation[0].float().cpu().numpy()) if found is None else found % len(shape)


@contextmanager
def _watched(module: nn.Module) -> Iterator[tuple[_Axes, _Axes]]:
    """In the block: by shape, the axis of the first layer that took such a tensor, and of the last that made one."""
    inputs: _Axes = {}
    outputs: _Axes = {}

    def hook(layer: nn.Module, args: Any, result: Any) -> None:
        axis = _channels_of(layer)
        assert axis is not None, "only layers that know their channels are watched"
        if args and isinstance(args[0], torch.Tensor):
            inputs.setdefault(tuple(args[0].shape[1:]), axis)
        if isinstance(result, torch.Tensor):
            outputs[tuple(result.shape[1:])] = axis

    layers = [part for part in module.modules() if _channels_of(part) is not None]
    handles = [layer.register_forward_hook(hook) for layer in layers]
    try:
        yield inputs, outputs
    finally:
        for handle in handles:
            handle.remove()


def _channels_of(layer: nn.Module) -> int | None:
    """The axis of the channels that a layer works on, 0 or -1, without the batch dimension; None: it knows none."""
    if isinstance(layer, _FIRST) or type(layer).__name__.endswith("Norm2d"):  # timm's LayerNorm2d is a LayerNorm, too
        return 0
    return -1 if isinstance(layer, (nn.Linear, nn.LayerNorm)) or type(layer).__name__.endswith("RmsNorm") else None
