"""What both ends of a split share, and all that a small device needs: messages, codecs, client, planner, the device.

It imports numpy, Pillow and aiohttp, and onnxruntime and PyAV where they are used; never torch, pydantic or Ray. Within
itself it imports by relative names only: ``clients/python`` ships this folder as it stands, as ``headtail_device``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .common.lazy import lazy

if TYPE_CHECKING:
    from .client import AsyncClient, ClassScore, Client, Prediction
    from .standalone import AsyncDevice, ClassLogit, Device, Result

__all__ = ["AsyncClient", "AsyncDevice", "ClassLogit", "ClassScore", "Client", "Device", "Prediction", "Result"]

__getattr__ = lazy(
    __name__,
    dict.fromkeys(["AsyncClient", "ClassScore", "Client", "Prediction"], f"{__name__}.client")
    | dict.fromkeys(["AsyncDevice", "ClassLogit", "Device", "Result"], f"{__name__}.standalone"),
)
