"""The planner's verdicts, and what the demo says of them."""

from __future__ import annotations

import pytest

from headtail.demo import splitting
from headtail.demo.splitting import Board, Cell, cell, cells, server_view, verdict_of
from slicer.core.planning.cut_planner import ServerView

IDLE = ServerView(dict.fromkeys(range(4), 0.0), {0: 14.4, 1: 10.8, 2: 7.2, 3: 3.6})


@pytest.fixture(scope="module")
def found() -> list[Cell]:
    return cells()


def test_an_idle_server_on_a_quick_link_gets_the_image() -> None:
    assert cell(Board("b", 100.0, 4.0), "wired", 0.0, IDLE).verdict == "server-only"


def test_a_slow_link_leaves_the_model_on_the_device() -> None:
    assert cell(Board("b", 100.0, 4.0), "slow-4g", 0.0, IDLE).verdict == "device-only"


def test_a_board_that_does_not_keep_up_beside_a_slow_link_has_no_way_out() -> None:
    one = cell(Board("b", 100.0, 12.0), "slow-4g", 0.0, IDLE)
    assert one.verdict == "impossible" and one.best is None
    assert one.device_only.refused and one.server_only.refused


def test_server_only_is_a_jpeg_and_device_only_sends_nothing() -> None:
    one = cell(Board("b", 100.0, 4.0), "wifi", 0.0, IDLE)
    assert (one.server_only.choice.codec, one.server_only.payload_bytes) == ("jpeg", 30_000)
    assert (one.device_only.choice.cut, one.device_only.payload_bytes) == (4, 0)


def test_no_codec_that_loses_more_than_jpeg_is_taken(found: list[Cell]) -> None:
    used = {one.codec for each in found for e in (each.best, each.enough) if e is not None for one in [e.choice]}
    assert "int4" not in used
    assert "jpeg" in used


def test_a_busier_server_waits_longer_and_most_at_the_first_entry() -> None:
    bench = splitting.Bench("edge-gpu")
    calm, busy = server_view(bench, 0.5), server_view(bench, 0.9)
    total = [busy.wait_ms[entry] + busy.execution_ms[entry] for entry in range(4)]
    assert all(busy.wait_ms[entry] > calm.wait_ms[entry] for entry in range(4))
    assert total == sorted(total, reverse=True)


def test_a_split_is_fastest_only_where_the_board_cannot_keep_up_alone_and_the_server_is_busy(found: list[Cell]) -> None:
    split = [one for one in found if one.verdict == "split"]
    assert split
    assert all(one.device_only.refused and one.load > 0 for one in split)  # the sentence says "all"


def test_with_time_to_spare_the_planner_splits_to_relieve_the_server(found: list[Cell]) -> None:
    relieved = [one for one in found if verdict_of(one.enough) == "split"]
    assert len(relieved) > sum(one.verdict == "split" for one in found)
    for one in relieved:
        assert one.enough is not None
        assert one.enough.execution_ms < one.server_only.execution_ms
        assert one.enough.total_ms <= splitting.DEADLINE_MS


def test_the_words_count_the_cells(found: list[Cell]) -> None:
    answer = splitting.answer(found)
    split = sum(one.verdict == "split" for one in found)
    assert f"in {split} of {len(found)} cases" in answer.sentence
    assert "Do not split" in answer.notes[1]
    assert len(answer.tables[0].rows) * len(splitting.LINKS) == len(found)
    assert not answer.bad


def test_each_time_the_words_are_the_same(found: list[Cell]) -> None:
    assert splitting.answer(cells()) == splitting.answer(found)
