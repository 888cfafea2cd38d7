"""What a model's name means, and that the same spec gives the same model."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from slicer.errors import ModelError
from slicer.models import zoo
from slicer.models.images import Preprocess, load_digits

TINY = {"img_size": 32, "patch_size": 16, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 5}
NAME = "vit_tiny_patch16_224"

OWN = """
from torch import nn

def small(width=4):
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), nn.Flatten(), nn.Linear(width * 4, 2))

def broken():
    raise RuntimeError("no such luck")

def number():
    return 3
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "zoo_test_own.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    return "zoo_test_own"


def state_equal(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def test_a_built_model_is_for_inference_only() -> None:
    module = zoo.build(zoo.resolve(NAME, kwargs=TINY))
    assert not module.training
    assert not any(p.requires_grad for p in module.parameters())
    assert module(torch.zeros(2, 3, 32, 32)).shape == (2, 5)


def test_random_weights_follow_from_the_seed_and_leave_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    first = zoo.build(zoo.resolve(NAME, kwargs=TINY, seed=1))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    assert state_equal(first, zoo.build(zoo.resolve(NAME, kwargs=TINY, seed=1)))
    assert not state_equal(first, zoo.build(zoo.resolve(NAME, kwargs=TINY, seed=2)))


def test_several_threads_may_build_at_once_and_get_what_their_seeds_say() -> None:
    seeds = [1, 2, 3, 1]
    built: dict[int, torch.nn.Module] = {}

    def build(index: int) -> None:
        built[index] = zoo.build(zoo.resolve(NAME, kwargs=TINY, seed=seeds[index]))

    threads = [threading.Thread(target=build, args=(index,)) for index in range(len(seeds))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, seed in enumerate(seeds):
        assert state_equal(built[index], zoo.build(zoo.resolve(NAME, kwargs=TINY, seed=seed)))


@pytest.mark.parametrize(("dtype", "torch_dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_dtype_is_that_of_all_parameters(dtype: str, torch_dtype: torch.dtype) -> None:
    module = zoo.build(zoo.resolve(NAME, kwargs=TINY, dtype=dtype))
    assert {p.dtype for p in module.parameters()} == {torch_dtype}


def test_a_model_can_be_built_inside_inference_mode() -> None:
    with torch.inference_mode():
        module = zoo.build(zoo.resolve(NAME, kwargs=TINY))
    assert not any(p.is_inference() for p in module.parameters())


def test_the_structure_has_the_same_names_and_shapes_and_no_memory() -> None:
    spec = zoo.resolve(NAME, kwargs=TINY)
    structure, module = zoo.build_structure(spec), zoo.build(spec)
    assert all(p.is_meta for p in structure.parameters())
    shapes = {name: p.shape for name, p in module.state_dict().items()}
    assert {name: p.shape for name, p in structure.state_dict().items()} == shapes


def test_the_structure_takes_no_memory_in_a_process_that_has_sliced_something_before() -> None:
    # torch remembers its factories when a device context is first entered, which may be while they are being traced.
    script = (
        "from slicer import slice_model, zoo\n"
        f"slice_model({NAME!r}, 2, **{TINY!r})\n"
        f"structure = zoo.build_structure(zoo.resolve({NAME!r}, kwargs={TINY!r}))\n"
        "assert all(p.is_meta for p in structure.parameters())\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True, timeout=120)


def test_an_own_callable_is_built_with_its_kwargs(own: str) -> None:
    module = zoo.build(zoo.resolve(f"{own}:small", kwargs={"width": 6}))
    assert module[0].out_channels == 6


@pytest.mark.parametrize(
    ("path", "kwargs", "says"),
    [
        (":broken", {}, "no such luck"),
        (":number", {}, "must return a torch.nn.Module"),
        (":absent", {}, "has no absent"),
        (":small", {"depth": 3}, "depth"),
    ],
)
def test_an_own_callable_that_fails_is_a_model_error(own: str, path: str, kwargs: dict[str, Any], says: str) -> None:
    with pytest.raises(ModelError, match=says):
        zoo.build(zoo.resolve(own + path, kwargs=kwargs))


def test_a_module_that_cannot_be_imported_says_where_to_put_it() -> None:
    with pytest.raises(ModelError, match="PYTHONPATH"):
        zoo.build(zoo.resolve("no_such_package_here:model"))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("vit_tinny_patch16_224", "did you mean vit_tiny_patch16_224"),
        ("digits_vitt", "did you mean digits_vit"),
        ("vit_tiny_patch16_224.no_such_tag", "augreg_in21k_ft_in1k"),
        ("", "unknown model ''"),
    ],
)
def test_an_unknown_name_is_refused_with_what_is_close_to_it(name: str, says: str) -> None:
    with pytest.raises(ModelError) as caught:
        zoo.resolve(name)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"dtype": "int8"}, "unknown dtype 'int8'; known are fp32, fp16, bf16"),
        ({"pretrained": True, "checkpoint": "a.pth"}, "choose one"),
        ({"kwargs": {"pretrained": True}}, "use the options"),
        ({"kwargs": {"norm_layer": torch.nn.LayerNorm}}, "must be JSON values"),
    ],
)
def test_values_that_cannot_be_built_from_are_refused_before_building(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(ModelError) as caught:
        zoo.resolve(NAME, **arguments)
    assert says in str(caught.value)


def test_kwargs_that_the_model_does_not_know_are_a_model_error() -> None:
    with pytest.raises(ModelError, match="no_such_argument"):
        zoo.build(zoo.resolve(NAME, kwargs={"no_such_argument": 1}))


# Model files


def test_a_model_file_is_a_spec_whose_checkpoint_lies_beside_it(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    reference = zoo.build(zoo.resolve(NAME, kwargs=TINY, seed=7))
    save_file(reference.state_dict(), tmp_path / "weights" / "a.safetensors")
    lines = [
        f"architecture: {NAME}",
        f"kwargs: {TINY}",
        "checkpoint: weights/a.safetensors",
        "data_config: {crop_pct: 1}",
    ]
    (tmp_path / "model.yaml").write_text("\n".join(lines))
    spec = zoo.resolve(str(tmp_path / "model.yaml"))
    assert state_equal(zoo.build(spec), reference)
    assert zoo.data_config(spec)["crop_pct"] == 1


def test_arguments_win_over_the_model_file(tmp_path: Path) -> None:
    file = tmp_path / "model.yaml"
    file.write_text(f"architecture: {NAME}\nkwargs: {{depth: 2, img_size: 32}}\nseed: 3\ndtype: bf16\n")
    spec = zoo.resolve(str(file), kwargs={"depth": 1}, seed=4)
    assert (spec.kwargs, spec.seed, spec.dtype) == ({"depth": 1, "img_size": 32}, 4, "bf16")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[1, 2]", "architecture"),
        ("kwargs: {}", "architecture"),
        (f"architecture: {NAME}\nweights: x", "unknown key weights"),
        (f"architecture: {NAME}\nkwargs: 3", "kwargs must be a mapping"),
        (f"architecture: {NAME}\ndata_config: {{size: 3}}", "unknown data_config size"),
        ("architecture: [", "cannot be read"),
        ("architecture: no_such_model", "unknown model"),
    ],
)
def test_a_wrong_model_file_is_refused_by_key(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "model.yaml"
    file.write_text(text)
    with pytest.raises(ModelError) as caught:
        zoo.resolve(str(file))
    assert says in str(caught.value)


def test_a_missing_model_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"absent\.yaml"):
        zoo.resolve(str(tmp_path / "absent.yaml"))


