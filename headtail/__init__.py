"""What stands above devices and server: the command line and the demo. `Client` and `AsyncClient` are for applications.

``import headtail`` imports neither torch nor Ray, nor does a client. Nothing of ours imports this package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from slicer.core.common.lazy import lazy

if TYPE_CHECKING:
    from slicer.core.client import AsyncClient, ClassScore, Client, Prediction

__all__ = ["AsyncClient", "ClassScore", "Client", "Prediction"]

__getattr__ = lazy(__name__, dict.fromkeys(__all__, "slicer.core.client"))
