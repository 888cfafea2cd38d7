"""The short answer of paper.py: one sentence, one table, one picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.paper import answer, paper


def closed(**means_ms: float) -> dict[str, Any]:
    return {"open": [], "closed": {number[1:]: {"mean_ms": mean} for number, mean in means_ms.items()}}


BY_STRATEGY = {
    "unbatched": closed(n1=10.0, n4=40.0, n8=80.0),
    "per_tail": closed(n1=10.0, n4=30.0, n8=40.0),
    "continuous": closed(n1=10.0, n4=20.0, n8=20.0),
}
REDUCTIONS = paper.reductions(BY_STRATEGY, [], [])


def test_the_sentence_says_who_reaches_it_from_where_on_and_who_does_not() -> None:
    said = answer.sentence(REDUCTIONS)
    assert "continuous from 8 on; per_tail nowhere among these" in said
    assert "A client alone gains 0% at best" in said


def test_the_sentence_does_not_hide_that_nobody_reaches_it() -> None:
    assert "Nowhere" in answer.sentence(
        paper.reductions({**BY_STRATEGY, "continuous": BY_STRATEGY["per_tail"]}, [], [])
    )


def test_the_table_has_a_line_per_strategy_with_what_it_saves() -> None:
    lines = list(answer.table(BY_STRATEGY, REDUCTIONS))
    assert [line.split()[0] for line in lines[1:]] == list(BY_STRATEGY)
    assert "20.0 (-75%)" in lines[-1] and "80.0" in lines[1] and "%" not in lines[1]


def test_the_picture_is_drawn_twice(tmp_path: Path) -> None:
    assert all(path.stat().st_size > 1000 for path in answer.draw(REDUCTIONS, "emulated", tmp_path / "answer"))


@pytest.mark.parametrize(
    ("asked", "short"),
    [([], True), (["--out", "x.json"], True), (["--full"], False), (["--quick"], False), (["--seconds", "3"], False)],
)
def test_only_a_bare_call_is_answered_shortly(asked: list[str], short: bool) -> None:
    assert paper.wants_short(paper.parser().parse_args(asked)) is short
