"""Small tables, fitted on activations with channels that hang together."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from slicer.calibration.fit import fit
from slicer.calibration.layout import Layout
from slicer.core.codecs.transform.payload import BoundaryCodec

LAYOUTS = {
    "tokens behind a class token": (Layout("tokens", (4, 4), 1, 12), (17, 12)),
    "tokens behind five": (Layout("tokens", (3, 5), 5, 12), (20, 12)),
    "tokens alone": (Layout("tokens", (4, 4), 0, 12), (16, 12)),
    "a map": (Layout("grid", (5, 3), 0, 12), (5, 3, 12)),
    "planes": (Layout("planes", (3, 5), 0, 12), (12, 3, 5)),
}


def activations(name: str, count: int, seed: int = 0) -> npt.NDArray[np.float32]:
    """[count, *shape]; four numbers for each place say most of it."""
    layout, shape = LAYOUTS[name]
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).standard_normal((4, layout.channels)) * 3
    tokens = layout.prefix + layout.grid[0] * layout.grid[1]
    found = rng.standard_normal((count, tokens, 4)) @ mixing + 0.1 * rng.standard_normal(
        (count, tokens, layout.channels)
    )
    if layout.name == "planes":
        found = found.transpose(0, 2, 1)
    return np.ascontiguousarray(found.reshape(count, *shape), dtype=np.float32)


@lru_cache
def codec(name: str) -> BoundaryCodec:
    """Fitted on 40 of them."""
    return BoundaryCodec(fit(activations(name, 40), LAYOUTS[name][0]))
