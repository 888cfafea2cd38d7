"""What a model's classes are called: what is taken for labels, from where, and what is refused with a remedy."""

from __future__ import annotations

import json
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from slicer.core.shards.spec import ModelSpec
from slicer.errors import ConfigError, ModelError
from slicer.models import zoo
from slicer.models.labels import FILE, as_labels, given_labels, labels_of, of_checkpoint, stated, write_labels

PETS = ("cat", "dog", "guinea pig")
SPEC = ModelSpec("vit_tiny_patch16_224")


def file_of(folder: Path, text: str, name: str = "pets.txt") -> Path:
    (folder / name).write_bytes(text.encode())
    return folder / name


def found(spec: ModelSpec | None = SPEC, classes: int = 3, **given: Any) -> tuple[str, ...]:
    return labels_of("auto", given.pop("module", nn.Identity()), spec, (classes,), name="m", **given)


# ---- what a person gives ----


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("cat\ndog\nguinea pig", "pets.txt"),
        ("\ufeffcat\r\ndog \r\n guinea pig\r\n\r\n", "pets.txt"),
        ('["cat", "dog", "guinea pig"]', "pets.json"),
        (' ["cat", "dog", "guinea pig"]', "pets.txt"),
        ('{"2": "guinea pig", "0": "cat", "1": "dog"}', "pets.json"),
        ('{"guinea pig": 2, "cat": 0, "dog": 1}', "pets.json"),
        ('{"id2label": {"0": "cat", "1": "dog", "2": "guinea pig"}, "num_labels": 3}', "config.json"),
    ],
)
def test_a_file_is_lines_or_json_as_people_have_it(text: str, name: str, tmp_path: Path) -> None:
    assert given_labels(str(file_of(tmp_path, text, name))) == PETS
    assert given_labels(name, tmp_path) == PETS, "a relative path begins at the folder"


def test_a_list_of_a_configuration_is_text_and_numbers_and_may_be_none_at_all() -> None:
    assert given_labels(["a", 2, 3.5]) == ("a", "2", "3.5")
    assert given_labels({1: "b", 0: "a"}) == ("a", "b")
    assert given_labels("auto") == "auto"
    assert [given_labels(value) for value in ("none", None, [], ())] == [()] * 4


def test_names_that_are_numbers_keep_their_places() -> None:
    """ImageFolder sorts 10 before 2, and its class_to_idx is a mapping of numbers to numbers in JSON."""
    by_name = {"0": 0, "1": 1, "10": 2, **{str(number): number + 1 for number in range(2, 10)}}
    assert as_labels(by_name, "x")[:4] == ("0", "1", "10", "2")
    assert as_labels({"0": 10, "1": 20}, "x") == ("10", "20")


