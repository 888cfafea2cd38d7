"""The first question: counts, and words that do not gloss over a difference."""

from __future__ import annotations

import numpy as np

from headtail.demo.exactness import Heard, answer


def heard(flip: bool = False, moved: float = 0.0) -> Heard:
    whole = np.eye(3, dtype=np.float32)[[0, 1, 2, 0]]
    served = {name: {cut: whole + np.float32(moved) for cut in (0, 1)} for name in ("a", "b")}
    if flip:
        served["b"][1] = np.roll(whole, 1, axis=1)
    return Heard(whole, [0, 1, 2, 1], whole, served)


def test_where_all_agree_the_sentence_says_so_many_of_so_many() -> None:
    found = answer(heard(), "m")
    assert found.sentence.startswith("Yes: 16 of 16 answers")
    assert found.tables[0].rows == (("a", "4/4", "4/4"), ("b", "4/4", "4/4"))
    assert not found.bad


def test_one_strategy_that_differs_at_one_cut_makes_it_a_no_and_fails_the_demo() -> None:
    found = answer(heard(flip=True), "m")
    assert found.sentence.startswith("NO: only 12 of 16")
    assert found.bad == ("4 answers differ from the unsliced model's",)


def test_logits_may_round_otherwise_and_the_bound_is_told() -> None:
    found = answer(heard(moved=3e-5), "m")
    assert found.sentence.startswith("Yes")
    assert "below 0.0001" in found.notes[2]


def test_accuracy_is_told_beside_agreement() -> None:
    assert answer(heard(), "m").figures["accuracy"] == 0.75
