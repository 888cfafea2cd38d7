"""What an answer is worth: all of it for exact activations, less for noisy ones, nothing where it cannot be said."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from benchmarks.frontier.answers import Floats, Judge
from benchmarks.frontier.image_ways import inputs_of
from benchmarks.frontier.photos import shipped_digits
from slicer import errors, slice_model
from slicer.calibration.collect import run
from slicer.models.images import Preprocess
from slicer.slicing.sliced_model import SlicedModel


@cache
def digits(model: str, *at: str | int) -> tuple[SlicedModel, Floats, Floats, tuple[int, ...]]:
    """The model, inputs of some digits, of 20 others, and the labels of the first."""
    sliced = slice_model(model, at=list(at), verify=False)
    assert sliced.spec is not None
    preprocess, found = Preprocess(sliced.spec), shipped_digits(6)
    assert found.labels is not None
    sent, seen = (
        inputs_of([preprocess.crop(image) for image in images], preprocess)
        for images in (found.test, found.calibration[:20])
    )
    return sliced, sent, seen, found.labels


@pytest.mark.parametrize("model", ["digits_vit", "digits_swin"])
@pytest.mark.parametrize("cut", [0, 1])
def test_an_exact_activation_is_worth_all_and_a_noisy_one_less(model: str, cut: int) -> None:
    sliced, inputs, references, labels = digits(model, 5)
    judge = Judge(sliced, inputs, references, labels)
    rows = run(sliced.head(cut), inputs)

    exact = judge.worth(cut, rows)
    assert exact.neighbours is not None and exact.patches is not None and exact.right is not None
    assert exact.cosine == pytest.approx(1, abs=1e-6)
    assert exact.neighbours.tolist() == [1] * 6
    assert exact.patches == pytest.approx(0, abs=1e-9)
    assert exact.right.mean() > 0.8

    noise = np.random.default_rng(0).normal(size=rows.shape).astype(np.float32)
    noisy = judge.worth(cut, rows + 3 * float(rows.std()) * noise)
    assert noisy.neighbours is not None and noisy.patches is not None
    assert noisy.cosine.mean() < 0.9
    assert noisy.neighbours.mean() < 0.9
    assert noisy.patches.min() > 0.01


def test_a_class_is_right_by_the_label_of_the_image_that_was_sent() -> None:
    sliced, inputs, references, labels = digits("digits_vit", 5)
    judge = Judge(sliced, inputs, references, labels)
    assert judge.right is not None and judge.right.all()
    mixed_up = judge.worth(0, np.roll(inputs, 1, axis=0)).right
    assert mixed_up is not None
    assert mixed_up.tolist() == (np.roll(labels, 1) == labels).tolist()
    assert not mixed_up.all()


def test_what_cannot_be_said_is_left_out() -> None:
    sliced, inputs, references, _ = digits("digits_vit", 5, "mean")  # a cut behind the patch tokens
    worth = Judge(sliced, inputs, references[:5]).worth(0, inputs)
    assert (worth.neighbours, worth.patches, worth.right) == (None, None, None)
    assert worth.cosine == pytest.approx(1, abs=1e-6)


def test_labels_of_other_classes_are_refused() -> None:
    sliced, inputs, references, _ = digits("digits_vit", 5)
    with pytest.raises(errors.ConfigError, match="labels up to 10, and the model answers with 10 classes"):
        Judge(sliced, inputs, references, (0, 1, 2, 3, 4, 10))
