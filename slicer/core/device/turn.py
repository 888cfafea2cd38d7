"""Whose image is at work on a device: a lock that knows how many wait for it."""

from __future__ import annotations

import asyncio
from typing import Literal


class Turn(asyncio.Lock):
    """Held while an image is at work; first come, first served. Used on one event loop.

    Attributes:
        waiting: images that wait for it now. Who gives up waiting is not counted any more.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waiting = 0

    async def acquire(self) -> Literal[True]:
        """Wait for one's turn."""
        self.waiting += 1
        try:
            return await super().acquire()
        finally:
            self.waiting -= 1
