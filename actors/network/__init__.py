"""How a device reaches the server: transports, links, emulated links, parcels.

Not here: what is sent (`slicer.core.protocol`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from slicer.core.common.lazy import lazy

if TYPE_CHECKING:
    from actors.network.link import Link

__all__ = ["Link"]

__getattr__ = lazy(
    __name__,
    {
        "Link": "actors.network.link",
    },
)
