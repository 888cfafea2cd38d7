"""Of what is offered the tables stay with which held-out images take the fewest bytes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from slicer.calibration.best import Best
from slicer.calibration.measure import Judge
from slicer.core.codecs.transform.tables import TransformTables
from slicer.errors import CodecError
from tests.unit.slicer.core.codecs.transform import made

NAME = "tokens alone"
ROWS = made.activations(NAME, 6, seed=5)


def answer(rows: np.ndarray) -> np.ndarray:
    return rows.reshape(len(rows), -1)


@pytest.fixture
def best() -> Best:
    return Best(ROWS, answer, Judge(answer(ROWS), classifies=False))


def good() -> TransformTables:
    return made.codec(NAME).tables


def off() -> TransformTables:
    """A way back that loses a little more at every step."""
    return replace(good(), synthesis=good().synthesis + np.float32(0.1) * np.roll(good().synthesis, 1, axis=1))


def test_the_better_one_stays_whichever_is_offered_first(best: Best) -> None:
    best.offer("off", off())
    assert best.found.way == "off"
    best.offer("good", good())
    assert best.found.way == "good" and best.found.fitted is good()
    best.offer("off again", off())
    assert best.found.way == "good" and best.found.fitted is good()


def test_of_equals_the_first_stays(best: Best) -> None:
    best.offer("first", good())
    best.offer("second", good())
    assert best.found.way == "first"


def poor() -> TransformTables:
    """A way back that loses everything."""
    return replace(good(), synthesis=good().synthesis * np.float32(0))


def test_what_keeps_no_fidelity_is_worse_than_anything(best: Best) -> None:
    best.offer("poor", poor())
    best.offer("off", off())
    best.offer("poor again", poor())
    assert best.found.way == "off"


def test_where_none_keeps_a_fidelity_that_is_said(best: Best) -> None:
    best.offer("poor", poor())
    with pytest.raises(CodecError, match="no step keeps a fidelity"):
        _ = best.found