# Checkpoints


@pytest.fixture(scope="module")
def trained() -> torch.nn.Module:
    return zoo.build(zoo.resolve(NAME, kwargs=TINY, seed=5))


@pytest.mark.parametrize("kind", ["safetensors", "pth", "nested pth", "data parallel"])
def test_a_checkpoint_is_loaded_exactly(tmp_path: Path, trained: torch.nn.Module, kind: str) -> None:
    state = trained.state_dict()
    file = tmp_path / ("a.safetensors" if kind == "safetensors" else "a.pth")
    if kind == "safetensors":
        save_file(state, file)
    elif kind == "data parallel":
        torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}}, file)
    else:
        torch.save({"model": state, "epoch": 3} if kind == "nested pth" else state, file)
    assert state_equal(zoo.build(zoo.resolve(NAME, kwargs=TINY, checkpoint=str(file))), trained)


def test_the_original_authors_names_are_renamed_as_timm_does(tmp_path: Path) -> None:
    # Swin's authors store downsampling one stage earlier than timm does; timm's filter for Swin moves it.
    tiny = {"img_size": 32, "patch_size": 2, "window_size": 4, "embed_dim": 12, "depths": [1, 1], "num_heads": [1, 2]}
    reference = zoo.build(zoo.resolve("swin_tiny_patch4_window7_224", kwargs=tiny, seed=5))
    state = {key.replace("layers.1.downsample", "layers.0.downsample"): v for key, v in reference.state_dict().items()}
    state = {key.replace("head.fc.", "head."): value for key, value in state.items()}
    file = tmp_path / "original.pth"
    torch.save({"model": state}, file)
    spec = zoo.resolve("swin_tiny_patch4_window7_224", kwargs=tiny, checkpoint=str(file))
    assert state_equal(zoo.build(spec), reference)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda s: {k: v for k, v in s.items() if k != "norm.bias"}, "missing norm.bias"),
        (lambda s: {**s, "extra.weight": torch.zeros(1)}, "leftover extra.weight"),
        (lambda s: {**s, "norm.bias": torch.zeros(3)}, r"norm.bias has shape \(3,\) instead of \(24,\)"),
        (lambda s: {}, "and 27 more"),
    ],
)
def test_missing_leftover_and_misshapen_keys_are_refused_by_name(
    tmp_path: Path, trained: torch.nn.Module, change: Any, says: str
) -> None:
    file = tmp_path / "a.safetensors"
    save_file(change(trained.state_dict()), file)
    with pytest.raises(ModelError, match=says):
        zoo.build(zoo.resolve(NAME, kwargs=TINY, checkpoint=str(file)))


