"""A client device of a fleet: its configuration, its heads of torch, its measured run.

Not here: a request's way (`slicer.core.device`); many devices (`actors.fleet`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from slicer.core.common.lazy import lazy

if TYPE_CHECKING:
    from actors.device.device import Device
    from slicer.core.heads.head_runtime import Computed, HeadRuntime, LoadHead
    from slicer.core.planning.cut_planner import Choice

__all__ = ["Choice", "Computed", "Device", "HeadRuntime", "LoadHead"]

__getattr__ = lazy(
    __name__,
    {
        "Choice": "slicer.core.planning.cut_planner",
        "Computed": "slicer.core.heads.head_runtime",
        "HeadRuntime": "slicer.core.heads.head_runtime",
        "LoadHead": "slicer.core.heads.head_runtime",
        "Device": "actors.device.device",
    },
)
