"""Slices as ONNX files, for devices without torch: export, the check against torch, a form with weights of 8 bits.

>>> manifest, index = onnx.export(slice_model("digits_vit"), "shards")     # beside the shards
>>> index.slices[0].fp32.file
'slice_1.onnx'

Needs the extra ``onnx``. Not here: reading the index, which needs none (`slicer.core.protocol.onnx_index`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from slicer.core.common.lazy import lazy

if TYPE_CHECKING:
    from slicer.onnx.save import export, export_beside

__all__ = ["export", "export_beside"]

__getattr__ = lazy(__name__, dict.fromkeys(__all__, "slicer.onnx.save"))
