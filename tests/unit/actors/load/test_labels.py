"""Which labels may count for a model's accuracy: never by a guessed order."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from timm.data import ImageNetInfo
from torch import nn

from actors.cli import load_command as cli
from actors.load import applications, labels, reference
from actors.load import job as load
from actors.load.expected import Expected
from slicer.common.command_line import values
from slicer.core.images.folders import LabelledImages, find_images
from slicer.core.protocol.messages import ServedModel
from slicer.errors import ImageError, ModelError
from slicer.models import zoo
from slicer.models.images import write_digits

DIGITS = tuple("0123456789")
OPEN = ("--rate", "20", "--duration", "1")


def images(*names: str, classes: tuple[str, ...] | None = None) -> LabelledImages:
    """One image of each name, in folders that are sorted as `find_images` sorts them."""
    sorted_ = classes or tuple(sorted(set(names), key=lambda name: (0, int(name)) if name.isdecimal() else (1, name)))
    return LabelledImages(tuple(Path(f"{n}/x.png") for n in names), tuple(map(sorted_.index, names)), sorted_)


def match(found: LabelledImages, classes: int | None, *names: str, shipped: bool = False, csv: bool = False) -> Any:
    return labels.match("m", found, classes, names, shipped=shipped, csv=csv)


def test_the_shipped_digits_count_for_a_model_that_says_it_is_one_of_digits() -> None:
    assert match(images(*DIGITS), 10, *DIGITS, shipped=True) == labels.Labels(tuple(range(10)), "names")


def test_by_name_means_by_the_models_own_order() -> None:
    assert match(images(*DIGITS), 10, *reversed(DIGITS), shipped=True).of == tuple(reversed(range(10)))
    assert match(images("cat", "dog"), 3, "dog", "owl", "cat").of == (2, 0)


@pytest.mark.parametrize(
    ("classes", "names"),
    [
        (10, ()),  # ten classes alone are no digits
        (7, ()),
        (1000, ()),
        (1, ()),
        (10, tuple("ABCDEFGHIJ")),
        (10, ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")),
        (9, tuple("123456789")),
        (None, ()),
    ],
)
def test_the_shipped_digits_count_for_no_other_model_and_the_reason_is_given(
    classes: int | None, names: tuple[str, ...]
) -> None:
    found = match(images(*DIGITS), classes, *names, shipped=True)
    assert set(found.of) == {None} and found.matched == ""
    assert "no top-1 for m: the shipped digits are for models of the digits 0 to 9" in found.note
    assert "To measure it, give images of its classes: --images DIR with a folder for each class, or" in found.note
    unnamed = classes is not None and not names
    assert ("or let the model state its class names (kwargs: {" in found.note) == unnamed
    assert found.note.endswith(". All other figures hold")
    assert classes is None or f"{classes} classes" in found.note


def test_folders_with_wordnet_ids_get_imagenets_numbers_even_if_only_some_classes_are_there() -> None:
    ids = ImageNetInfo("imagenet-1k").label_names()
    some = (ids[217], ids[0], ids[999])
    found = match(images(*some), 1000)
    assert found == labels.Labels((217, 0, 999), "WordNet ids")
    assert match(images(*some), 7).matched == "", "another head"
    assert match(images("n00000000"), 1000).matched == "", "no class of it"


def test_folders_that_are_numbers_are_class_numbers() -> None:
    assert match(images("2", "0", "10"), 11) == labels.Labels((2, 0, 10), "numbers")
    assert match(images("3", "5"), 1000).of == (3, 5), "not the first and the second class"
    beyond = match(images(*map(str, range(1, 11))), 10)
    assert beyond.matched == "" and "folder 10 is none of its classes 0 to 9" in beyond.note


def test_class_numbers_of_a_csv_count_and_one_beyond_the_models_is_refused() -> None:
    assert match(images("2", "0"), 3, csv=True).of == (2, 0)
    assert match(images("1"), 2, "1", "0", csv=True).of == (1,), "a number is the class number, whatever its name"
    with pytest.raises(ImageError, match=r"class 7 of x\.png, but model m has the classes 0 to 6"):
        match(images("0", "7"), 7, csv=True)
    with pytest.raises(ImageError, match="class 10 of"):
        match(images("0", "10"), 10, *DIGITS, csv=True)


def test_as_many_folders_as_classes_are_taken_in_sorted_order_and_that_is_said() -> None:
    found = match(images("cat", "dog", "owl"), 3)
    assert (found.of, found.matched) == ((0, 1, 2), "order")
    assert "sorted order (cat, dog, owl)" in found.note and "label_names" in found.note
    assert match(images("dog", classes=("cat", "dog", "owl")), 3).of == (1,), "an empty folder is a class, too"


@pytest.mark.parametrize(
    ("found", "classes", "names", "says"),
    [
        (images("cat", "dog"), 3, (), "2 folders, but it has 3 classes, without saying what they are"),
        (images("cat", "dog", "owl"), 2, (), "3 folders, but it has 2 classes"),
        (images("cat", "dog"), 2, ("cat", "hen"), "its classes are cat, hen, and 'dog' is none of them"),
        (images("Cat"), 1, ("cat",), "'Cat' is none of them"),
        (images("cat", "7"), 10, (), "2 folders, but it has 10 classes"),
        (images("cat"), None, (), "cannot be built here"),
    ],
)
def test_what_cannot_be_matched_is_not_measured_and_says_why(
    found: LabelledImages, classes: int, names: tuple[str, ...], says: str
) -> None:
    answer = match(found, classes, *names)
    assert set(answer.of) == {None} and answer.matched == ""
    assert says in answer.note and "--labels CSV" in answer.note


# ---- what a model says of itself ----


def said(classes: int, **attributes: Any) -> tuple[str, ...]:
    module = nn.Identity()
    for name, value in attributes.items():
        setattr(module, name, value)
    return labels.class_names(module, classes)


def test_class_names_are_what_the_model_states() -> None:
    assert said(2, pretrained_cfg={"label_names": ["a", "b"]}) == ("a", "b")
    assert said(2, pretrained_cfg=SimpleNamespace(label_names=("a", "b"))) == ("a", "b")
    assert said(2, config=SimpleNamespace(id2label={1: "b", 0: "a"})) == ("a", "b")
    assert said(2, config=SimpleNamespace(id2label={"1": "b", "0": "a"})) == ("a", "b")


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"pretrained_cfg": {"label_names": ["a", "b", "c"]}},  # of a head that was replaced
        {"pretrained_cfg": {"label_names": ["a", "a"]}},
        {"pretrained_cfg": {"label_names": "ab"}},
        {"pretrained_cfg": {"label_names": None}},
        {"config": SimpleNamespace(id2label={0: "LABEL_0", 1: "LABEL_1"})},
        {"config": SimpleNamespace(id2label={"first": "a", "second": "b"})},
    ],
)
def test_what_is_no_statement_of_class_names_counts_for_nothing(attributes: dict[str, Any]) -> None:
    assert said(2, **attributes) == ()


@pytest.mark.parametrize("model", zoo.DEMO_MODELS)
def test_the_demo_models_say_that_they_are_of_digits(model: str) -> None:
    assert labels.class_names(zoo.build(zoo.resolve(model)), 10) == DIGITS


def test_a_demo_model_with_another_head_says_nothing() -> None:
    spec = replace(zoo.resolve("digits_vit", kwargs={"num_classes": 7}), checkpoint=None)
    assert labels.class_names(zoo.build(spec), 7) == ()


# ---- in the job ----


def job(monkeypatch: pytest.MonkeyPatch, module: nn.Module | None, *flags: str) -> load.Job:
    """A job whose model gives what `module` gives."""
    if module is not None:
        monkeypatch.setattr(reference, "named_model", lambda name: (module, zoo.resolve("digits_vit")))
    made = load.Job(cli.config_of(cli.LoadFlags(**values(cli.command, [*OPEN, *flags]))))
    made.compute_reference()
    return made


def head(classes: int) -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, classes))


def test_the_demo_model_is_measured_on_its_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    found = job(monkeypatch, None)._expected.labels["digits_vit"]
    assert found.matched == "names" and found.note == ""


@pytest.mark.parametrize(
    ("served", "matched"),
    [(("dog", "cat"), "names"), (("dog", "dog"), "order"), ((), "order"), (("dog", "cat", "owl"), "order")],
)
def test_images_of_a_running_server_are_matched_by_the_labels_that_it_tells(
    served: tuple[str, ...], matched: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given_images = LabelledImages(write_digits(tmp_path / "digits").files[:2], (0, 1), ("cat", "dog"))
    model = ServedModel("own", "d", "{}", 4, (0,), "per_slice", ("fp32",), labels=served)
    monkeypatch.setattr(applications, "weights", lambda name, which: (model, None))
    monkeypatch.setattr(reference, "served_model", lambda manifest, read: (head(2), zoo.resolve("digits_vit")))
    flags = values(cli.command, [*OPEN, "--server", "running", "--images", str(tmp_path / "digits")])
    expected = Expected(cli.config_of(cli.LoadFlags(**flags)), given_images)
    expected.compute({"own": {0, 1}}, lambda note: None)
    assert expected.labels["own"].matched == matched
    assert expected.labels["own"].of == ((1, 0) if matched == "names" else (0, 1))


@pytest.mark.parametrize("classes", [7, 10, 1000])
def test_a_foreign_model_is_loaded_without_an_accuracy(classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    made = job(monkeypatch, head(classes))
    assert set(made._expected.labels["digits_vit"].of) == {None}
    assert any("no top-1 for digits_vit" in note for note in made._notes)
    assert made._expected.top1["digits_vit"], "agreement with the unsliced model is measured all the same"


def test_a_model_that_does_not_classify_is_refused_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="load a classifier"):
        job(monkeypatch, nn.Identity())


def folder(root: Path, *names: str) -> str:
    for name in names:
        (root / name).mkdir()
        Image.new("RGB", (8, 8)).save(root / name / "x.png")
    return str(root)


def test_own_images_of_another_number_of_classes_are_load_without_an_accuracy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = job(monkeypatch, head(7), "--images", folder(tmp_path, "cat", "dog"))
    assert "2 folders, but it has 7 classes" in made._expected.labels["digits_vit"].note


def test_a_csv_with_a_class_beyond_the_model_is_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = folder(tmp_path, "cat")
    (tmp_path / "labels.csv").write_text("file,label\ncat/x.png,7\n")
    with pytest.raises(ImageError, match="class 7 of x"):
        job(monkeypatch, head(7), "--images", root, "--labels", str(tmp_path / "labels.csv"))


@pytest.mark.parametrize("number", ["1000000", "9" * 30, "9" * 5000])
def test_a_number_that_is_no_class_number_is_refused_in_a_short_line(number: str, tmp_path: Path) -> None:
    root = folder(tmp_path, "cat")
    (tmp_path / "labels.csv").write_text(f"cat/x.png,{number}\n")
    with pytest.raises(ImageError, match="no class number") as refused:
        find_images(root, tmp_path / "labels.csv")
    assert len(str(refused.value)) < 300


def test_the_digits_as_own_images_count_for_a_model_of_ten_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = job(monkeypatch, head(10), "--images", str(write_digits(tmp_path / "digits").files[0].parents[1]))
    assert made._expected.labels["digits_vit"].matched == "numbers"


def test_a_model_of_one_channel_is_asked_in_grey(monkeypatch: pytest.MonkeyPatch) -> None:
    module = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 7))
    spec = zoo.resolve("digits_vit", kwargs={"in_chans": 1}, checkpoint=None)
    spec = replace(spec, data_config={**spec.data_config, "input_size": [1, 32, 32], "mean": [0.5], "std": [0.5]})
    monkeypatch.setattr(reference, "named_model", lambda name: (module, spec))
    made = load.Job(cli.config_of(cli.LoadFlags(**values(cli.command, OPEN))))
    made.compute_reference()
    assert made._expected.top1["digits_vit"] and set(made._expected.labels["digits_vit"].of) == {None}


def test_agreement_needs_no_labels_and_a_model_that_cannot_be_built_here_says_so() -> None:
    made = load.Job(cli.config_of(cli.LoadFlags(**values(cli.command, [*OPEN, "--model", "elsewhere:Only"]))))
    made.compute_reference()
    assert any("no agreement for elsewhere:Only" in note for note in made._notes)
    assert any("no top-1 for elsewhere:Only" in note for note in made._notes)


def test_a_name_that_no_machine_knows_is_refused_before_anything_starts() -> None:
    made = load.Job(cli.config_of(cli.LoadFlags(**values(cli.command, [*OPEN, "--model", "digits_vti"]))))
    with pytest.raises(ModelError, match="unknown model 'digits_vti'; did you mean digits_vit"):
        made.compute_reference()


def test_answers_say_how_many_classes_the_model_has(tmp_path: Path) -> None:
    files = [Path(folder(tmp_path, "a")) / "a" / "x.png"] * 3
    with torch.inference_mode():
        found = reference.answers(head(7), zoo.resolve("digits_vit"), files, batch=2)
    assert (len(found.top1), found.classes) == (3, 7)
    assert reference.answers(head(7), zoo.resolve("digits_vit"), []).classes is None
