"""Where rows lie in memory that was set aside: pure arithmetic on positions, no torch.

`Slots` keeps account of a slab in which new rows wait. `arrange` finds places in a batch's memory so that rows which
lie there already stay. `runs` turns moves of single rows into as few copies as possible.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterator, Sequence


def bucket_for(buckets: Sequence[int], rows: int) -> int | None:
    """The smallest of these batch sizes (ascending) that holds so many rows; None: they are too many."""
    at = bisect_left(buckets, rows)
    return buckets[at] if at < len(buckets) else None


def arrange(where: Sequence[int | None], size: int, taken: Collection[int]) -> list[int]:
    """A position below `size` for each row: its own where it lies at one already, else a free one, lowest first.

    Args:
        where: the rows' positions in this memory; None: it lies elsewhere.
        taken: positions of rows that must stay as they are and do not take part.

    Raises:
        ValueError: there is no room for all of them.
    """
    used = {*taken, *(position for position in where if position is not None and position < size)}
    free = iter([position for position in range(size) if position not in used])
    try:
        return [position if position is not None and position < size else next(free) for position in where]
    except StopIteration:
        raise ValueError(f"{len(where)} rows and {len(taken)} others do not fit into {size} positions") from None


def runs(moves: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int, int]]:
    """Moves (from, to) of single rows as (from, to, rows): neighbours that stay neighbours move together."""
    ordered = sorted(moves, key=lambda move: move[1])
    begin = 0
    for index in range(1, len(ordered) + 1):
        source, target = ordered[begin]
        step = index - begin
        if index == len(ordered) or ordered[index] != (source + step, target + step):
            yield source, target, step
            begin = index


class Slots:
    """The positions of a slab: which are free, and what must have happened before a free one may be written again.

    One thread uses it.

    Args:
        count: positions 0 to count - 1.
    """

    def __init__(self, count: int) -> None:
        self.count = self.free = count  # free: how many positions are
        self._used = bytearray(count)
        self._after: dict[int, object] = {}
        self._cursor = 0

    def take(self, count: int) -> tuple[list[range], list[object]] | None:
        """Positions for so many rows, side by side where that is possible; None: there are not so many.

        Returns them as ranges, and what `give` said must have happened before they are written.
        """
        if count > self.free:
            return None
        self.free -= count
        found: list[range] = []
        piece = count
        while count:
            piece = min(piece, count)
            # From the cursor on, so that a position that was given back lately is the last one to be used again.
            start = self._used.find(bytes(piece), self._cursor)
            if start < 0:
                start = self._used.find(bytes(piece))
            if start < 0:
                piece = (piece + 1) // 2
                continue
            self._used[start : start + piece] = b"\1" * piece
            self._cursor = start + piece
            found.append(range(start, start + piece))
            count -= piece
        if not self._after:
            return found, []
        after = {id(event): event for run in found for slot in run if (event := self._after.pop(slot, None))}
        return found, list(after.values())

    def give(self, position: int, after: object | None = None) -> None:
        """Free a position; it may be written when `after` has happened, None: at once.

        Raises:
            ValueError: it is free already.
        """
        if not self._used[position]:
            raise ValueError(f"position {position} was given back twice")
        self._used[position] = 0
        self.free += 1
        if after is not None:
            self._after[position] = after
