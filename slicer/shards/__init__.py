"""Slices as files: export, manifest, loading a span, the cache of a device.

>>> manifest = shards.export(slice_model("digits_vit"), "shards")
>>> head = shards.load_span("shards", 0, 2)           # opens slice_1 and slice_2, and no other weights

Not here: how a model is cut (`slicer.slicing`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from slicer.core.common.lazy import lazy

if TYPE_CHECKING:
    from slicer.core.shards.manifest import Manifest, load_manifest
    from slicer.shards.load import load_sliced, load_slices, load_span
    from slicer.shards.save import export

__all__ = ["Manifest", "export", "load_manifest", "load_sliced", "load_slices", "load_span"]

# No module here may be called `export`: importing it would put it in the function's place.
__getattr__ = lazy(
    __name__,
    {
        "Manifest": "slicer.core.shards.manifest",
        "export": "slicer.shards.save",
        "load_manifest": "slicer.core.shards.manifest",
        "load_sliced": "slicer.shards.load",
        "load_slices": "slicer.shards.load",
        "load_span": "slicer.shards.load",
    },
)
