"""Shared memory for rows: pieces never overlap, live as long as somebody holds them, and all come back."""

from __future__ import annotations

import gc
import mmap
import os
import threading
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.ipc.arena import ALIGN, Arena, ArenaFull, MappedArena, address_of

SIZE = 8 * mmap.PAGESIZE


def fill(array: npt.NDArray[Any], number: int) -> None:
    array.reshape(-1).view(np.uint8)[...] = number % 251


def untouched(array: npt.NDArray[Any], number: int) -> bool:
    return bool((array.reshape(-1).view(np.uint8) == number % 251).all())


#: What happens to an arena: a new array of so many bytes, a view of one, or the end of one, here or on a thread.
ACTIONS = st.one_of(
    st.tuples(st.just("new"), st.integers(0, SIZE // 3)),
    st.tuples(st.just("view"), st.integers(0, 1000)),
    st.tuples(st.just("free"), st.integers(0, 1000)),
    st.tuples(st.just("free there"), st.integers(0, 1000)),
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(ACTIONS, max_size=60))
def test_pieces_never_overlap_and_all_of_them_come_back(actions: list[tuple[str, int]]) -> None:
    arena = Arena(SIZE)
    held: list[tuple[npt.NDArray[Any], int]] = []  # a piece or a view that alone keeps one, and what was written
    for number, (kind, value) in enumerate(actions):
        if kind == "new":
            try:
                array = arena.empty((value,), np.uint8)
            except ArenaFull:
                # Only where no gap is large enough: the pieces that live leave none between them.
                assert largest_gap(arena, [array for array, _ in held]) < max(-(-value // ALIGN), 1) * ALIGN
            else:
                assert arena.offset_of(array) is not None and (arena.offset_of(array) or 0) % ALIGN == 0
                fill(array, number)
                held.append((array, number))
                del array
        elif held:
            place = value % len(held)
            if kind == "view":
                array, written = held[place]
                held[place] = array[:], written  # the array itself ends here
                del array
            else:
                one = [held.pop(place)]
                if kind == "free there":
                    thread = threading.Thread(target=one.clear)
                    thread.start()
                    thread.join()
                del one
        assert all(untouched(array, written) for array, written in held)
    held.clear()
    assert arena.used_bytes == 0
    whole = arena.empty((SIZE,), np.uint8)  # in one piece again
    assert arena.offset_of(whole) == 0
    arena.close()


def largest_gap(arena: Arena, held: list[npt.NDArray[Any]]) -> int:
    """Bytes that lie together and belong to none of them."""
    ends, gap = 0, 0
    for offset, size in sorted((arena.offset_of(array) or 0, array.nbytes) for array in held):
        gap = max(gap, offset - ends)
        ends = offset + max(-(-size // ALIGN), 1) * ALIGN
    return max(gap, SIZE - ends)


def test_full_is_said_and_passes_when_something_ends() -> None:
    arena = Arena(SIZE)
    first, second = arena.empty((SIZE // 2,), np.uint8), arena.empty((SIZE // 2,), np.uint8)
    with pytest.raises(ArenaFull, match=f"64 bytes do not fit into the {SIZE}"):
        arena.empty((1,), np.uint8)
    assert arena.used_bytes == SIZE
    del first
    again = arena.empty((SIZE // 2,), np.uint8)
    assert arena.offset_of(again) == 0
    del again, second
    assert arena.used_bytes == 0
    arena.close()


def test_a_size_is_rounded_up_to_pages_and_an_empty_array_has_a_place_of_its_own() -> None:
    arena = Arena(1)
    assert arena.size_bytes == mmap.PAGESIZE
    nothing, more = arena.empty((0, 3)), arena.empty((2, 3))
    assert nothing.shape == (0, 3)
    assert arena.offset_of(more) == ALIGN
    arena.close()


@pytest.mark.parametrize(
    "view",
    [
        lambda rows: rows[1],
        lambda rows: rows[1:2],
        lambda rows: rows[1, :2].view(np.uint8),
        lambda rows: rows.reshape(-1)[3:],
        lambda rows: memoryview(rows),
        lambda rows: np.frombuffer(rows, np.uint8),
    ],
    ids=["row", "slice", "bytes", "reshaped", "memoryview", "frombuffer"],
)
def test_a_view_of_a_row_keeps_the_block(view: Any) -> None:
    arena = Arena(SIZE)
    rows = arena.empty((4, 3))
    kept = view(rows)
    del rows
    assert arena.used_bytes == 64
    other = arena.empty((4, 3))
    assert arena.offset_of(other) == 64
    del kept, other
    assert arena.used_bytes == 0
    arena.close()


def test_where_an_array_lies() -> None:
    arena = Arena(SIZE)
    first, rows = arena.empty((5,)), arena.empty((4, 3))
    assert (arena.offset_of(first), arena.offset_of(rows), arena.offset_of(rows[2:])) == (0, 64, 64 + 24)
    assert arena.offset_of(np.empty(3, np.float32)) is None
    assert arena.offset_of(rows[:, 1]) is None  # not in one piece
    other = Arena(SIZE)
    assert arena.offset_of(other.empty((4, 3))) is None
    arena.close()
    other.close()


def test_threads_that_allocate_and_free_at_once_get_memory_of_their_own() -> None:
    arena = Arena(1 << 20)
    wrong: list[int] = []

    def work(number: int) -> None:
        held: list[npt.NDArray[Any]] = []
        for turn in range(400):
            held.append(arena.empty((64 * (1 + (turn * 7 + number) % 9),), np.uint8))
            held[-1][...] = number
            if len(held) > 6:
                wrong.extend(number for array in held if not (array == number).all())
                del held[turn % 7]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(1, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == []
    assert arena.used_bytes == 0
    arena.close()


def test_an_array_that_dies_while_memory_is_allocated_is_taken_back_later() -> None:
    """A collection may run within `empty`, on its thread: taking the lock there once more would hang."""
    arena = Arena(SIZE)
    cycle: list[Any] = [arena.empty((3,))]
    cycle.append(cycle)
    del cycle
    with arena._lock:
        gc.collect()
    assert arena.used_bytes == 0
    arena.close()


def test_the_other_process_sees_the_same_memory_and_keeps_it_when_its_owner_has_gone() -> None:
    arena = Arena(SIZE)
    arena.empty((3,))[...] = 0
    mapped = MappedArena(os.dup(arena.descriptor))
    assert mapped.size_bytes == SIZE
    first, rows = arena.empty((5,)), arena.empty((4, 3))
    there = mapped.array(arena.offset_of(rows) or 0, (4, 3), "<f4")
    rows[...] = np.arange(12).reshape(4, 3)
    np.testing.assert_array_equal(there, rows)
    there[2] = 7
    assert rows[2].tolist() == [7, 7, 7]
    assert address_of(mapped.memory) != address_of(arena._memory)
    arena.close()
    arena.close()
    del first, rows, arena, mapped
    gc.collect()
    assert there[2].tolist() == [7, 7, 7]  # the mapping ends with the last array in it


@pytest.mark.parametrize(
    ("offset", "shape"),
    [(SIZE - 4, (2,)), (-4, (1,)), (0, (-1,)), (1 << 62, (1,)), ((1 << 63) - 1, (1,)), (0, (1 << 62,))],
    ids=["end", "before", "negative", "far", "farthest", "large"],
)
def test_an_array_outside_of_it_is_none(offset: int, shape: tuple[int, ...]) -> None:
    arena = Arena(SIZE)
    mapped = MappedArena(os.dup(arena.descriptor))
    with pytest.raises(ValueError, match="lies outside of the arena"):
        mapped.array(offset, shape, "<f4")
    arena.close()


def test_a_descriptor_is_closed_whether_or_not_it_can_be_mapped() -> None:
    reading, writing = os.pipe()
    with pytest.raises((ValueError, OSError)):
        MappedArena(reading)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(reading)
    os.close(writing)
