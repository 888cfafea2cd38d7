"""Checkpoints as people have them: each odd layout gives the model's own answers, or is refused by name."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from slicer import load_span, slice_model
from slicer.errors import ModelError
from slicer.models import checkpoint_file, zoo
from slicer.models.labels import of_checkpoint
from slicer.shards import export
from tests.unit.checkpoint_layouts import BODY, KWARGS, LAYOUTS, VIT, compiled, prefixed, state, trained, training


def saved(path: Path, content: Any) -> str:
    if path.suffix == ".safetensors":
        safetensors.torch.save_file({key: value.contiguous().clone() for key, value in content.items()}, path)
    else:
        torch.save(content, path)
    return str(path)


def built(path: str, key: str | None = None, kwargs: Mapping[str, Any] = KWARGS, name: str = VIT) -> nn.Module:
    return zoo.build_for_weights(zoo.resolve(name, kwargs=kwargs, checkpoint=path, checkpoint_key=key))[0]


def answers(module: nn.Module, size: tuple[int, int] = (32, 32)) -> torch.Tensor:
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        result: torch.Tensor = module(images)
    return result


def said(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".ckpt", ".pth.tar"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_odd_layout_gives_the_models_answers(layout: str, suffix: str, tmp_path: Path) -> None:
    module = built(saved(tmp_path / f"w{suffix}", LAYOUTS[layout]()))
    assert torch.equal(answers(module), answers(trained()))


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "backbone.", "_orig_mod.", "model.backbone."])
def test_a_safetensors_file_is_read_as_well(prefix: str, tmp_path: Path) -> None:
    module = built(saved(tmp_path / "w.safetensors", prefixed(prefix, state())))
    assert torch.equal(answers(module), answers(trained()))


def test_an_own_module_named_as_a_wrapper_keeps_its_names(tmp_path: Path) -> None:
    own = nn.Sequential()
    own.add_module("module", nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()))
    own.add_module("pool", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)))
    other = torch.nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()),
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)),
    )
    tensors = {
        key.replace("0.", "module.", 1) if key[0] == "0" else key.replace("1.", "pool.", 1): value
        for key, value in other.state_dict().items()
    }
    path = saved(tmp_path / "w.pth", {"state_dict": prefixed("module.", tensors)})
    sliced = slice_model(own, 2, checkpoint=path, input_shape=(3, 16, 16))
    assert torch.equal(answers(sliced.module), answers(other.eval()))


# ---- which weights of several ----


@pytest.mark.parametrize(("plain", "average"), [("state_dict", "state_dict_ema"), ("model", "model_ema")])
def test_the_average_is_taken_as_timm_does_and_both_are_named(
    plain: str, average: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = saved(tmp_path / "w.pth.tar", training({plain: state(4), average: state(3)}))
    as_timm = timm.create_model(VIT, checkpoint_path=path, **KWARGS).eval()
    assert torch.equal(answers(built(path)), answers(as_timm))
    assert f"it has {plain!r} and their average {average!r}, which was taken" in said(caplog)
    assert torch.equal(answers(built(path, plain)), answers(trained(4)))
    assert torch.equal(answers(built(path, average)), answers(trained(3)))


@pytest.mark.parametrize(
    "content",
    [
        lambda: {"model": state(4), "state_dict": state(4), "model_ema": state(3)},
        lambda: {"model": state(4), "model_ema": {"module": state(3), "decay": 0.9}},
        lambda: {"a": {"model": {"module": state(4)}, "model_ema": prefixed("module.", state(3))}},
        lambda: {"state_dict": state(3), "state_dict_ema": state(3), "model": state(3)},
    ],
)
def test_an_average_is_known_wherever_it_is(content: Callable[[], Any], tmp_path: Path) -> None:
    assert torch.equal(answers(built(saved(tmp_path / "w.pth", content()))), answers(trained(3)))


def test_a_file_of_an_old_torch_is_read(tmp_path: Path) -> None:
    torch.save(training({"model": state()}), tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    assert torch.equal(answers(built(str(tmp_path / "w.pth"))), answers(trained()))


def test_an_average_that_does_not_fit_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    average = {key: value for key, value in state(4).items() if key != "norm.bias"}
    built(saved(tmp_path / "w.pth", {"model": state(), "model_ema": average}))
    assert "'model_ema' does not fit (missing norm.bias), so 'model' was taken" in said(caplog)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (lambda: {"student": state(3), "teacher": state(4)}, "fit at 'student' and 'teacher'.*'student' or 'teacher'"),
        (lambda: {"model": state(3), "ema": state(4)}, "checkpoint_key='model' or 'ema'"),
        (lambda: {"model": state(3), "other_ema": state(4)}, "checkpoint_key='model' or 'other_ema'"),
        (lambda: {"model": state(3), "model_ema": state(4), "ema_ema": state(5)}, "'model_ema' and 'ema_ema'"),
        (lambda: {"a": {"model": state(3)}, "b": {"model": state(4)}}, r"checkpoint_key='a\.model' or 'b\.model'"),
        (
            lambda: {"state_dict": state(3), "state_dict_ema": state(4), "best": state(5)},
            "'state_dict' and 'state_dict_ema' and 'best'",
        ),
        (
            lambda: {"state_dict": {**prefixed("student.", state(3)), **prefixed("teacher.", state(4))}},
            r"32 behind 'student\.' and 32 behind 'teacher\.'.*'state_dict\.student' or 'state_dict\.teacher'",
        ),
        (
            lambda: {"state_dict": {**prefixed("model.", state()), "criterion.weight": torch.ones(7)}},
            r"checkpoint_key='state_dict\.model'",
        ),
    ],
)
def test_what_is_ambiguous_is_refused_with_the_names_to_choose_from(
    content: Callable[[], Any], says: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=says):
        built(saved(tmp_path / "w.pth", content()))


@pytest.mark.parametrize(
    ("key", "seed"),
    [
        ("student", 3),
        ("state_dict.student", 3),
        ("teacher.backbone", 4),
        ("state_dict.teacher.backbone.", 4),
        ("teacher", 4),
        ("ema", 5),
        ("other.deep", 6),
        ("other", 6),
    ],
)
def test_a_key_names_a_place_or_a_prefix_or_both(
    key: str, seed: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    flat = {**prefixed("student.", state(3)), **prefixed("teacher.backbone.", state(4)), "loss.scale": torch.ones(2)}
    path = saved(tmp_path / "w.ckpt", {"state_dict": flat, "ema": state(5), "other": {"deep": {"x": state(6)}}})
    assert torch.equal(answers(built(path, key)), answers(trained(seed)))
    assert ("left out, since" in said(caplog)) == (seed < 5), "what of the same tensors was not taken is named"


def test_a_key_works_in_a_safetensors_file_and_for_a_built_module(tmp_path: Path) -> None:
    path = saved(tmp_path / "w.safetensors", {**prefixed("a.", state(3)), **prefixed("b.", state(4))})
    assert torch.equal(answers(built(path, "b")), answers(trained(4)))
    module = timm.create_model(VIT, **KWARGS)
    sliced = slice_model(module, 2, checkpoint=path, checkpoint_key="a", input_shape=(3, 32, 32))
    assert torch.equal(answers(sliced.module), answers(trained(3)))
    with pytest.raises(ModelError, match="checkpoint_key 'a' is for a checkpoint"):
        slice_model(module, 2, checkpoint_key="a")


def test_a_key_that_is_not_there_or_has_no_file_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "w.pth", {"model": state(), "model_ema": state(4)})
    with pytest.raises(ModelError, match=r"at checkpoint_key='model_em'; did you mean 'model_ema'\?; it has model, "):
        built(path, "model_em")
    with pytest.raises(ModelError, match="checkpoint_key 'ema' is for a checkpoint; give checkpoint=FILE"):
        zoo.resolve(VIT, checkpoint_key="ema")
    for wrong in ("", ".", 3):
        with pytest.raises(ModelError, match="checkpoint_key must be a name in the checkpoint"):
            zoo.resolve(VIT, checkpoint=path, checkpoint_key=wrong)  # type: ignore[arg-type]


def test_a_model_file_has_a_key_and_another_checkpoint_forgets_it(tmp_path: Path) -> None:
    saved(tmp_path / "w.pth", {"a": state(3), "b": state(4)})
    other = saved(tmp_path / "v.pth", state(5))
    text = f"architecture: {VIT}\nkwargs: {KWARGS}\ncheckpoint: w.pth\ncheckpoint_key: b\n".replace("'", '"')
    (tmp_path / "m.yaml").write_text(text)
    file = str(tmp_path / "m.yaml")
    assert torch.equal(answers(zoo.build(zoo.resolve(file))), answers(trained(4)))
    assert torch.equal(answers(zoo.build(zoo.resolve(file, checkpoint_key="a"))), answers(trained(3)))
    assert torch.equal(answers(zoo.build(zoo.resolve(file, checkpoint=other))), answers(trained(5)))


# ---- classes ----


def test_the_classifier_is_left_out_where_there_are_to_be_no_classes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = saved(tmp_path / "w.pth", {"model": prefixed("module.", state())})
    module = built(path, kwargs={**BODY, "num_classes": 0})
    whole: Any = trained()
    images = torch.zeros(1, 3, 32, 32)
    with torch.inference_mode():
        features = whole.forward_head(whole.forward_features(images), pre_logits=True)
        assert torch.equal(module(images), features)
    assert "num_classes is 0, so its classifier was left out: head.weight, head.bias" in said(caplog)
    more = {**state(), "decoder.weight": torch.ones(2)}
    with pytest.raises(ModelError, match=r"leftover head\.weight, head\.bias, decoder\.weight"):
        built(saved(tmp_path / "v.pth", more), kwargs={**BODY, "num_classes": 0})


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("deit_tiny_distilled_patch16_224", BODY),
        (
            "swin_tiny_patch4_window7_224",
            {"img_size": 32, "patch_size": 2, "window_size": 4, "embed_dim": 12, "depths": [1, 1], "num_heads": [1, 2]},
        ),
        ("convnext_atto", {"depths": [1, 1, 1, 1], "dims": [8, 8, 8, 8]}),
        ("resnet18", {}),
    ],
)
def test_other_families_leave_their_classifier_out_as_well(name: str, kwargs: dict[str, Any], tmp_path: Path) -> None:
    whole = zoo.build(zoo.resolve(name, kwargs={**kwargs, "num_classes": 5}))
    path = saved(tmp_path / "w.pth", {"state_dict": whole.state_dict()})
    module = built(path, kwargs={**kwargs, "num_classes": 0}, name=name)
    whole.reset_classifier(0)  # type: ignore[operator]
    assert torch.equal(answers(module), answers(whole))


def test_a_checkpoint_without_classifier_is_refused_with_the_remedy(tmp_path: Path) -> None:
    body = {key: value for key, value in state().items() if not key.startswith("head.")}
    path = saved(tmp_path / "w.pth", {"model": prefixed("module.", body)})
    with pytest.raises(ModelError, match=r"missing head\.weight, head\.bias; it has no classifier: .*num_classes=0"):
        built(path)
    with pytest.raises(ModelError, match=r"num_classes=0"):
        built(path, kwargs=BODY)
    assert built(path, kwargs={**BODY, "num_classes": 0})


def test_other_classes_of_a_model_and_its_average_are_found_with_one_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[str] = []
    load = torch.load

    def counted(path: Any, **options: Any) -> Any:
        reads.append(str(path))
        assert options["weights_only"] is True
        return load(path, **options)

    path = saved(tmp_path / "w.pth", training({"model": state(4), "model_ema": state(3)}, classes=list("abcdefg")))
    monkeypatch.setattr(torch, "load", counted)
    assert torch.equal(answers(built(path, kwargs=BODY)), answers(trained(3)))
    assert of_checkpoint(path, 7) == tuple("abcdefg")
    assert reads == [path], "weights for two numbers of classes, and labels"
    saved(tmp_path / "w.pth", {"model": state(4), "classes": list("gfedcba")})
    assert of_checkpoint(path, 7) == tuple("gfedcba"), "another file at the same place"


def test_weights_of_other_classes_beside_fitting_ones_are_ambiguous_unless_a_number_was_given(tmp_path: Path) -> None:
    torch.manual_seed(0)
    default = timm.create_model(VIT, **BODY).eval()
    path = saved(tmp_path / "w.pth", {"pretrained": default.state_dict(), "tuned": state()})
    with pytest.raises(ModelError, match="fit at 'pretrained' and 'tuned'"):
        built(path, kwargs=BODY)
    assert torch.equal(answers(built(path)), answers(trained()))


# ---- other sizes ----

NARROW: dict[str, Any] = {"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 5}
SWIN: dict[str, Any] = {"patch_size": 2, "embed_dim": 12, "depths": [1, 1], "num_heads": [1, 2], "num_classes": 5}

SIZES: list[tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    (name, NARROW, {"img_size": old}, {"img_size": new})
    for name in (
        VIT,
        "deit_tiny_distilled_patch16_224",
        "deit3_small_patch16_224",
        "beit_base_patch16_224",
        "eva02_tiny_patch14_224",
        "flexivit_small",
        "vit_base_patch16_siglip_224",
    )
    for old, new in ((32, 64), (64, 32), (32, (48, 64)))
]
SIZES += [
    ("swin_tiny_patch4_window7_224", SWIN, {"img_size": 32, "window_size": 4}, {"img_size": 64, "window_size": 8}),
    ("swin_tiny_patch4_window7_224", SWIN, {"img_size": 64, "window_size": 8}, {"img_size": 32, "window_size": 4}),
    ("swinv2_tiny_window8_256", SWIN, {"img_size": 32, "window_size": 4}, {"img_size": 64, "window_size": 8}),
    ("vit_small_patch16_dinov3", NARROW, {"img_size": 32}, {"img_size": 64}),
]


@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence", "ignore:torch.searchsorted")  # timm's own
@pytest.mark.parametrize(
    ("name", "kwargs", "old", "new"),
    SIZES,
    ids=[f"{name}-{old['img_size']}-{new['img_size']}" for name, _, old, new in SIZES],
)
def test_another_size_of_image_is_loaded_as_timm_loads_it(
    name: str,
    kwargs: dict[str, Any],
    old: dict[str, Any],
    new: dict[str, Any],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    torch.manual_seed(1)
    module = timm.create_model(name, **kwargs, **old)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter) / 8)
    plain = saved(tmp_path / "w.pth", {"state_dict": module.state_dict()})
    # As timm fine-tunes at another size; create_model(checkpoint_path=...) does not resample and refuses most of these.
    overlay = {"file": plain, "num_classes": 5, "custom_load": False}
    reference = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **kwargs, **new).eval()
    wrapped = saved(tmp_path / "v.pth", {"model": prefixed("module._orig_mod.", module.state_dict())})
    size = new["img_size"] if isinstance(new["img_size"], tuple) else (new["img_size"],) * 2
    for path in (plain, wrapped):
        caplog.clear()
        found = built(path, kwargs={**kwargs, **new}, name=name)
        assert found.state_dict().keys() == reference.state_dict().keys()
        assert all(torch.equal(value, found.state_dict()[key]) for key, value in reference.state_dict().items())
        assert torch.equal(answers(found, size), answers(reference, size))
        resampled = any(value.shape != module.state_dict()[key].shape for key, value in found.state_dict().items())
        assert ("resampled to the model's size" in said(caplog)) == resampled
    without = {key: value for key, value in kwargs.items() if key != "num_classes"}
    assert torch.equal(answers(built(plain, kwargs={**without, **new}, name=name), size), answers(reference, size))


def test_another_width_is_no_other_size(tmp_path: Path) -> None:
    path = saved(tmp_path / "w.pth", state())
    with pytest.raises(ModelError, match="has shape"):
        built(path, kwargs={**KWARGS, "embed_dim": 48, "img_size": 64})


def test_layer_scale_in_the_authors_names_is_renamed(tmp_path: Path) -> None:
    name = "deit3_small_patch16_224"
    module = zoo.build(zoo.resolve(name, kwargs=KWARGS, seed=4))
    theirs = {
        key.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2"): value
        for key, value in module.state_dict().items()
    }
    assert theirs.keys() != module.state_dict().keys()
    found = built(saved(tmp_path / "w.pth", {"model": theirs}), name=name)
    assert torch.equal(answers(found), answers(module))


# ---- what is said, and what is refused ----


def test_what_was_done_is_said_and_nothing_of_a_plain_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    built(saved(tmp_path / "w.pth", training({"model": state()})))
    assert not caplog.records
    built(saved(tmp_path / "w.pth", prefixed("module._orig_mod.", state())))
    assert "all its keys begin with 'module._orig_mod.', which was taken off" in said(caplog)
    built(saved(tmp_path / "w.pth", LAYOUTS["compiled blocks"]()))
    assert "what a wrapper put into its names was taken out: '_orig_mod'" in said(caplog)
    built(saved(tmp_path / "w.pth", LAYOUTS["averaged"]()))
    assert "left out, as counters of no tensor of the model: n_averaged" in said(caplog)


class Foreign:
    """A class that a checkpoint must not bring."""


def test_foreign_objects_are_refused_with_their_classes_and_how_to_save_again(tmp_path: Path) -> None:
    path = saved(tmp_path / "w.ckpt", {"state_dict": state(), "hyper_parameters": {"net": Foreign()}})
    with pytest.raises(ModelError, match=r"objects of .*\.Foreign, whose code.*torch\.save\(c\['state_dict'\]"):
        built(path)
    whole = saved(tmp_path / "whole.pth", trained())
    with pytest.raises(ModelError, match=r"objects of timm.*c\.state_dict\(\) of a whole model"):
        built(whole)


@pytest.mark.filterwarnings("ignore")
def test_a_torchscript_archive_is_named(tmp_path: Path) -> None:
    traced = torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2))  # type: ignore[no-untyped-call]
    torch.jit.save(traced, str(tmp_path / "w.pt"))
    with pytest.raises(ModelError, match=r"TorchScript archive.*torch\.jit\.load"):
        built(str(tmp_path / "w.pt"))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (lambda: [torch.ones(2)], "holds a list, no weights by name"),
        (lambda: {"epoch": 3, "log": ["a"]}, "no tensor under a name in it .it has epoch, log"),
        (lambda: {}, "it has nothing"),
        (
            lambda: {"encoder": state(), "head": {"x": torch.ones(2)}, "decoder": {"weight": torch.ones(3)}},
            "does not fit .*missing norm.bias; it also has 'head', 'decoder', which fit less",
        ),
    ],
)
def test_what_holds_no_weights_of_the_model_is_refused_with_what_it_has(
    content: Callable[[], Any], says: str, tmp_path: Path
) -> None:
    made = content()
    if isinstance(made, dict):
        made.get("encoder", {}).pop("norm.bias", None)
    with pytest.raises(ModelError, match=says):
        built(saved(tmp_path / "w.pth", made))


def test_a_file_that_holds_itself_ends(tmp_path: Path) -> None:
    around: dict[str, Any] = {"state_dict": state()}
    around["meta"] = around
    module = built(saved(tmp_path / "w.pth", around))
    assert torch.equal(answers(module), answers(trained()))


def test_the_digest_is_of_the_weights_and_not_of_where_they_lay(tmp_path: Path) -> None:
    path = saved(tmp_path / "w.pth", {"model": prefixed("module.", state(4)), "model_ema": state(3)})
    bare = saved(tmp_path / "bare.safetensors", state(3))
    sources = {"average": (path, None), "named": (path, "model_ema"), "bare": (bare, None), "plain": (path, "model")}
    digests: dict[str, str] = {}
    for name, (file, key) in sources.items():
        sliced = slice_model(VIT, 2, checkpoint=file, checkpoint_key=key, verify=False, **KWARGS)
        manifest = export(sliced, tmp_path / name)
        digests[name] = manifest.digest
        assert "checkpoint" not in manifest.to_json()
    assert digests["average"] == digests["named"] == digests["bare"] != digests["plain"]
    assert torch.equal(answers(load_span(tmp_path / "plain", 0, 2)), answers(trained(4)))


# ---- any nesting ----

WRAPPED = st.lists(
    st.sampled_from(["module", "model", "backbone", "_orig_mod", "net", "_fsdp_wrapped_module", "a-b"]), max_size=4
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    places=st.lists(st.sampled_from(["state_dict", "model", "model_ema", "module", "net", "ema", "x.y"]), max_size=4),
    prefix=WRAPPED,
    inside=st.booleans(),
    beside=st.booleans(),
    by_key=st.booleans(),
)
def test_any_nesting_of_mappings_and_prefixes_is_found(
    tmp_path: Path, places: list[str], prefix: list[str], inside: bool, beside: bool, by_key: bool
) -> None:
    tensors = compiled(state()) if inside else state()
    content: Any = prefixed("".join(f"{name}." for name in prefix), tensors)
    for place in reversed(places):
        content = {place: content, **({"epoch": 1, "optimizer": {"exp_avg": state(9)}} if beside else {})}
    path = saved(tmp_path / "any.pth", content)
    key = ".".join([*places, *prefix]) if by_key else None
    module = built(path, key or None)
    assert all(torch.equal(value, module.state_dict()[name]) for name, value in state().items())
    assert checkpoint_file.read_groups(path).keys() == {".".join(places)}