def test_weights_for_another_number_of_classes_are_not_half_loaded(tmp_path: Path, trained: torch.nn.Module) -> None:
    file = tmp_path / "a.safetensors"
    save_file(trained.state_dict(), file)
    with pytest.raises(ModelError, match=r"head\.weight has shape"):
        zoo.build(zoo.resolve(NAME, kwargs={**TINY, "num_classes": 7}, checkpoint=str(file)))


class Unpicklable:
    def __reduce__(self) -> Any:
        return print, ("code from a checkpoint ran",)


@pytest.mark.parametrize("content", ["code", "truncated", "not tensors"])
def test_a_checkpoint_that_is_no_plain_tensors_is_refused_and_runs_nothing(
    tmp_path: Path, trained: torch.nn.Module, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a.pth"
    torch.save({"code": {"a": Unpicklable()}, "not tensors": {"a": 3}}.get(content, trained.state_dict()), file)
    if content == "truncated":
        file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ModelError, match=r"a\.pth"):
        zoo.build(zoo.resolve(NAME, kwargs=TINY, checkpoint=str(file)))
    assert "code from a checkpoint ran" not in capsys.readouterr().out


@pytest.mark.parametrize(("file", "says"), [("absent.pth", "no such file"), ("a.onnx", "unknown extension '.onnx'")])
def test_a_checkpoint_that_cannot_be_one_is_refused(file: str, says: str) -> None:
    with pytest.raises(ModelError, match=says):
        zoo.build(zoo.resolve(NAME, kwargs=TINY, checkpoint=file))


def test_pretrained_without_a_network_says_at_once_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def no_names(host: str, *_args: Any, **_kwargs: Any) -> Any:
        asked.append(host)
        raise socket.gaierror("no network")

    monkeypatch.setattr(socket, "getaddrinfo", no_names)
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ModelError, match=r"checkpoint=FILE.*Hugging Face cache"):
        zoo.build(zoo.resolve("vit_giant_patch14_dinov2", kwargs={"depth": 1}, pretrained=True))
    assert len(asked) == 1, "the hub was tried again and again, which takes most of a minute"


def test_an_own_module_has_no_pretrained_weights(own: str) -> None:
    with pytest.raises(ModelError, match="give checkpoint=FILE"):
        zoo.build(zoo.resolve(f"{own}:small", pretrained=True))


# What the input looks like


def test_data_config_is_timms_own_where_nothing_else_is_said() -> None:
    module = timm.create_model("beit_base_patch16_224", depth=1)
    config = zoo.data_config(zoo.resolve("beit_base_patch16_224"))
    assert config == timm.data.resolve_model_data_config(module)


@pytest.mark.parametrize(
    ("kwargs", "shape"),
    [
        ({}, (3, 224, 224)),
        ({"img_size": 64}, (3, 64, 64)),
        ({"img_size": [32, 48]}, (3, 32, 48)),
        ({"in_chans": 1}, (1, 224, 224)),
        ({"pretrained_cfg_overlay": {"input_size": [3, 96, 96]}}, (3, 96, 96)),
    ],
)
def test_the_input_follows_from_the_kwargs(kwargs: dict[str, Any], shape: tuple[int, ...]) -> None:
    assert tuple(zoo.data_config(zoo.resolve(NAME, kwargs=kwargs))["input_size"]) == shape


def test_an_own_module_gets_imagenet_defaults_unless_it_says_otherwise(own: str) -> None:
    spec = zoo.resolve(f"{own}:small")
    assert zoo.data_config(spec)["input_size"] == (3, 224, 224)
    assert zoo.data_config(spec)["mean"] == (0.485, 0.456, 0.406)
    spec = replace(spec, data_config={"input_size": [3, 4, 4], "mean": [0.5]})
    assert zoo.data_config(spec)["input_size"] == (3, 4, 4)
    assert zoo.data_config(spec)["mean"] == (0.5, 0.5, 0.5)


def test_a_data_config_that_contradicts_itself_is_refused(own: str) -> None:
    with pytest.raises(ModelError, match="data_config"):
        zoo.data_config(replace(zoo.resolve(f"{own}:small"), data_config={"mean": [0.5, 0.5]}))


