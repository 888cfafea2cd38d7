"""Positions in memory that was set aside: where rows go, what is copied, what is used again."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.executors.cuda.slab import Slots, arrange, bucket_for, runs


@pytest.mark.parametrize(("rows", "bucket"), [(1, 1), (2, 2), (3, 4), (4, 4), (5, 6), (6, 6), (7, None)])
def test_a_batch_is_padded_to_the_next_bucket(rows: int, bucket: int | None) -> None:
    assert bucket_for((1, 2, 4, 6), rows) == bucket


def test_rows_that_lie_there_stay_and_the_others_fill_the_gaps() -> None:
    # Rows at 2 and 0 stay; the newcomers take 1 and 3.
    assert arrange([2, None, 0, None], 4, taken=()) == [2, 1, 0, 3]
    # Position 1 belongs to somebody else; the row at 5 lies behind the batch of 4, so it moves.
    assert arrange([5, 0, None], 4, taken=[1]) == [2, 0, 3]
    with pytest.raises(ValueError, match="2 rows and 1 others do not fit into 2 positions"):
        arrange([None, 0], 2, taken=[1])


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.data())
def test_positions_are_distinct_and_nobody_is_moved_without_need(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 8))
    places = data.draw(st.lists(st.integers(0, 11), unique=True, max_size=size))
    taken = data.draw(st.sets(st.sampled_from(range(size)), max_size=size - len(places))) - set(places)
    newcomers = data.draw(st.integers(0, size - len(places) - len(taken)))
    positions = arrange([*places, *[None] * newcomers], size, taken)
    assert len({*positions, *taken}) == len(positions) + len(taken)
    assert all(0 <= position < size for position in positions)
    for place, position in zip(places, positions, strict=False):
        assert position == place or place >= size


def test_neighbours_move_together() -> None:
    assert list(runs([(4, 0), (5, 1), (7, 2), (1, 4), (2, 5)])) == [(4, 0, 2), (7, 2, 1), (1, 4, 2)]
    assert list(runs([(3, 1), (2, 0)])) == [(2, 0, 2)]
    assert list(runs([])) == []


def test_slots_are_given_out_side_by_side_and_used_again_as_late_as_can_be() -> None:
    slots = Slots(6)
    assert slots.take(2) == ([range(0, 2)], [])
    assert slots.take(2) == ([range(2, 4)], [])
    slots.give(0, "step 1")
    slots.give(1, "step 1")
    assert slots.take(1) == ([range(4, 5)], []), "0 and 1 were left last"
    assert slots.take(2) == ([range(0, 2)], ["step 1"]), "side by side, when the step that left them has ended"
    assert slots.free == 1


def test_where_there_is_no_room_side_by_side_the_rows_are_parted() -> None:
    slots = Slots(4)
    slots.take(4)
    for position in (0, 2, 3):
        slots.give(position)
    taken = slots.take(3)
    assert taken is not None
    assert sorted(position for run in taken[0] for position in run) == [0, 2, 3]
    assert slots.take(1) is None
    with pytest.raises(ValueError, match="given back twice"):
        slots.give(1)
        slots.give(1)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 9)), max_size=40))
def test_no_slot_is_given_to_two(history: list[tuple[int, int]]) -> None:
    slots, held = Slots(8), list[int]()
    for count, give in history:
        taken = slots.take(count)
        assert (taken is None) == (count > 8 - len(held))
        if taken is not None:
            held += [position for run in taken[0] for position in run]
            assert len(set(held)) == len(held)
        if held:
            slots.give(held.pop(give % len(held)))
