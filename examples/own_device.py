"""A device of your own: a board without a fan, which rests after each head for as long as the head took.

In the fleet file::

    groups:
      - {name: camera, cut: 1, device: "examples.own_device:FanlessDevice"}
"""

from __future__ import annotations

import asyncio

from actors.device import Choice, Computed, Device


class FanlessDevice(Device):
    """Half of the time it cools. The next image waits meanwhile, and that is in its `wait_ms`."""

    async def compute(self, image: str, choice: Choice) -> Computed:
        computed = await super().compute(image, choice)
        await asyncio.sleep(computed.head_ms / 1e3)
        return computed
