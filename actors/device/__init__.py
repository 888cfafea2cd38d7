"""A client device: its head, a request on its way, what it does when the server is away.

Not here: many devices (`actors.fleet`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from slicer.common.lazy import lazy

if TYPE_CHECKING:
    from actors.device.device import Device
    from actors.device.head_runtime import Computed, HeadRuntime, LoadHead
    from slicer.planning.cut_planner import Choice

__all__ = ["Choice", "Computed", "Device", "HeadRuntime", "LoadHead"]

__getattr__ = lazy(
    __name__,
    {
        "Choice": "slicer.planning.cut_planner",
        "Computed": "actors.device.head_runtime",
        "HeadRuntime": "actors.device.head_runtime",
        "LoadHead": "actors.device.head_runtime",
        "Device": "actors.device.device",
    },
)
