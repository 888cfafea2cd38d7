"""What a step costs: a table t_j(b) of seconds per slice j and batch bucket b, with its spread, and sums of it.

The table is measured (`deployments.engine.calibrate`, benchmarks on a GPU) or hypothetical, is saved as a profile file
that says which, and is kept up to date by `observe` while serving. Between two buckets it is interpolated; no formula
stands in for a value that was measured.

Not thread-safe: a model that serves belongs to the engine's thread, like the policy that reads it. Before the engine
starts, one other thread may fill it.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, NamedTuple

from slicer.errors import ConfigError

#: Seconds per slice as long as nothing is known. Flat over the batch, so that batches are tried and the truth is seen.
GUESS_S = 0.001

#: A new measurement weighs so much against what is known; before, it is a plain mean.
_WEIGHT = 0.05

#: One measurement moves the table by at most this factor, once the cell has been seen a few times (outliers).
_MOST = 2.0

#: The sums are made again only when a cell has moved by more than this share since they were made.
_DRIFT = 0.02


class Cell(NamedTuple):
    """One slice at one batch size: mean and standard deviation of the measured seconds, and how many there were."""

    mean_s: float
    std_s: float = 0.0
    seen: int = 0

    @property
    def known(self) -> bool:
        """Whether it was ever measured (or written down, in a hypothetical profile)."""
        return self.mean_s > 0


UNKNOWN = Cell(0.0)


@dataclass(frozen=True)
class Source:
    """Where a table comes from. Either `hypothetical`, or what was measured where and when (all plain text)."""

    hypothetical: bool = False
    what: str = ""
    where: str = ""
    when: str = ""


class _Tails(dict[int, list[float]]):
    """The sums of a table by number of rows, each made when it is first asked for."""

    def __init__(self, make: Callable[[int], list[float]]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, rows: int) -> list[float]:
        made = self[rows] = self._make(rows)
        return made


@dataclass
class CostModel:
    """T(p, q, n): the expected seconds of slices ``p:q`` on a batch of n rows, as one step.

    Args:
        buckets: the batch sizes of the table, ascending.
        table: one list of cells per slice, one cell per bucket. Changed by `observe`.
        merge_s: seconds to bring rows of different steps together into one batch.
        decision_s: seconds that one more step costs beside its execution: the scheduler, Python, a launch.
        source: where the table comes from.
        padded: whether the accelerator fills a batch up to the next bucket, so that it costs as much as that.
        overlapped: whether a step is decided and launched while another one runs: then the accelerator waits for the
            host only behind a step that is shorter than `decision_s`. Of an engine, so no part of a profile.

    Raises:
        ConfigError: the table has no slice or bucket, is ragged, or holds a negative or infinite time.
    """

    buckets: tuple[int, ...]
    table: list[list[Cell]]
    merge_s: float = 0.0
    decision_s: float = 0.0
    source: Source = field(default_factory=Source)
    name: str = ""
    padded: bool = False
    overlapped: bool = False

    def __post_init__(self) -> None:
        if not self.buckets or self.buckets[0] < 1 or list(self.buckets) != sorted(set(self.buckets)):
            raise ConfigError(f"profile {self.name!r}: buckets {self.buckets} must ascend from at least 1")
        if not self.table or any(len(cells) != len(self.buckets) for cells in self.table):
            raise ConfigError(
                f"profile {self.name!r}: every slice needs one cell for each of {len(self.buckets)} buckets"
            )
        times = [time_s for cells in self.table for cell in cells for time_s in (cell.mean_s, cell.std_s)]
        if not all(math.isfinite(time_s) and time_s >= 0 for time_s in (*times, self.merge_s, self.decision_s)):
            raise ConfigError(f"profile {self.name!r}: a time is negative or not a number")
        #: ``by_rows[n]`` is ``tails(n)``: a decision reads it twenty times. The caller must not write to it.
        self.by_rows = _Tails(self._sum_up)
        self._near: dict[int, list[tuple[int, float]]] = {}
        self._publish()

    @staticmethod
    def unknown(num_slices: int, max_batch: int, *, padded: bool = False) -> CostModel:
        """A table without a measurement: every slice is guessed at `GUESS_S`, and `observe` fills it."""
        buckets = padded_to(max_batch) if padded else buckets_to(max_batch)
        table = [[UNKNOWN] * len(buckets) for _ in range(num_slices)]
        return CostModel(buckets, table, source=Source(what="unknown"), padded=padded)

    @property
    def num_slices(self) -> int:
        """Slices (or blocks) of the table."""
        return len(self.table)

    @property
    def known_from(self) -> int:
        """From this slice on, all were measured at one batch size at least; before it, times are guesses."""
        return self._known_from

    def alone_s(self, boundary: int) -> float:
        """What one row needs from here to the end, alone; 0 as long as a part of it is a guess."""
        return self.tails(1)[boundary] if boundary >= self._known_from else 0.0

    def fill(self, index: int, bucket: int, cell: Cell) -> None:
        """Put a measured cell in its place: slice `index`, batch size ``buckets[bucket]``."""
        self.table[index][bucket] = cell
        self._publish()

    def tails(self, rows: int) -> list[float]:
        """``tails(n)[p]`` = T(p, L, n) for every boundary p from 0 to L; the caller must not write to it.

        This is what a decision reads, so it is made once per batch size and kept until the table has moved.
        """
        return self.by_rows[rows]

    def _sum_up(self, rows: int) -> list[float]:
        tails = [0.0] * (self.num_slices + 1)
        for index in range(self.num_slices - 1, -1, -1):
            tails[index] = tails[index + 1] + self.slice_s(index, rows)
        return tails

    def span_s(self, start: int, end: int, rows: int) -> float:
        """T(start, end, rows)."""
        tails = self.by_rows[rows]
        return tails[start] - tails[end]

    def slice_s(self, index: int, rows: int) -> float:
        """t_j(b): the cell where there is one, else between the two next to it.

        Where nothing was measured the guess is the one that is found out soonest if it is wrong: above the last bucket
        the line through the last two goes on, or the time stays where there is one only, so that larger batches are
        tried; below the first one the time is in proportion to the rows, so that smaller ones are.
        """
        known = self._known[index]
        if known is None:
            cells = zip(self.buckets, self.table[index], strict=True)
            known = self._known[index] = [(bucket, cell.mean_s) for bucket, cell in cells if cell.known]
        if not known:
            return GUESS_S
        if rows < known[0][0]:
            return known[0][1] if self.padded else known[0][1] * rows / known[0][0]
        at = min(bisect_left(known, (rows, 0.0)), len(known) - 1)
        if at == 0 or (self.padded and rows <= known[at][0]):
            return known[at][1]
        (b0, t0), (b1, t1) = known[at - 1], known[at]
        return max(t0 + (t1 - t0) * (rows - b0) / (b1 - b0), min(t0, t1))

    def spread(self, start: int, end: int, rows: int) -> float:
        """Relative standard deviation of a step, if its slices are slow and fast together (the pessimist's case)."""
        nearest = self._nearest(rows)[0][0]
        cells = [self.table[index][nearest] for index in range(start, end)]
        total_s = sum(cell.mean_s for cell in cells)
        return sum(cell.std_s for cell in cells) / total_s if total_s else 0.0

    # ------------------------------------------------------------------------------------------- measured while serving

    def observe(self, start: int, end: int, rows: int, seconds: float) -> None:
        """A step of this span and batch took `seconds`: move the cells it used.

        A step of several slices says nothing about each of them, so all move by the same factor. Each cell keeps an
        exponentially weighted mean; a single measurement moves it by `_WEIGHT` of at most a factor of `_MOST`.
        """
        tails = self.by_rows[rows]
        expected_s = tails[start] - tails[end]
        if not (0 < seconds < math.inf and expected_s > 0):
            return
        ratio = seconds / expected_s
        for bucket, share in self._near.get(rows) or self._nearest(rows):
            for index in range(start, end):
                self._move(index, bucket, ratio, share)

    def _move(self, index: int, bucket: int, ratio: float, share: float) -> None:
        cells = self.table[index]
        before_s, std_s, seen = cells[bucket]
        if not before_s:  # unknown
            cells[bucket] = Cell(self.slice_s(index, self.buckets[bucket]) * ratio, 0.0, 1)
            self._publish()
            return
        weight = share * max(_WEIGHT, 1 / (seen + 1))
        if seen >= 3:
            if ratio > _MOST:
                ratio = _MOST
            elif ratio < 1 / _MOST:
                ratio = 1 / _MOST
        mean_s = before_s * (1 + weight * (ratio - 1))
        variance = (1 - weight) * (std_s**2 + weight * (before_s * (ratio - 1)) ** 2)
        cells[bucket] = Cell(mean_s, math.sqrt(variance), seen + 1)
        published_s = self._published[index][bucket]
        if abs(mean_s - published_s) > _DRIFT * published_s:
            self._publish()

    def _publish(self) -> None:
        """The table has moved: sums are made from it again when they are asked for."""
        self.by_rows.clear()
        self._known: list[list[tuple[int, float]] | None] = [None] * len(self.table)
        self._published = [[cell.mean_s for cell in cells] for cells in self.table]
        unknown = [index for index, cells in enumerate(self.table) if not any(cell.known for cell in cells)]
        self._known_from = unknown[-1] + 1 if unknown else 0

    def _nearest(self, rows: int) -> list[tuple[int, float]]:
        """The bucket of this batch size, or the two around it with their shares, the greater share first."""
        near = self._near.get(rows)
        if near is None:
            near = self._near[rows] = self._between(rows)
        return near

    def _between(self, rows: int) -> list[tuple[int, float]]:
        at = bisect_left(self.buckets, rows)
        if at == len(self.buckets) or self.buckets[at] == rows or at == 0:
            return [(min(at, len(self.buckets) - 1), 1.0)]
        if self.padded:
            return [(at, 1.0)]
        low, high = self.buckets[at - 1], self.buckets[at]
        upper = (rows - low) / (high - low)
        return sorted([(at, upper), (at - 1, 1 - upper)], key=lambda item: -item[1])

    def observe_decision(self, seconds: float) -> None:
        """A step cost `seconds` beside its execution; outliers count for little."""
        if self.decision_s and seconds > 0:
            seconds = min(seconds, _MOST * self.decision_s)
        self.decision_s += _WEIGHT * (max(seconds, 0.0) - self.decision_s)

    # --------------------------------------------------------------------------------------------------- other shapes

    def regroup(self, cuts: Sequence[int]) -> CostModel:
        """The table of the same model cut elsewhere: new slice i is the old slices ``cuts[i]:cuts[i + 1]``.

        Raises:
            ConfigError: `cuts` does not ascend from 0 to `num_slices`.
        """
        if list(cuts) != sorted(set(cuts)) or len(cuts) < 2 or (cuts[0], cuts[-1]) != (0, self.num_slices):
            raise ConfigError(f"cuts {list(cuts)} of profile {self.name!r}: they ascend from 0 to {self.num_slices}")
        table = [
            [_sum_of([self.table[index][bucket] for index in range(start, end)]) for bucket in range(len(self.buckets))]
            for start, end in pairwise(cuts)
        ]
        return replace(self, table=table)

    def copy(self) -> CostModel:
        """One that may be observed without changing this one."""
        return replace(self, table=[list(cells) for cells in self.table])

    def to_dict(self) -> dict[str, Any]:
        """Plain values in ms, for a profile file; `from_dict` reads it back."""
        source = {key: value for key, value in vars(self.source).items() if value}
        slices = [
            {
                "mean_ms": [round(cell.mean_s * 1e3, 7) for cell in cells],
                "std_ms": [round(cell.std_s * 1e3, 7) for cell in cells],
                "count": [cell.seen for cell in cells],
            }
            for cells in self.table
        ]
        return {
            "name": self.name,
            "source": source,
            "merge_ms": self.merge_s * 1e3,
            "decision_ms": self.decision_s * 1e3,
            "padded": self.padded,
            "buckets": list(self.buckets),
            "slices": slices,
        }


def from_dict(data: Any) -> CostModel:
    """A cost model from plain values, as `CostModel.to_dict` makes them; a slice's ``repeat`` stands for so many alike.

    Raises:
        ConfigError: a key is missing, unknown or of the wrong kind; or as `CostModel` does.
    """
    try:
        data = dict(data)
        source = Source(**data.pop("source"))
        table: list[list[Cell]] = []
        buckets = tuple(int(bucket) for bucket in data.pop("buckets"))
        for entry in data.pop("slices"):
            table += [_cells(entry) for _ in range(int(entry.get("repeat", 1)))]
        model = CostModel(
            buckets=buckets,
            table=table,
            merge_s=float(data.pop("merge_ms", 0.0)) / 1e3,
            decision_s=float(data.pop("decision_ms", 0.0)) / 1e3,
            source=source,
            name=str(data.pop("name", "")),
            padded=bool(data.pop("padded", False)),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"a cost profile needs source, buckets and slices with mean_ms: {error!r}") from None
    if data:
        raise ConfigError(f"a cost profile has no key {sorted(data)[0]!r}; remove it or check its spelling")
    if not (model.source.hypothetical or (model.source.where and model.source.when)):
        raise ConfigError(
            f"profile {model.name!r}: its source must say where and when it was measured, or hypothetical: true"
        )
    return model


def buckets_to(max_batch: int) -> tuple[int, ...]:
    """Batch sizes to measure at: 1, 2, 4, 8, ... and `max_batch` itself."""
    powers = (1 << exponent for exponent in range(max_batch.bit_length()))
    return tuple(sorted({*powers, max_batch}))


def padded_to(max_batch: int) -> tuple[int, ...]:
    """Batch sizes to which others are filled up: 1, 2, 3, 4, 6, 8, 12, ... and `max_batch`, so by a third at most."""
    powers = [1 << exponent for exponent in range(max_batch.bit_length())]
    halves = [power + power // 2 for power in powers[1:]]
    return tuple(sorted({*powers, *(size for size in halves if size < max_batch), max_batch}))


def _cells(entry: Mapping[str, Any]) -> list[Cell]:
    means = entry["mean_ms"]
    stds, counts = entry.get("std_ms", [0.0] * len(means)), entry.get("count", [0] * len(means))
    if unknown := set(entry) - {"mean_ms", "std_ms", "count", "repeat"}:
        raise ConfigError(f"a slice of a cost profile has no key {sorted(unknown)[0]!r}")
    if not len(means) == len(stds) == len(counts):
        raise ConfigError(f"a slice of a cost profile has {len(means)} means, {len(stds)} stds, {len(counts)} counts")
    return [
        Cell(float(mean) / 1e3, float(std) / 1e3, int(count))
        for mean, std, count in zip(means, stds, counts, strict=True)
    ]


def _sum_of(cells: Sequence[Cell]) -> Cell:
    """The slices one after the other; unknown if one of them is. Spreads add up: slow and fast together."""
    if not all(cell.known for cell in cells):
        return UNKNOWN
    return Cell(sum(c.mean_s for c in cells), sum(c.std_s for c in cells), min(c.seen for c in cells))
