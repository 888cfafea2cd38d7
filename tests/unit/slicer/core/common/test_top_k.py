"""The best classes of an answer, in an order that does not hang on how they are found."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from slicer.core.common.top_k import top_k


def test_top_k_orders_by_score_and_breaks_ties_by_class() -> None:
    assert top_k(np.array([1.0, 3.0, 3.0, 2.0], np.float32), 3) == ((1, 3.0), (2, 3.0), (3, 2.0))
    assert len(top_k(np.zeros(2, np.float32), 5)) == 2
    assert len(top_k(np.array([1.0], np.float32), 5)) == 1


@given(
    arrays(np.float32, st.integers(1, 40), elements=st.sampled_from([-2.5, -0.0, 0.0, 1.0, 7.25])), st.integers(1, 50)
)
def test_top_k_is_a_stable_sort_cut_off(logits: np.ndarray[Any, Any], k: int) -> None:
    order = sorted(range(len(logits)), key=lambda c: (-logits[c], c))[:k]
    assert top_k(logits, k) == tuple((c, float(logits[c])) for c in order)
