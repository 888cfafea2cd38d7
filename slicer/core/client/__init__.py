"""The client of a HeadTail server: `Client`, `AsyncClient`, and below them the connection that devices use as well.

>>> from headtail import Client
>>> with Client("http://host:8000/headtail") as client:
...     print(client.predict("photo.jpg").label)

It imports neither torch nor Ray. Not here: what travels (`protocol.oip`); devices (`actors`), which have budgets
and patience of their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..common.lazy import lazy

if TYPE_CHECKING:
    from .async_client import AsyncClient
    from .client import Client
    from .prediction import ClassScore, Prediction

__all__ = ["AsyncClient", "ClassScore", "Client", "Prediction"]

__getattr__ = lazy(
    __name__,
    {
        "AsyncClient": f"{__name__}.async_client",
        "ClassScore": f"{__name__}.prediction",
        "Client": f"{__name__}.client",
        "Prediction": f"{__name__}.prediction",
    },
)
