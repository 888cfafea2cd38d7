"""Which modules are traced into: lists of blocks under any name, models inside of wrappers, outputs of any class."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import pytest
import timm
import torch
import torchvision
from torch import nn

from slicer import SlicedModel, slice_model
from slicer.errors import NotSliceable


def names(sliced: SlicedModel) -> list[str]:
    return [boundary.name for boundary in sliced.boundaries]


def check_exact(sliced: SlicedModel) -> None:
    x = torch.randn(3, *sliced.input_shape)
    with torch.inference_mode():
        whole = sliced.module(x)
        for k in range(sliced.num_slices + 1):
            assert torch.equal(sliced.tail(k)(sliced.head(k)(x)), whole), f"cut {k}"


class Wrapper(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> Any:
        return self.net(x)


class Normalising(Wrapper):
    def forward(self, x: torch.Tensor) -> Any:
        return self.net((x - 0.5) / 0.5)


@pytest.mark.parametrize("wrap", [Wrapper, lambda net: Wrapper(Wrapper(net)), nn.DataParallel])
@pytest.mark.parametrize(
    "make",
    [
        lambda: timm.create_model("resnet10t"),
        lambda: timm.create_model("vit_tiny_patch16_224", img_size=64, depth=3),
        lambda: timm.create_model("densenet121"),
        lambda: torchvision.models.resnet18(),
        lambda: torchvision.models.vgg11(),
    ],
    ids=["timm resnet", "timm vit", "timm densenet", "torchvision resnet", "torchvision vgg"],
)
def test_a_wrapped_model_has_the_models_boundaries(wrap: Any, make: Any) -> None:
    net = make()
    bare = slice_model(net, 2, input_shape=(3, 64, 64), verify=False)
    wrapped = slice_model(wrap(net), 2, input_shape=(3, 64, 64), verify=False)
    assert [boundary.shape for boundary in wrapped.boundaries] == [boundary.shape for boundary in bare.boundaries]
    units = {name for name in names(bare) if name.partition(".")[0] in dict(net.named_children())}
    assert {name.replace("net.", "").replace("module.", "") for name in names(wrapped)} >= units


def test_a_wrapper_that_normalises_is_exact() -> None:
    net = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, num_classes=5)
    sliced = slice_model(Normalising(net), "all")
    assert sliced.input_shape == (3, 32, 32)
    assert {"net.blocks.0", "net.blocks.1"} <= set(names(sliced))
    check_exact(sliced)


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8))

    def forward(self, x: torch.Tensor) -> Any:
        return x + self.inner(x)


class Attributes(OrderedDict[str, Any]):
    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


@dataclass
class ModelOutput(OrderedDict[str, Any]):
    """As transformers makes them: fields are attributes, and those that are set are also items."""

    last: Any = None
    pooled: Any = None
    states: Any = None

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) is not None:
                super().__setitem__(field.name, getattr(self, field.name))

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(key) if isinstance(key, str) else tuple(self.values())[key]

    def __setitem__(self, key: str, value: Any) -> None:
        raise TypeError("use attributes")

    def update(self, *args: Any, **kwargs: Any) -> None:
        raise TypeError("use attributes")


@dataclass
class Plain:
    last: torch.Tensor


class Named(NamedTuple):
    last: torch.Tensor
    pooled: torch.Tensor | None


class Unit(nn.Module):
    def __init__(self, make: Any) -> None:
        super().__init__()
        self.make = make
        self.dense = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> Any:
        return self.make(self.dense(x))


class Encoder(nn.Module):
    def __init__(self, make: Any) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Layer() for _ in range(3))
        self.unit = Unit(make)

    def forward(self, x: torch.Tensor) -> Any:
        for layer in self.layer:
            x = layer(x)
        return self.unit(x)


class Model(nn.Module):
    input_shape = (3, 4, 4)

    def __init__(self, make: Any, read: Any) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.encoder = Encoder(make)
        self.classifier = nn.Linear(8, 5)
        self.read = read

    def forward(self, x: torch.Tensor) -> Any:
        out = self.encoder(self.stem(x).flatten(2).transpose(1, 2))
        return self.classifier(self.read(out).mean(1))


@pytest.mark.parametrize(
    ("make", "read"),
    [
        (lambda x: {"last": x}, lambda out: out["last"]),
        (lambda x: Attributes(last=x), lambda out: out.last),
        (lambda x: ModelOutput(last=x, states=(x, x)), lambda out: out.last),
        (lambda x: ModelOutput(last=x, states=(x, x)), lambda out: out[0] if out.pooled is None else 0),
        (lambda x: ModelOutput(last=x, states=(x, x)), lambda out: out.states[1] + out["last"]),
        (lambda x: Plain(last=x), lambda out: out.last),
        (lambda x: Named(last=x, pooled=None), lambda out: out.last if out.pooled is None else out[0]),
    ],
)
def test_outputs_of_units_keep_their_class(make: Any, read: Any) -> None:
    sliced = slice_model(Model(make, read), "all")
    assert {"encoder.layer.0", "encoder.layer.1", "encoder.layer.2"} <= set(names(sliced))
    assert [boundary.block for boundary in sliced.boundaries if boundary.name.startswith("encoder.layer")] == [0, 1, 2]
    check_exact(sliced)


@pytest.mark.parametrize("name", ["h", "layer", "encoder", "resblocks", "blocks_of_mine"])
def test_blocks_stand_in_a_list_of_any_name(name: str) -> None:
    class Listed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            setattr(self, name, nn.ModuleList(Layer() for _ in range(3)))

        def forward(self, x: torch.Tensor) -> Any:
            for layer in getattr(self, name):
                x = layer(x)
            return x

    sliced = slice_model(Wrapper(Listed()), "all", input_shape=(4, 8))
    assert names(sliced) == [f"net.{name}.{i}" for i in range(2)]
    check_exact(sliced)


def test_torchs_transformer_is_cut_between_its_layers() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    sliced = slice_model(
        Wrapper(nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)), "all", input_shape=(4, 8)
    )
    assert {"net.layers.0", "net.layers.1"} <= set(names(sliced))
    check_exact(sliced)


def test_one_unit_is_said_to_be_one() -> None:
    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dense = nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.dense(x)

    with pytest.raises(NotSliceable, match=r"all of it is one unit, its net \(Whole\)"):
        slice_model(Wrapper(Whole()), 2, input_shape=(4, 8))


@pytest.mark.parametrize(
    ("name", "kwargs", "shape"),
    [
        ("volo_d1_224", {}, (3, 224, 224)),
        ("csatv2", {}, (3, 512, 512)),
        ("tresnet_m", {}, (3, 224, 224)),
        ("resnet10t", {"in_chans": 1}, (1, 176, 176)),
        ("vit_tiny_patch16_224", {"img_size": (32, 64), "in_chans": 5}, (5, 32, 64)),
    ],
)
def test_a_module_says_its_input_as_its_name_does(name: str, kwargs: dict[str, Any], shape: tuple[int, ...]) -> None:
    sliced = slice_model(timm.create_model(name, **kwargs), 2, verify=False)
    assert sliced.input_shape == shape
