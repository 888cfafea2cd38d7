"""Cut a vision model into slices, store and load them, and encode what crosses between them.

``import slicer`` imports no torch, so that the wire's types stay cheap to import; the names below load it when used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slicer.shards.load import load_span
    from slicer.slicing.slice_model import SlicedModel, slice_model

__all__ = ["SlicedModel", "load_span", "slice_model"]


def __getattr__(name: str) -> Any:
    if name in ("slice_model", "SlicedModel"):
        from slicer.slicing import slice_model as model

        return getattr(model, name)
    if name == "load_span":
        from slicer.shards import load as shards

        return shards.load_span
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
