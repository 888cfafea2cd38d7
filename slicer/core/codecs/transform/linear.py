"""An activation to coefficients and back: channels by a fitted transform, places by a 2-D cosine transform.

Coefficients stand in the order prefix tokens [P, C], then [C, height, width]: low channels and frequencies first.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from .tables import TransformTables

Floats = npt.NDArray[np.float32]


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
    """Both ways, in float32, of one boundary. Any thread."""

    def __init__(self, tables: TransformTables) -> None:
        self._tables = tables
        self._mean = tables.mean.astype(np.float32)
        self._forward = np.ascontiguousarray(tables.analysis.astype(np.float32))
        self._back = np.ascontiguousarray(tables.synthesis.T)
        self._prefix_forward = np.ascontiguousarray(tables.prefix_analysis.T.astype(np.float32))
        self._prefix_back = np.ascontiguousarray(tables.prefix_synthesis.T)
        self._rows, self._columns = cosines(tables.grid[0]), cosines(tables.grid[1])

    def analyse(self, activation: Floats) -> Floats:
        """An activation of `tables.shape` to [n] coefficients."""
        tables, (height, width) = self._tables, self._tables.grid
        channels = self._forward.shape[0]
        if tables.layout == "planes":
            activation = activation.reshape(channels, height * width).T
        tokens = activation.reshape(-1, channels) - self._mean
        patches = (self._forward @ tokens[tables.prefix :].T).reshape(channels, height, width)
        places = self._rows @ patches @ self._columns.T
        if not tables.prefix:
            return np.asarray(places.reshape(-1), np.float32)
        prefix = tokens[: tables.prefix] @ self._prefix_forward
        return np.concatenate([prefix.reshape(-1), places.reshape(-1)])

    def synthesise(self, coefficients: Floats, out: Floats) -> None:
        """[n] coefficients to an activation, into `out` of `tables.shape`."""
        tables, (height, width) = self._tables, self._tables.grid
        channels, prefix = self._forward.shape[0], self._tables.prefix
        of_patches = coefficients[prefix * channels :].reshape(channels, height, width)
        patches = (self._rows.T @ of_patches @ self._columns).reshape(channels, height * width)
        tokens = np.empty(self._mean.shape, np.float32)
        np.matmul(patches.T, self._back, out=tokens[prefix:])
        if prefix:
            np.matmul(
                coefficients[: prefix * channels].reshape(prefix, channels), self._prefix_back, out=tokens[:prefix]
            )
        tokens += self._mean
        out[...] = (tokens.T if tables.layout == "planes" else tokens).reshape(out.shape)
