"""An activation to coefficients and back: channels by a fitted transform, places by a 2-D cosine transform.

Coefficients stand in the order prefix tokens [P, C], then [C, height, width]: low channels and frequencies first.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from .compiled import COMPILED, loops
from .tables import TransformTables

Floats = npt.NDArray[np.float32]

#: Columns of a strip, as in `_compiled.c`.
_WIDE = 16


@lru_cache(maxsize=64)
def cosines(size: int) -> Floats:
    """The orthonormal DCT-II of `size` points: rows are frequencies."""
    points, rows = np.arange(size) + 0.5, np.arange(size)[:, None]
    matrix = np.sqrt(2 / size) * np.cos(np.pi * rows * points / size)
    matrix[0] = np.sqrt(1 / size)
    found: Floats = matrix.astype(np.float32)
    found.flags.writeable = False
    return found


class LinearTransform:
    """Both ways, in float32, of one boundary. Any thread.

    Args:
        tables: of the boundary.
        numpy: do not use what is compiled.
    """

    def __init__(self, tables: TransformTables, numpy: bool = False) -> None:
        self._tables, self._numpy = tables, numpy or not COMPILED
        self._channels, (self._height, self._width) = tables.analysis.shape[0], tables.grid
        self._mean = tables.mean.astype(np.float32)
        self._forward = np.ascontiguousarray(tables.analysis.astype(np.float32))
        self._prefix_forward = np.ascontiguousarray(tables.prefix_analysis.T.astype(np.float32))
        self._rows, self._columns = cosines(self._height), cosines(self._width)
        back, prefix_back = tables.synthesis.T, tables.prefix_synthesis.T
        if self._numpy:
            self._back, self._prefix_back = np.ascontiguousarray(back), np.ascontiguousarray(prefix_back)
        else:
            self._shift = (self._channels - 1).bit_length()
            self._spots = _spots(tables, self._shift)
            self._strips = np.stack([_strips(prefix_back), _strips(back)])

    def analyse(self, activation: Floats) -> Floats:
        """An activation of `tables.shape` to [n] coefficients."""
        prefix, channels = self._tables.prefix, self._channels
        if self._tables.layout == "planes":
            activation = activation.reshape(channels, -1).T
        tokens = np.subtract(activation.reshape(-1, channels), self._mean, out=np.empty_like(self._mean))
        places = tokens[prefix:]
        self._over_places(self._rows, self._columns, places)
        found = np.empty(self._mean.size, np.float32)
        split = prefix * channels
        np.matmul(tokens[:prefix], self._prefix_forward, out=found[:split].reshape(prefix, channels))
        np.matmul(self._forward, places.T, out=found[split:].reshape(channels, -1))
        return found

    def synthesise(self, which: npt.NDArray[np.intp], values: Floats, out: Floats) -> None:
        """Coefficients to an activation, into `out` of `tables.shape`.

        Args:
            which: [k], the places in `tables.order` of those that are not 0.
            values: [k] of those.
        """
        tokens = self._mixed(which, values)
        self._over_places(self._rows.T, self._columns.T, tokens[self._tables.prefix :])
        tokens += self._mean
        out[...] = (tokens.T if self._tables.layout == "planes" else tokens).reshape(out.shape)

    def _mixed(self, which: npt.NDArray[np.intp], values: Floats) -> Floats:
        """[P + G, C], channels again, but frequencies for places. The C skips the zeros: nearly all are."""
        prefix, channels = self._tables.prefix, self._channels
        tokens = np.empty(self._mean.shape, np.float32)
        if not self._numpy:
            loops.mix(which, values, self._spots, self._shift, prefix, self._strips, channels, tokens)
            return tokens
        coefficients = np.zeros(self._mean.size, np.float32)
        coefficients[self._tables.order[which]] = values
        split = prefix * channels
        np.matmul(coefficients[:split].reshape(prefix, channels), self._prefix_back, out=tokens[:prefix])
        np.matmul(coefficients[split:].reshape(channels, -1).T, self._back, out=tokens[prefix:])
        return tokens

    def _over_places(self, rows: Floats, columns: Floats, places: Floats) -> None:
        """`rows` [H, H] and `columns` [W, W] on [H * W, C], in place.

        Many products with channels last, each too small for the BLAS to wake threads for it: a server has other work.
        """
        grid = places.reshape(self._height, self._width, self._channels)
        by_rows = np.matmul(rows, grid.transpose(1, 0, 2))
        np.matmul(columns, by_rows.transpose(1, 0, 2), out=grid)


def _spots(tables: TransformTables, shift: int) -> npt.NDArray[np.uint32]:
    """[n], by `tables.order`, of each coefficient its row of [P + G, C] and, in the lower `shift` bits, its channel."""
    channels, (height, width) = tables.analysis.shape[0], tables.grid
    rows, channel = np.indices((tables.prefix, channels), np.uint32).reshape(2, -1)
    of_places, places = np.indices((channels, height * width), np.uint32).reshape(2, -1)
    all_rows = np.concatenate([rows, places + np.uint32(tables.prefix)])
    spots: npt.NDArray[np.uint32] = all_rows << np.uint32(shift) | np.concatenate([channel, of_places])
    return spots[tables.order]


def _strips(matrix: Floats) -> Floats:
    """[C, C] as [strips, C, 16], the last one filled up: a strip stays in the nearest cache while all rows pass."""
    channels = len(matrix)
    filled = np.pad(matrix, ((0, 0), (0, -channels % _WIDE)))
    return np.ascontiguousarray(filled.reshape(channels, -1, _WIDE).transpose(1, 0, 2))
