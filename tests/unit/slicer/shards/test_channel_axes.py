"""Which axis of an activation holds the channels is found by the layers around it, not by its shape."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from slicer import slice_model
from slicer.core.codecs import activations
from slicer.shards.channel_axes import channel_axes
from slicer.shards.save import export


def shapes_and_axes(model: object, **kwargs: object) -> dict[tuple[int, ...], int]:
    sliced = slice_model(model, "all", verify=False, **kwargs)  # type: ignore[arg-type]
    shapes = [sliced.shape_at(cut) for cut in range(sliced.num_slices + 1)]
    return dict(zip(shapes, channel_axes(sliced), strict=True))


@pytest.mark.parametrize(
    ("model", "kwargs", "axes"),
    [
        ("vit_tiny_patch16_224", {"depth": 2, "img_size": 64}, {(3, 64, 64): 0, (17, 192): 1, (192,): 0}),
        ("swin_tiny_patch4_window7_224", {"img_size": 112}, {(28, 28, 96): 2, (7, 7, 384): 2, (4, 4, 768): 2}),
        ("convnext_atto", {}, {(40, 56, 56): 0, (320, 7, 7): 0}),
        ("resnet18", {}, {(64, 56, 56): 0, (512, 7, 7): 0}),
        ("mixer_s32_224", {}, {(49, 512): 1}),
    ],
)
def test_timms_families(model: str, kwargs: dict[str, object], axes: dict[tuple[int, ...], int]) -> None:
    found = shapes_and_axes(model, **kwargs)
    assert {shape: found[shape] for shape in axes} == axes


class Convolutions(nn.Module):
    """On images that are not square, with as many channels as columns in the middle."""

    input_shape = (3, 24, 40)

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 20, 2, 2)
        self.stages = nn.Sequential(*(nn.Sequential(nn.Conv2d(20, 20, 3, padding=1), nn.ReLU()) for _ in range(3)))
        self.classifier = nn.Linear(20, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.stages(self.stem(x)).mean((2, 3)))


class ChannelsLast(nn.Module):
    """The same sizes the other way round: [H, W, C]."""

    input_shape = (3, 24, 40)

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 2, 2)
        self.layers = nn.Sequential(*(nn.Sequential(nn.LayerNorm(12), nn.Linear(12, 12)) for _ in range(3)))
        self.classifier = nn.Linear(12, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.layers(self.stem(x).permute(0, 2, 3, 1)).mean((1, 2)))


def test_a_convolution_says_first_and_a_linear_layer_last_whatever_the_shape() -> None:
    assert shapes_and_axes(Convolutions())[(20, 12, 20)] == 0
    found = shapes_and_axes(ChannelsLast())
    assert found[(12, 20, 12)] == 2


class TokensLast(nn.Module):
    """[C, N]: normalised over channels, mixed over tokens by a Linear, as MLP-Mixers on transposed activations are."""

    input_shape = (3, 24, 24)

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 30, 4, 4)
        self.layers = nn.Sequential(
            *(nn.Sequential(nn.Linear(36, 36), nn.BatchNorm1d(30), nn.ReLU(), nn.Linear(36, 36)) for _ in range(3))
        )
        self.classifier = nn.Linear(30, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.layers(self.stem(x).flatten(2)).mean(2))


def test_a_linear_layer_over_tokens_does_not_outweigh_a_normalisation_over_channels() -> None:
    assert shapes_and_axes(TokensLast())[(30, 36)] == 0


def build() -> nn.Module:
    return Convolutions()


def test_what_crosses_keeps_its_channels_apart_by_the_manifest(tmp_path: Path) -> None:
    sliced = slice_model("tests.unit.slicer.shards.test_channel_axes:build", 2)
    manifest = export(sliced, tmp_path)
    assert manifest.shapes[1][0] == 20 and manifest.channel_axes[1] == 0
    scale = np.exp(np.random.default_rng(0).standard_normal(20) * 2)[:, None, None]
    activation = (np.random.default_rng(1).standard_normal(manifest.shapes[1]) * scale).astype(np.float32)
    payload = activations.encode("int8", activation, manifest.channel_axes[1])
    decoded = activations.decode_batch("int8", [payload], activation.shape, axis=manifest.channel_axes[1])[0]
    error = np.sqrt(((decoded - activation) ** 2).mean((1, 2)) / (activation**2).mean((1, 2)))
    assert error.max() < 0.02
