"""A link of your own: every payload is late by a fixed delay and by its size over a rate.

In the fleet file::

    groups:
      - {name: camera, cut: 1, link: "examples.own_link:ThinLink", link_options: {rate_mbps: 20, delay_ms: 5}}
"""

from __future__ import annotations

import asyncio


class ThinLink:
    """`actors.network.link.Link`: one device's way to the server. Transfers in one direction wait for each other."""

    def __init__(self, rate_mbps: float, delay_ms: float) -> None:
        self.emulated = f"{rate_mbps:g} Mbit/s, {delay_ms:g} ms"  # stands beside every figure it touched
        self._rate_mbps = rate_mbps
        self._delay_s = delay_ms / 1e3
        self._up = asyncio.Lock()
        self._down = asyncio.Lock()

    async def send(self, size_bytes: int) -> None:
        await self._cross(self._up, size_bytes)

    async def receive(self, size_bytes: int) -> None:
        await self._cross(self._down, size_bytes)

    async def _cross(self, direction: asyncio.Lock, size_bytes: int) -> None:
        async with direction:
            await asyncio.sleep(size_bytes * 8 / (self._rate_mbps * 1e6))
        await asyncio.sleep(self._delay_s)  # bytes on their way do not block the next ones
