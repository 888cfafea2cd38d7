"""A client device: its head, a request on its way, what it does when the server is away.

Not here: many devices (`actors.fleet`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from slicer.common.lazy import lazy

if TYPE_CHECKING:
    from actors.device.device import Device
    from actors.device.head import Computed
    from slicer.planning.cut_planner import Choice

__all__ = ["Choice", "Computed", "Device"]

__getattr__ = lazy(
    __name__,
    {
        "Choice": "slicer.planning.cut_planner",
        "Computed": "actors.device.head",
        "Device": "actors.device.device",
    },
)
