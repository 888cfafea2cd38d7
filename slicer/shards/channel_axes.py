"""Which axis of an activation holds the channels: what the layers on both sides of a boundary say of it.

int8 and int4 share a scale over a channel, so the axis decides over their accuracy, and a shape does not tell it: a
convolution leaves [C, H, W], Swin [H, W, C]. It is found once, where a model is exported, and stands in the manifest.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from slicer.core.codecs.integer import measured_axis
from slicer.slicing.sliced_model import SlicedModel
from slicer.tracing.tensors import named_tensors

_Axes = dict[tuple[int, ...], int]


@dataclass
class _Said:
    """What the layers of one slice say, by shape without the batch dimension: an axis, 0 or -1.

    Attributes:
        sure: of convolutions and normalisations; the first that took such a tensor, and the last that made one.
        linear: of Linear layers, which work along the last axis, be it channels or tokens.
    """

    sure: tuple[_Axes, _Axes] = field(default_factory=lambda: ({}, {}))
    linear: tuple[_Axes, _Axes] = field(default_factory=lambda: ({}, {}))

    def hear(self, layer: nn.Module, args: Any, result: Any) -> None:
        """A forward hook."""
        axis = _channels_of(layer)
        assert axis is not None, "only layers that know their channels are watched"
        taken, made = self.linear if isinstance(layer, nn.Linear) else self.sure
        if args and isinstance(args[0], torch.Tensor):
            taken.setdefault(tuple(args[0].shape[1:]), axis)
        if isinstance(result, torch.Tensor):
            made[tuple(result.shape[1:])] = axis


_FIRST = (nn.modules.conv._ConvNd, nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.modules.instancenorm._InstanceNorm)


def channel_axes(sliced: SlicedModel) -> tuple[int, ...]:
    """Of the activation at each cut 0..n, without the batch dimension: 0, or its last axis.

    One image of noise runs through the slices. The nearest convolution or normalisation that takes a tensor of that
    shape behind the boundary decides, else the nearest that made one before it, as far as the shape stays the same;
    else a Linear, which may as well mix tokens; where none knows channels, the axis along which peaks differ most.
    Deterministic; needs the weights.
    """
    device = next((tensor.device for tensor in named_tensors(sliced.module).values()), torch.device("cpu"))
    image = torch.randn((1, *sliced.input_shape), generator=torch.Generator().manual_seed(0))
    value = image.to(device, sliced.input_dtype)
    activations: list[torch.Tensor] = [value]
    said: list[_Said] = []
    with torch.inference_mode():
        for index in range(sliced.num_slices):
            with _heard(sliced.module) as slice_said:
                value = sliced.span(index, index + 1)(value)
            activations.append(value)
            said.append(slice_said)
    shapes = [tuple(activation.shape[1:]) for activation in activations]
    return tuple(_axis(activations[cut], cut, shapes, said) for cut in range(len(shapes)))


def _axis(activation: torch.Tensor, cut: int, shapes: Sequence[tuple[int, ...]], said: Sequence[_Said]) -> int:
    shape = shapes[cut]
    if len(shape) < 2:
        return 0
    behind = list(itertools.takewhile(lambda index: shapes[index] == shape, range(cut, len(said))))
    before = list(itertools.takewhile(lambda index: shapes[index + 1] == shape, range(cut - 1, -1, -1)))
    sure = [said[index].sure[0] for index in behind] + [said[index].sure[1] for index in before]
    linear = [said[index].linear[0] for index in behind] + [said[index].linear[1] for index in before]
    for table in sure + linear:
        if shape in table:
            return table[shape] % len(shape)
    return measured_axis(activation[0].float().cpu().numpy())


@contextmanager
def _heard(module: nn.Module) -> Iterator[_Said]:
    """In the block: what the layers that run say."""
    said = _Said()
    layers = [part for part in module.modules() if _channels_of(part) is not None]
    handles = [layer.register_forward_hook(said.hear) for layer in layers]
    try:
        yield said
    finally:
        for handle in handles:
            handle.remove()


def _channels_of(layer: nn.Module) -> int | None:
    """The axis of the channels that a layer works on, 0 or -1, without the batch dimension; None: it knows none."""
    if isinstance(layer, _FIRST) or type(layer).__name__.endswith("Norm2d"):  # timm's LayerNorm2d is a LayerNorm, too
        return 0
    return -1 if isinstance(layer, (nn.Linear, nn.LayerNorm)) or type(layer).__name__.endswith("RmsNorm") else None
