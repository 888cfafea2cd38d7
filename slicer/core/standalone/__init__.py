"""A device on its own: `Device`, `AsyncDevice` and the command `headtail-device`.

Not here: devices of a fleet, as Ray actors (`actors`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..common.lazy import lazy

if TYPE_CHECKING:
    from .device import AsyncDevice, Device
    from .result import ClassLogit, Result

__all__ = ["AsyncDevice", "ClassLogit", "Device", "Result"]

__getattr__ = lazy(
    __name__,
    {
        "AsyncDevice": f"{__name__}.device",
        "ClassLogit": f"{__name__}.result",
        "Device": f"{__name__}.device",
        "Result": f"{__name__}.result",
    },
)
