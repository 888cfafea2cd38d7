"""The books: what is closed stays closed, and nothing is closed by half."""

from __future__ import annotations

import numpy as np
import pytest

from deployments.engine.ledger import Ledger
from deployments.testing.fakes import FakeClock


def test_rows_are_answered_together_and_those_that_left_are_passed_over() -> None:
    clock = FakeClock(1.0)
    ledger = Ledger(clock, max_rows=3)
    rows, count = ledger.open("m", 0, [0.0] * 4, [None] * 4)
    assert count == 3
    ledger.book_step(rows[:3], 0.5)
    assert ledger.refuse(rows[1].key, "cancelled", "gone") is not None
    assert ledger.still_open(rows) == [rows[0], rows[2]]
    clock.now_s = 2.0
    outcomes = ledger.answer(rows[:3], np.array([[0.0], [1.0], [2.0]], np.float32))
    assert [(outcome.key, outcome.logits) for outcome in outcomes] == [(0, [0.0]), (2, [2.0])]
    assert [(one.queue_s, one.execution_s, one.rows_per_step) for one in outcomes] == [(0.5, 0.5, (3,))] * 2
    assert ledger.answer(rows[:3], np.zeros((3, 1), np.float32)) == []
    assert ledger.stats().outcomes == {"cancelled": 1, "answered": 2}


def test_too_few_logits_close_no_row() -> None:
    ledger = Ledger(FakeClock(), max_rows=8)
    rows, _ = ledger.open("m", 0, [0.0] * 2, [None] * 2)
    with pytest.raises(ValueError, match="1 rows of logits for 2 rows"):
        ledger.answer(rows, np.zeros((1, 1), np.float32))
    assert ledger.open_keys() == [0, 1]