@pytest.mark.parametrize(
    ("text", "name", "says"),
    [
        ("cat\n\ndog\n", "pets.txt", r"pets\.txt, line 2 is empty"),
        ("", "pets.txt", "there is no label"),
        ("cat\nd\x1b[31mog\n", "pets.txt", "label 1 is .*on one line"),
        ("c" * 501, "pets.txt", "1 to 500 letters"),
        ("{", "pets.json", r"pets\.json: .* is not JSON"),
        ('{"0": "a", "2": "b"}', "pets.json", "the numbers of its 2 labels must be 0 to 1"),
        ('{"0": "a", "00": "b"}', "pets.json", "must be 0 to 1"),
        ('["a", true]', "pets.json", "label 1 is True; a label is text: write it in quotes"),
        ('["a", ["b"]]', "pets.json", "label 1 is"),
        ("3", "pets.json", "3 is no list of labels"),
    ],
)
def test_an_odd_file_is_refused_with_its_name(text: str, name: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        given_labels(str(file_of(tmp_path, text, name)))
    assert name in str(caught.value)


def test_a_file_that_is_not_there_or_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"labels .*absent\.txt: there is no such file"):
        given_labels(str(tmp_path / "absent.txt"))
    with pytest.raises(ConfigError, match="is a directory; give a text file with a label on each line"):
        given_labels(str(tmp_path))
    (tmp_path / "x.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(ConfigError, match="no text in UTF-8"):
        given_labels(str(tmp_path / "x.txt"))


# ---- which ones a model gets ----


def test_another_number_of_labels_than_classes_is_refused_with_both_and_the_remedy() -> None:
    with pytest.raises(ConfigError, match=r"model 'm': 3 labels for 37 classes; .* or labels: none"):
        labels_of(PETS, nn.Identity(), SPEC, (37,), name="m")
    with pytest.raises(ConfigError, match=r"answers \[16, 96\] per image.*leave labels out"):
        labels_of(PETS, nn.Identity(), SPEC, (16, 96), name="m")
    assert labels_of(PETS, nn.Identity(), SPEC, (3,), name="m") == PETS
    assert labels_of((), nn.Identity(), SPEC, (16, 96), name="m") == ()
    assert labels_of("auto", nn.Identity(), SPEC, (16, 96), name="m") == ()


def test_they_are_looked_for_in_an_export_then_a_model_file_then_the_checkpoint_then_the_model(tmp_path: Path) -> None:
    module = nn.Identity()
    module.pretrained_cfg = {"label_names": ["1", "2", "3"]}
    weights = tmp_path / "w.pth"
    torch.save({"state_dict": {}, "classes": ["x", "y", "z"]}, weights)
    write_labels(tmp_path, PETS)
    spec = replace(SPEC, checkpoint=str(weights), labels=("a", "b", "c"))
    assert found(spec, module=module, directory=tmp_path) == PETS
    (tmp_path / FILE).unlink()
    assert found(spec, module=module, directory=tmp_path) == ("a", "b", "c")
    assert found(replace(spec, labels=()), module=module) == ("x", "y", "z")
    assert found(SPEC, module=module) == ("1", "2", "3")
    assert found(SPEC) == () and found(None) == ()


def test_an_export_or_a_model_file_with_another_number_is_refused_and_named(tmp_path: Path) -> None:
    write_labels(tmp_path, PETS)
    with pytest.raises(ConfigError, match=rf"{FILE} has 3 labels for 4 classes"):
        found(classes=4, directory=tmp_path)
    with pytest.raises(ConfigError, match="vit_tiny_patch16_224 has 2 labels for 3 classes"):
        found(replace(SPEC, labels=("a", "b")))


def test_what_is_written_beside_shards_is_read_again(tmp_path: Path) -> None:
    labels = ("Straße", "a:b", '"')
    write_labels(tmp_path, labels)
    assert given_labels(str(tmp_path / FILE)) == labels
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


# ---- checkpoints ----


@pytest.mark.parametrize(
    "beside",
    [
        {"classes": list(PETS)},
        {"class_names": PETS},
        {"CLASSES": PETS},
        {"labels": list(PETS)},
        {"idx_to_class": {2: "guinea pig", 0: "cat", 1: "dog"}},
        {"class_to_idx": {"guinea pig": 2, "cat": 0, "dog": 1}},
        {"id2label": {"0": "cat", "1": "dog", "2": "guinea pig"}},
        {"args": Namespace(lr=0.1, class_names=list(PETS))},
        {"args": {"lr": 0.1, "classes": list(PETS)}},
        {"hyper_parameters": {"class_to_idx": {"cat": 0, "dog": 1, "guinea pig": 2}}},
        {"meta": {"dataset_meta": {"classes": PETS}}},
        {"labels": torch.tensor([1, 2, 3]), "classes": 3, "class_names": list(PETS)},
    ],
)
def test_a_checkpoint_says_them_in_the_words_that_people_use(beside: dict[str, Any], tmp_path: Path) -> None:
    torch.save({"state_dict": {"w": torch.zeros(3)}, **beside}, tmp_path / "w.pth")
    assert of_checkpoint(str(tmp_path / "w.pth"), 3) == PETS


@pytest.mark.parametrize(
    "beside",
    [
        {},
        {"classes": 3},
        {"classes": ["cat", "dog"]},
        {"labels": torch.tensor([0, 1, 2])},
        {"labels": "cat"},
        {"id2label": {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}},
        {"classes": ["a\nb", "c", "d"]},
    ],
)
def test_what_names_no_class_each_is_passed_over(beside: dict[str, Any], tmp_path: Path) -> None:
    torch.save({"state_dict": {"w": torch.zeros(3)}, **beside}, tmp_path / "w.pth")
    assert of_checkpoint(str(tmp_path / "w.pth"), 3) == ()


class Surprise:
    """Would run code when a pickle with it is read."""

    def __reduce__(self) -> Any:
        return (print, ("code of a checkpoint ran",))


def test_no_code_of_a_checkpoint_runs_and_an_old_format_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"classes": list(PETS), "x": Surprise()}, tmp_path / "bad.pth")
    assert of_checkpoint(str(tmp_path / "bad.pth"), 3) == () and capsys.readouterr().out == ""
    torch.save({"classes": list(PETS)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert of_checkpoint(str(tmp_path / "old.pth"), 3) == PETS
    assert of_checkpoint(str(tmp_path / "absent.pth"), 3) == ()
    around: dict[str, Any] = {}
    around["meta"] = around
    torch.save(around, tmp_path / "around.pth")
    assert of_checkpoint(str(tmp_path / "around.pth"), 3) == ()


@pytest.mark.parametrize(
    "metadata",
    [{"labels": json.dumps(PETS)}, {"id2label": '{"0": "cat", "1": "dog", "2": "guinea pig"}'}],
)
def test_a_safetensors_file_says_them_in_its_metadata(metadata: dict[str, str], tmp_path: Path) -> None:
    save_file({"w": torch.zeros(3)}, tmp_path / "w.safetensors", metadata)
    assert of_checkpoint(str(tmp_path / "w.safetensors"), 3) == PETS
    save_file({"w": torch.zeros(3)}, tmp_path / "w.safetensors", {"labels": "cat, dog, guinea pig"})
    assert of_checkpoint(str(tmp_path / "w.safetensors"), 3) == ()


# ---- models that say it themselves, and timm's ----


def test_a_model_says_it_by_its_configuration() -> None:
    module = nn.Identity()
    module.config = SimpleNamespace(id2label={1: "b", 0: "a"})
    assert stated(module, 2) == ("a", "b") and stated(module, 3) == ()
    module.pretrained_cfg = {"label_names": ["same", "same"]}
    assert stated(module, 2) == ("same", "same"), "ImageNet has two cranes as well"


def test_the_demo_models_have_the_digits() -> None:
    for name in zoo.DEMO_MODELS:
        spec = zoo.resolve(name)
        assert found(spec, 10, module=zoo.build_structure(spec)) == tuple("0123456789")


def test_pretrained_weights_of_timm_have_imagenets_names_and_random_ones_have_none() -> None:
    pretrained = replace(SPEC, pretrained=True)
    names = found(pretrained, 1000)
    assert names[0] == "tench, Tinca tinca" and len(names) == 1000
    assert found(SPEC, 1000) == (), "random"
    assert found(replace(pretrained, kwargs={"num_classes": 21843}), 21843) == (), "its classifier was replaced"
    larger = replace(pretrained, architecture="vit_tiny_patch16_224.augreg_in21k")
    assert len(found(larger, 21843)) == 21843


def test_wordnets_ids_are_told_in_words() -> None:
    from timm.data import ImageNetInfo

    module = nn.Identity()
    module.pretrained_cfg = {"label_names": ImageNetInfo().label_names()}
    assert stated(module, 1000)[0] == "tench, Tinca tinca"
    assert stated(module, 1000, described=False)[0] == "n01440764"


# ---- model files ----


def test_a_model_file_names_them_or_a_file_beside_it(tmp_path: Path) -> None:
    file_of(tmp_path, "cat\ndog\n")
    for said in ("pets.txt", "[cat, dog]", "{0: cat, 1: dog}"):
        (tmp_path / "m.yaml").write_text(f"architecture: vit_tiny_patch16_224\nlabels: {said}\n")
        assert zoo.resolve(str(tmp_path / "m.yaml")).labels == ("cat", "dog")
    (tmp_path / "m.yaml").write_text("architecture: vit_tiny_patch16_224\nlabels: absent.txt\n")
    with pytest.raises(ModelError, match=r"m\.yaml: .*absent\.txt: there is no such file"):
        zoo.resolve(str(tmp_path / "m.yaml"))
    (tmp_path / "m.yaml").write_text("architecture: vit_tiny_patch16_224\nlabels: [yes, no]\n")
    with pytest.raises(ModelError, match="write it in quotes"):
        zoo.resolve(str(tmp_path / "m.yaml"))