# Demo models


@pytest.mark.parametrize(("name", "right"), [("digits_vit", 359), ("digits_swin", 353)])
def test_the_demo_models_are_as_good_on_the_held_out_digits_as_their_readme_says(name: str, right: int) -> None:
    spec = zoo.resolve(name)
    module, preprocess = zoo.build(spec), Preprocess(spec)
    images, labels = load_digits()
    inputs = torch.from_numpy(np.stack([preprocess(Image.fromarray(image)) for image in images]))
    with torch.inference_mode():
        found = int((module(inputs).argmax(1).numpy() == labels).sum())
    assert abs(found - right) <= 2  # another CPU may round a close call the other way
    readme = (Path(zoo.__file__).parent / "demo" / "README.md").read_text()
    assert f"| {name} | {right} of 360 | {right / 360:.1%}".replace("%", " %") in readme


def test_demo_weights_are_stored_as_fp16_and_run_as_fp32() -> None:
    spec = zoo.resolve("digits_vit")
    assert spec.checkpoint is not None
    assert {tensor.dtype for tensor in load_file(spec.checkpoint).values()} == {torch.float16}
    assert {p.dtype for p in zoo.build(spec).parameters()} == {torch.float32}


# A checkpoint with another number of classes

SMALL = {key: value for key, value in TINY.items() if key != "num_classes"}


def weights_of(folder: Path, classes: int, **change: torch.Tensor) -> str:
    state = zoo.build(zoo.resolve(NAME, kwargs={**SMALL, "num_classes": classes}, seed=6)).state_dict()
    torch.save({"state_dict": {**state, **change}}, folder / "own.pth")
    return str(folder / "own.pth")


def test_a_model_gets_as_many_classes_as_its_checkpoint_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = weights_of(tmp_path, 3)
    module, spec = zoo.build_for_weights(zoo.resolve(NAME, kwargs=SMALL, checkpoint=file))
    assert spec.kwargs == {**SMALL, "num_classes": 3}
    assert state_equal(module, zoo.build(zoo.resolve(NAME, kwargs={**SMALL, "num_classes": 3}, seed=6)))
    (said,) = [record.getMessage() for record in caplog.records]
    assert "3 classes" in said and "num_classes=3 instead of 1000" in said
    caplog.clear()
    zoo.build_for_weights(zoo.resolve(NAME, kwargs={**SMALL, "num_classes": 3}, checkpoint=file))
    assert not caplog.records, "nothing was inferred"


def test_the_classes_of_a_distilled_model_and_of_renamed_keys_are_found(tmp_path: Path) -> None:
    name = "deit_tiny_distilled_patch16_224"
    state = zoo.build(zoo.resolve(name, kwargs={**SMALL, "num_classes": 4})).state_dict()
    torch.save({f"backbone.{key}": value for key, value in state.items()}, tmp_path / "own.pth")
    _, spec = zoo.build_for_weights(zoo.resolve(name, kwargs=SMALL, checkpoint=str(tmp_path / "own.pth")))
    assert spec.kwargs["num_classes"] == 4


def test_a_number_of_classes_that_somebody_gave_is_not_changed(tmp_path: Path) -> None:
    spec = zoo.resolve(NAME, kwargs=TINY, checkpoint=weights_of(tmp_path, 3))
    with pytest.raises(ModelError, match=r"shape \(3, 24\) instead of \(5, 24\).*kwargs num_classes=3"):
        zoo.build_for_weights(spec)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"head.bias": torch.zeros(4)}, r"head\.weight has shape"),  # two answers
        ({"head.weight": torch.zeros(3, 25)}, r"head\.weight has shape"),  # of another width
        ({"norm.weight": torch.ones(25)}, "has shape"),  # not the classifier alone
        ({"more.weight": torch.ones(2)}, "leftover more.weight"),
    ],
)
def test_what_does_not_differ_in_the_classifier_alone_is_refused(
    change: dict[str, torch.Tensor], says: str, tmp_path: Path
) -> None:
    spec = zoo.resolve(NAME, kwargs=SMALL, checkpoint=weights_of(tmp_path, 3, **change))
    with pytest.raises(ModelError, match=says) as caught:
        zoo.build_for_weights(spec)
    assert "num_classes=3" not in str(caught.value)


def test_labels_of_a_model_file_go_where_its_number_of_classes_goes(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(f"architecture: {NAME}\nkwargs: {SMALL}\nlabels: [a, b]\n".replace("'", '"'))
    for classes, labels in ((2, ("a", "b")), (3, ())):
        spec = zoo.resolve(str(tmp_path / "m.yaml"), checkpoint=weights_of(tmp_path, classes))
        assert zoo.build_for_weights(spec)[1].labels == labels
