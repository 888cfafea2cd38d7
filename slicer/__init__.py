"""Cut a vision model into slices, store and load them, and encode what crosses between them.

``import slicer`` imports no torch, so that the wire's types stay cheap to import; the names below load it when used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from slicer.common.old_names import install
from slicer.core.common.lazy import lazy

if TYPE_CHECKING:
    from slicer.shards.load import load_span
    from slicer.slicing.slice_model import slice_model
    from slicer.slicing.sliced_model import SlicedModel

__all__ = ["SlicedModel", "load_span", "slice_model"]

__getattr__ = lazy(
    __name__,
    {
        "SlicedModel": "slicer.slicing.sliced_model",
        "load_span": "slicer.shards.load",
        "slice_model": "slicer.slicing.slice_model",
    },
)

install()
