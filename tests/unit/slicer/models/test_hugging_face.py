"""Models of Hugging Face: every family exact at every boundary, from shards alone, and what is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from benchmarks.models.hugging_face import FAMILIES, Family, answer, save_random
from slicer import shards, slice_model
from slicer.errors import ModelError
from slicer.models import zoo
from slicer.models.hugging_face import structure
from slicer.models.hugging_face.processor import data_config_of
from slicer.models.images import Preprocess
from slicer.models.labels import labels_of

transformers = pytest.importorskip("transformers")

BY_NAME = {family.name: family for family in FAMILIES}
VIT = BY_NAME["ViT"]
ROOT = Path(__file__).resolve().parents[4]


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hf") / "my-vit"
    save_random(VIT, folder, tiny=True)
    return folder


@pytest.fixture
def copy(vit: Path, tmp_path: Path) -> Path:
    """A folder that a test may change."""
    return Path(shutil.copytree(vit, tmp_path / "copy"))


def edit(folder: Path, file: str = "config.json", **values: Any) -> None:
    document = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**document, **values}))


def images(*shape: int) -> torch.Tensor:
    return torch.randn((2, *shape), generator=torch.Generator().manual_seed(2))


# Families


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_head_and_tail_are_transformers_own_model_at_every_cut(family: Family, tmp_path: Path) -> None:
    model = save_random(family, tmp_path / "model", tiny=True)
    sliced = slice_model(str(tmp_path / "model"), "all", verify=False)
    x = images(3, 32, 32)
    whole = answer(family, model, x)
    with torch.inference_mode():
        for cut in range(sliced.num_slices + 1):
            assert torch.equal(sliced.tail(cut)(sliced.head(cut)(x)), whole), f"cut {cut}"
    assert len(sliced.boundaries) >= 3


#: For each export: its middle cut, from the files alone.
FRESH = """
import sys, torch
from slicer import shards
torch.set_num_threads(1)
for name in sys.argv[2:]:
    x, whole = torch.load(f"{sys.argv[1]}/{name}.pt")
    n = shards.load_manifest(f"{sys.argv[1]}/{name}").num_slices
    head, tail = (shards.load_span(f"{sys.argv[1]}/{name}", *ends) for ends in ((0, n // 2), (n // 2, n)))
    with torch.inference_mode():
        assert torch.equal(tail(head(x)), whole), name
print(len(sys.argv[2:]))
"""


def test_a_fresh_process_rebuilds_each_family_from_its_shards_without_the_folder(tmp_path: Path) -> None:
    names = ["Swin", "DINOv2 with registers", "BEiT", "CLIP tower"]  # all of them: benchmarks/models/hugging_face.py
    x = images(3, 32, 32)
    for name in names:
        model = save_random(BY_NAME[name], tmp_path / "model", tiny=True)
        shards.export(slice_model(str(tmp_path / "model"), 4, verify=False), tmp_path / name)
        shutil.rmtree(tmp_path / "model")
        torch.save((x, answer(BY_NAME[name], model, x)), tmp_path / f"{name}.pt")
    done = subprocess.run(
        [sys.executable, "-c", FRESH, str(tmp_path), *names], cwd=ROOT, capture_output=True, text=True, timeout=200
    )
    assert done.stdout.strip() == str(len(names)), done.stderr


def test_features_are_those_of_the_own_pass_while_another_thread_runs_the_model(vit: Path) -> None:
    """The other pass begins and ends while this one is between its tower and its classifier."""
    spec = zoo.resolve(str(vit), outputs=["features"])
    module = zoo.build(spec)
    mine, other = images(3, 32, 32)[:1], images(3, 32, 32)[1:]
    want = module(mine)
    begun: list[bool] = []

    def run_another(*_: Any) -> None:
        if not begun:
            begun.append(True)
            thread = threading.Thread(target=module, args=(other,))
            thread.start()
            thread.join()

    module.model.classifier.register_forward_pre_hook(run_another)  # type: ignore[union-attr]
    assert torch.equal(module(mine), want)
    assert begun
    assert not torch.equal(module(other), want)


def test_slicing_a_model_leaves_nothing_for_the_next_one_to_read(tmp_path: Path) -> None:
    """transformers keeps BEiT's table of indices for the process; a trace on meta once left one without values."""
    family = BY_NAME["BEiT"]
    model = save_random(family, tmp_path / "model", tiny=True)
    slice_model(str(tmp_path / "model"), 2, verify=False)
    other = save_random(family, tmp_path / "other", tiny=True)
    x = images(3, 32, 32)
    assert torch.equal(answer(family, model, x), answer(family, other, x))


def test_a_boundary_of_a_unit_that_returns_a_tuple_is_named_as_the_unit(tmp_path: Path) -> None:
    save_random(BY_NAME["Swin"], tmp_path / "model", tiny=True)
    names = {b.name: b.block for b in slice_model(str(tmp_path / "model"), "all", verify=False).boundaries}
    assert names["model.swin.encoder.layers.0.blocks.1"] == 1


# The spec


def test_a_spec_holds_the_config_and_no_place_of_this_machine(vit: Path) -> None:
    spec = zoo.resolve(str(vit))
    assert (spec.architecture, spec.kind) == ("hf:my-vit", "hf")
    assert spec.kwargs["class"] == "ViTForImageClassification"
    assert (spec.kwargs["attention"], spec.kwargs["output"]) == ("sdpa", "logits")
    assert spec.kwargs["config"]["hidden_size"] == 32
    assert zoo.resolve(f"hf:{vit}") == zoo.resolve(vit) == spec


def test_the_digest_does_not_depend_on_where_the_folder_lies(vit: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(vit, tmp_path / "elsewhere" / vit.name))
    here = shards.export(slice_model(str(vit), 2), tmp_path / "a")
    there = shards.export(slice_model(str(moved), 2), tmp_path / "b")
    assert here.digest == there.digest
    assert str(vit.parent) not in here.to_json()


def test_attention_is_part_of_the_identity(vit: Path, tmp_path: Path) -> None:
    made = [
        shards.export(slice_model(str(vit), 2, attention=attention), tmp_path / attention)
        for attention in ("sdpa", "eager")
    ]
    assert made[0].digest != made[1].digest
    assert shards.load_sliced(tmp_path / "eager").module.config._attn_implementation == "eager"


def test_a_class_without_sdpa_gets_eager_and_says_so(tmp_path: Path) -> None:
    save_random(BY_NAME["Swinv2"], tmp_path / "m", tiny=True)
    assert zoo.resolve(str(tmp_path / "m")).kwargs["attention"] == "eager"
    with pytest.raises(ModelError, match="eager alone"):
        zoo.resolve(str(tmp_path / "m"), kwargs={"attention": "sdpa"})


def test_a_model_file_may_name_a_folder_beside_it(copy: Path) -> None:
    (copy.parent / "model.yaml").write_text("architecture: hf:./copy\ndtype: bf16\nkwargs: {attention: eager}\n")
    spec = zoo.resolve(str(copy.parent / "model.yaml"))
    assert (spec.architecture, spec.dtype, spec.kwargs["attention"]) == ("hf:copy", "bf16", "eager")
    assert zoo.build(spec)(images(3, 32, 32).bfloat16()).shape == (2, 7)


def test_labels_are_the_config_s_unless_they_only_number(copy: Path) -> None:
    assert zoo.resolve(str(copy)).labels == ()
    names = ["kitten", "dog", "owl", "bee", "ant", "cow", "hen"]
    edit(copy, id2label=dict(enumerate(names)))
    spec = zoo.resolve(str(copy))
    assert labels_of("auto", zoo.build(spec), spec, (7,), name="m") == tuple(names)
    assert "kitten" not in str(spec.kwargs)


def test_a_tower_of_a_model_of_text_and_vision_is_taken_out(tmp_path: Path) -> None:
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    sides = {"vision_config": {**small, "image_size": 32, "patch_size": 8, "projection_dim": 24}, "text_config": small}
    for name, kind in (("CLIP", "CLIPModel"), ("Siglip", "SiglipModel")):
        config = getattr(transformers, f"{name}Config")(**sides, projection_dim=24)
        model = getattr(transformers, kind)(config).eval().requires_grad_(False)  # else MHA rounds otherwise
        model.save_pretrained(tmp_path / name)
        module = zoo.build(zoo.resolve(str(tmp_path / name)))
        x = images(3, 32, 32)
        with torch.inference_mode():
            assert torch.equal(module(x), model.get_image_features(x).pooler_output)


def test_a_tower_without_a_pooling_layer_answers_with_its_first_token(tmp_path: Path) -> None:
    model = save_random(BY_NAME["ViT tower"], tmp_path / "m", tiny=True)
    file = tmp_path / "m" / "model.safetensors"
    save_file({key: value for key, value in load_file(file).items() if "pooler" not in key}, file)
    spec = zoo.resolve(str(tmp_path / "m"))
    assert spec.kwargs["output"] == "first_token"
    x = images(3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(zoo.build(spec)(x), model(x).last_hidden_state[:, 0])
    with pytest.raises(ModelError, match=r"missing .*pooler.*output=first_token"):
        zoo.build(zoo.resolve(str(tmp_path / "m"), kwargs={"output": "pooler_output"}))


# Weights


def test_weights_of_torch_s_own_format_and_of_several_files_are_read(vit: Path, copy: Path) -> None:
    whole = zoo.build(zoo.resolve(str(vit)))(images(3, 32, 32))
    state = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    torch.save(state, copy / "pytorch_model.bin")
    assert torch.equal(zoo.build(zoo.resolve(str(copy)))(images(3, 32, 32)), whole)
    (copy / "pytorch_model.bin").unlink()
    names = sorted(state)
    files = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in files.items():
        save_file({name: state[name] for name in part}, copy / file)
    index = {"weight_map": {name: file for file, part in files.items() for name in part}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    assert torch.equal(zoo.build(zoo.resolve(str(copy)))(images(3, 32, 32)), whole)


def test_a_folder_without_weights_gets_seeded_random_ones_and_the_log_says_so(
    copy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (copy / "model.safetensors").unlink()
    first, second = (zoo.build(zoo.resolve(str(copy), seed=5)).state_dict() for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert "holds no weights; they are random (seed 5)" in caplog.text


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda state: state.pop("classifier.bias"), r"missing .*classifier\.bias"),
        (lambda state: state.update(extra=torch.zeros(2)), "leftover extra"),
        (lambda state: state.update({"classifier.bias": torch.zeros(9)}), "classifier.bias"),
        (lambda state: state["classifier.bias"].fill_(float("nan")), "holds NaN"),
        (lambda state: state.update({"classifier.bias": torch.zeros(7, dtype=torch.int8)}), r"int8.*quantised"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(copy: Path, change: Any, says: str) -> None:
    state = load_file(copy / "model.safetensors")
    change(state)
    save_file(state, copy / "model.safetensors")
    with pytest.raises(ModelError, match=says):
        zoo.build(zoo.resolve(str(copy)))


# What is refused


@pytest.mark.parametrize(
    ("values", "kwargs", "says"),
    [
        ({"architectures": ["BertModel"]}, {}, "BertModel is neither"),
        ({"architectures": ["ViTForMaskedImageModeling"]}, {}, "ViTForMaskedImageModeling is neither"),
        ({"architectures": ["BeitForSemanticSegmentation"]}, {}, "neither.* nor SegformerForSemanticSegmentation nor"),
        ({"architectures": ["os.systemForImageClassification"]}, {}, "has no image model"),
        ({"quantization_config": {"quant_method": "bnb"}}, {}, "quantised"),
        ({"hidden_size": "wide"}, {}, "ViTForImageClassification (is not valid|cannot be built)"),
        ({}, {"depth": 3}, "unknown kwargs depth; known are attention, output, img_size"),
        ({}, {"attention": "flash"}, "attention 'flash'"),
        ({}, {"output": "pooler_output"}, "ViTForImageClassification offers logits"),
    ],
)
def test_a_model_that_is_none_of_ours_is_refused_with_the_reason(
    copy: Path, values: dict[str, Any], kwargs: dict[str, Any], says: str
) -> None:
    edit(copy, **values)
    with pytest.raises(ModelError, match=says):
        zoo.build(zoo.resolve(str(copy), kwargs=kwargs))


def test_code_that_comes_with_a_model_is_not_run(copy: Path) -> None:
    (copy / "mine.py").write_text("raise SystemExit('ran')\n")
    edit(copy, auto_map={"AutoConfig": "mine.Config", "AutoModelForImageClassification": "mine.Model"})
    assert zoo.build(zoo.resolve(str(copy)))(images(3, 32, 32)).shape == (2, 7)


def test_a_manifest_names_no_class_but_an_image_model(vit: Path) -> None:
    spec = zoo.resolve(str(vit))
    with pytest.raises(ModelError, match="AutoModel"):
        structure.build({**spec.kwargs, "class": "AutoModel"})


@pytest.mark.parametrize("name", ["hf:./no_such_folder", "hf:", "hf:one_word", "hf:a/b/c"])
def test_a_name_that_is_neither_a_folder_nor_of_the_hub_is_refused(name: str) -> None:
    with pytest.raises(ModelError, match="no such folder"):
        zoo.resolve(name)


@pytest.mark.parametrize("name", ["hf:google/vit-tiny", "hf-hub:timm/vit_tiny_patch16_224"])
def test_without_a_network_the_error_says_what_to_do(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match=r"no config\.json; give a folder .*hf download .*HF_HOME"):
        zoo.resolve(name)


def test_without_transformers_the_error_names_the_extra(vit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ModelError, match=r"pip install 'headtail\[hf\]'"):
        zoo.resolve(str(vit))


# Images


def _photo(width: int, height: int) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def of_pil(name: str) -> Any:
    """transformers' processor that resizes by PIL; the first versions of 5 gave it the plain name."""
    return getattr(transformers, f"{name}ImageProcessorPil", None) or getattr(transformers, f"{name}ImageProcessor")


PROCESSORS: dict[str, dict[str, Any]] = {
    "ViT": {},
    "DeiT": {},
    "Bit": {"size": {"shortest_edge": 256}},
    "CLIP": {},
    "Siglip": {"size": {"height": 384, "width": 256}},
    "Beit": {"do_normalize": False},
    "Segformer": {},
    "ConvNext": {"size": {"shortest_edge": 224}, "crop_pct": 0.875},
}


@pytest.mark.parametrize("size", [(320, 240), (240, 320), (224, 224), (100, 80)])
@pytest.mark.parametrize("name", PROCESSORS)
def test_images_have_the_bits_of_transformers_own_processor(name: str, size: tuple[int, int], vit: Path) -> None:
    processor = of_pil(name)(**PROCESSORS[name])
    document = {**processor.to_dict(), "image_processor_type": f"{name}ImageProcessor"}
    config = data_config_of(document, "m")
    ours = Preprocess(replace(zoo.resolve(str(vit)), data_config=config))(_photo(*size))
    theirs = processor(_photo(*size), return_tensors="np")["pixel_values"][0]
    assert ours.shape == theirs.shape
    assert np.array_equal(ours, theirs.astype(np.float32)), np.abs(ours - theirs).max()


def test_a_crop_that_leaves_an_odd_number_of_columns_begins_at_most_one_pixel_apart(vit: Path) -> None:
    processor = of_pil("CLIP")()
    config = data_config_of({**processor.to_dict(), "image_processor_type": "CLIPImageProcessor"}, "m")
    image = _photo(227, 224)
    ours = Preprocess(replace(zoo.resolve(str(vit)), data_config=config))(image)
    theirs = processor(image, return_tensors="np")["pixel_values"][0]
    pairs = [(ours[..., 1:], theirs[..., :-1]), (ours[..., :-1], theirs[..., 1:]), (ours, theirs)]
    assert any(np.array_equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ({"image_processor_type": "MaskFormerImageProcessor"}, "MaskFormerImageProcessor"),
        ({"do_resize": False}, "do_resize: false"),
        ({"do_rescale": False}, "do_rescale: False"),
        ({"rescale_factor": 1 / 127.5}, "rescale_factor"),
        (
            {"image_processor_type": "CLIPImageProcessor", "do_center_crop": False, "size": {"shortest_edge": 32}},
            "without a",
        ),
    ],
)
def test_preprocessing_that_timm_has_not_is_refused_and_may_be_described(
    copy: Path, document: dict[str, Any], says: str
) -> None:
    edit(copy, "preprocessor_config.json", **document)
    with pytest.raises(ModelError, match=f"{says}.*data_config"):
        zoo.resolve(str(copy))
    said = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"}
    file = copy.parent / "model.yaml"
    file.write_text(
        json.dumps({"architecture": "hf:./copy", "data_config": {**said, "crop_pct": 1, "crop_mode": "center"}})
    )
    assert zoo.data_config(zoo.resolve(str(file)))["interpolation"] == "bicubic"


def test_an_image_size_may_be_given_where_the_model_takes_it(tmp_path: Path) -> None:
    save_random(BY_NAME["DINOv2"], tmp_path / "m", tiny=True)
    assert slice_model(str(tmp_path / "m"), 2, img_size=48).input_shape == (3, 48, 48)


# timm's models in folders of the hub's form, and torchvision's


def test_a_folder_of_timm_s_is_the_timm_model_with_its_weights(tmp_path: Path) -> None:
    tiny = {"img_size": 32, "depth": 2, "embed_dim": 64, "num_heads": 2}
    model = zoo.build(zoo.resolve("vit_tiny_patch16_224", kwargs={**tiny, "num_classes": 3}, seed=4))
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    about = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3, "num_classes": 3, "crop_pct": 1.0}
    document = {"architecture": "vit_tiny_patch16_224", "num_classes": 3, "pretrained_cfg": about, "model_args": tiny}
    (tmp_path / "config.json").write_text(json.dumps({**document, "label_names": ["a", "b", "c"]}))
    spec = zoo.resolve(f"local-dir:{tmp_path}")
    assert (spec.architecture, spec.labels) == ("vit_tiny_patch16_224", ("a", "b", "c"))
    assert zoo.data_config(spec)["mean"] == (0.5, 0.5, 0.5)
    assert torch.equal(zoo.build(spec)(images(3, 32, 32)), model(images(3, 32, 32)))
    with pytest.raises(ModelError, match="no architecture of timm"):
        (tmp_path / "config.json").write_text('{"model_type": "vit"}')
        zoo.resolve(f"local-dir:{tmp_path}")


def test_a_model_of_torchvision_is_an_own_module_with_a_name(tmp_path: Path) -> None:
    small = {"image_size": 32, "patch_size": 8, "num_layers": 2, "num_heads": 2, "hidden_dim": 32, "mlp_dim": 64}
    name = "torchvision.models.vision_transformer:VisionTransformer"
    (tmp_path / "m.yaml").write_text(
        json.dumps({"architecture": name, "kwargs": small, "data_config": {"input_size": [3, 32, 32]}})
    )
    sliced = slice_model(str(tmp_path / "m.yaml"), "all")
    shards.export(sliced, tmp_path / "e")
    x = images(3, 32, 32)
    n = sliced.num_slices
    head, tail = (shards.load_span(tmp_path / "e", *ends) for ends in ((0, n // 2), (n // 2, n)))
    assert torch.equal(tail(head(x)), sliced.module(x))
