"""Choose where to cut: an even share of the work for every slice, at the ends of blocks where there are enough."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from slicer.errors import CutError
from slicer.slicing.boundaries import Boundary


def choose(
    boundaries: Sequence[Boundary], total_flops: float, num_slices: int | Literal["all"]
) -> tuple[Boundary, ...]:
    """The num_slices - 1 boundaries that make the slices' FLOPs most even; ``"all"`` takes every boundary.

    Raises:
        CutError: so many slices are impossible; says how many are.
    """
    if num_slices == "all":
        return tuple(boundaries)
    if isinstance(num_slices, bool) or not isinstance(num_slices, int) or not 1 <= num_slices <= len(boundaries) + 1:
        raise CutError(
            f"num_slices={num_slices!r}: this model has {len(boundaries)} boundaries, so it can be cut into 1 to "
            f'{len(boundaries) + 1} slices; give a number in that range, or "all"'
        )
    ends_of_blocks = [boundary for boundary in boundaries if boundary.block is not None]
    # After the very last block only the norm and the classifier are left: too little for a slice of its own.
    ends_of_blocks = [b for b in ends_of_blocks if b.flops < 0.98 * total_flops]
    offered = ends_of_blocks if len(ends_of_blocks) >= num_slices - 1 else list(boundaries)
    return _most_even(offered, total_flops, num_slices)


def _most_even(offered: Sequence[Boundary], total: float, num_slices: int) -> tuple[Boundary, ...]:
    """Least sum of squared FLOPs per slice, by dynamic programming over the boundaries; the earlier cut wins a tie."""
    at = [boundary.flops for boundary in offered] + [total]
    best: list[tuple[float, tuple[int, ...]]] = [(flops**2, ()) for flops in at]
    for _ in range(num_slices - 1):
        best = [
            min(
                ((best[i][0] + (at[j] - at[i]) ** 2, (*best[i][1], i)) for i in range(j)),
                default=(float("inf"), ()),
            )
            for j in range(len(at))
        ]
    return tuple(offered[i] for i in best[-1][1])


def named(boundaries: Sequence[Boundary], at: Sequence[str | int]) -> tuple[Boundary, ...]:
    """The boundaries that `at` names: a boundary's name, or the number of a block ("cut after block i").

    Raises:
        CutError: no such boundary or block, twice the same, or not in the order of execution.
    """
    if isinstance(at, (str, int)):
        raise CutError(f"at={at!r}: give a list, also for one cut: at=[{at!r}]")
    by_name: dict[str | int, Boundary] = {boundary.name: boundary for boundary in boundaries}
    by_name.update({boundary.block: boundary for boundary in boundaries if boundary.block is not None})
    chosen: list[Boundary] = []
    for place in at:
        boundary = by_name.get(place)
        if boundary is None:
            blocks = sorted(key for key in by_name if isinstance(key, int))
            names = ", ".join(b.name for b in boundaries)
            raise CutError(
                f"at={place!r} is no boundary; use the number of a block from {blocks}, or a name of: {names}"
            )
        if chosen and boundary.index <= chosen[-1].index:
            raise CutError(
                f"at={list(at)!r}: {place!r} does not come after {chosen[-1].name!r}; name each cut once, in order"
            )
        chosen.append(boundary)
    return tuple(chosen)
