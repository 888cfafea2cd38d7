"""What is no weight of this model is refused by the tensor's name; odd but right files are read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch

from slicer import slice_model
from slicer.errors import ModelError

KWARGS: dict[str, Any] = {"img_size": 32, "patch_size": 8, "depth": 2, "num_classes": 7}
VIT = "vit_tiny_patch16_224"
WEIGHT = "blocks.0.attn.qkv.weight"

State = dict[str, torch.Tensor]


def good() -> State:
    torch.manual_seed(3)
    return dict(timm.create_model(VIT, **KWARGS).state_dict())


def saved(path: Path, state: Any) -> str:
    if path.suffix == ".safetensors":
        safetensors.torch.save_file({key: value.contiguous() for key, value in state.items()}, path)
    else:
        torch.save(state, path)
    return str(path)


def sliced(checkpoint: str, **kwargs: Any) -> Any:
    return slice_model(VIT, 2, checkpoint=checkpoint, verify=False, **{**KWARGS, **kwargs})


def changed(change: Callable[[torch.Tensor], torch.Tensor], key: str = WEIGHT) -> State:
    state = good()
    state[key] = change(state[key])
    return state


def spoiled(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def change(tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.clone()
        tensor.view(-1)[5] = value
        return tensor

    return change


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    "change",
    [
        lambda w: (w * 50).round().to(torch.int8),
        lambda w: (w * 50).round().to(torch.int64),
        lambda w: (w * 50).abs().to(torch.uint8),
        lambda w: w > 0,
        lambda w: w.to(torch.float8_e4m3fn),
        spoiled(float("nan")),
        spoiled(float("inf")),
        spoiled(float("-inf")),
        lambda w: w.to(torch.complex64),
    ],
    ids=["int8", "int64", "uint8", "bool", "float8", "nan", "inf", "-inf", "complex"],
)
def test_what_is_no_weight_is_refused_by_name(
    tmp_path: Path, suffix: str, change: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    path = saved(tmp_path / f"w{suffix}", changed(change))
    with pytest.raises(ModelError, match=r"blocks\.0\.attn\.qkv\.weight .*no weights of this model"):
        sliced(path)


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_sparse_and_quantised_tensors_are_refused(tmp_path: Path) -> None:
    for number, change in enumerate(
        (torch.Tensor.to_sparse, lambda w: torch.quantize_per_tensor(w, 0.1, 0, torch.qint8))
    ):
        with pytest.raises(ModelError, match=r"w\.pth"):
            sliced(saved(tmp_path / f"{number}w.pth", changed(change)))  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_any_floating_point_dtype_is_taken(tmp_path: Path, dtype: torch.dtype) -> None:
    state = {key: value.to(dtype) for key, value in good().items()}
    model = sliced(saved(tmp_path / "w.pth", state))
    assert torch.equal(model.module.state_dict()[WEIGHT], state[WEIGHT].float())


def test_a_weight_beyond_half_precision_is_refused_by_name(tmp_path: Path) -> None:
    path = saved(tmp_path / "w.pth", changed(spoiled(1e6)))
    assert sliced(path)
    with pytest.raises(ModelError, match=r"qkv.*1e\+06, more than fp16 can hold; use fp32 or bf16"):
        sliced(path, dtype="fp16")


@pytest.mark.parametrize("prefix", ["model.", "module.", "backbone.", "_orig_mod.", "module._orig_mod.", "net.vit."])
def test_a_prefix_that_all_keys_share_is_taken_off(tmp_path: Path, prefix: str) -> None:
    state = good()
    path = saved(
        tmp_path / "w.pth.tar", {"epoch": 3, "state_dict": {prefix + key: value for key, value in state.items()}}
    )
    assert torch.equal(sliced(path).module.state_dict()[WEIGHT], state[WEIGHT])


def test_a_prefix_beside_other_keys_is_named_with_what_to_do(tmp_path: Path) -> None:
    state = {f"student.{key}": value for key, value in good().items()} | {"teacher.scale": torch.ones(2)}
    with pytest.raises(ModelError, match=r"behind 'student\.'; if .* weights, give checkpoint_key='student'"):
        sliced(saved(tmp_path / "w.ckpt", state))


@pytest.mark.parametrize("name", ["state_dict", "model", "model_state_dict", "net"])
@pytest.mark.parametrize("suffix", [".pt", ".ckpt", ".bin", ".pth.tar"])
def test_a_nested_checkpoint_is_found(tmp_path: Path, name: str, suffix: str) -> None:
    state = good()
    path = saved(tmp_path / f"w{suffix}", {name: state, "epoch": 7, "lr": 0.1})
    assert torch.equal(sliced(path).module.state_dict()[WEIGHT], state[WEIGHT])


def test_what_is_missing_or_left_over_is_named(tmp_path: Path) -> None:
    state = good()
    del state[WEIGHT]
    with pytest.raises(ModelError, match=r"missing blocks\.0\.attn\.qkv\.weight"):
        sliced(saved(tmp_path / "w.pth", state))
    with pytest.raises(ModelError, match="leftover extra"):
        sliced(saved(tmp_path / "v.pth", good() | {"extra": torch.ones(1)}))


def test_integers_that_are_integers_in_the_model_are_taken(tmp_path: Path) -> None:
    state = timm.create_model("resnet18", num_classes=4).state_dict()
    assert state["bn1.num_batches_tracked"].dtype == torch.int64
    slice_model("resnet18", 2, checkpoint=saved(tmp_path / "w.pth", state), num_classes=4, verify=False)


def test_a_module_with_weights_that_diverged_is_refused_however_it_came() -> None:
    module = timm.create_model(VIT, **KWARGS)
    with torch.no_grad():
        module.get_parameter(WEIGHT).view(-1)[0] = float("nan")
    with pytest.raises(ModelError, match=r"blocks\.0\.attn\.qkv\.weight of VisionTransformer holds NaN"):
        slice_model(module, 2, input_shape=(3, 32, 32))
