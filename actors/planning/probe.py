"""A request on the side: zeros in place of an activation, whose answer says how link and server are.

Sent when a device joins with a plan, and by one that computes everything itself and so hears of nothing; no image waits
for it. To the server it is a row like any other.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import numpy as np

from actors.network.client import ENVELOPE_BYTES
from slicer.codecs import activations as codec
from slicer.errors import HeadTailError
from slicer.planning.cut_planner import Choice
from slicer.protocol.messages import Reply, Request

if TYPE_CHECKING:
    from actors.device.device import Device
    from actors.planning.online_planner import Adaptive

#: An answer that takes longer says nothing more than that.
PATIENCE_S = 10.0


async def probe(device: Device, planner: Adaptive, choice: Choice | None) -> None:
    """Send one, tell the planner what came of it. Never raises but for cancellation; nothing for `choice` None."""
    served = device.served
    if choice is None or served is None:
        return
    shape = planner.shape(choice.cut)
    payload = codec.encode(choice.codec, np.zeros(shape, np.float32), planner.channel_axis(choice.cut))
    began_s = device.clock.now_s()
    request = Request(
        id=f"{device.config.name}/probe-{began_s:.6f}@{device.token}",
        model=served.name,
        manifest=served.manifest,
        cut=choice.cut,
        codec=choice.codec,
        shape=shape,
        payload=payload,
        top_k=1,
        wants_load=True,
    )
    sent = planner.link.sent(began_s, len(payload) + ENVELOPE_BYTES)
    answer = None
    with contextlib.suppress(HeadTailError, asyncio.TimeoutError):
        [answer] = await asyncio.wait_for(device.server.infer([request]), PATIENCE_S)
    now_s = device.clock.now_s()
    if isinstance(answer, Reply):
        timings = answer.timings
        planner.link.answered(sent, now_s, timings.total_ms / 1e3)
        planner.served(choice.cut, timings.admission_ms + timings.queue_ms, timings.execution_ms, answer.load)
    else:
        planner.link.given_up(sent, now_s)
    planner.probed(now_s, now_s - began_s)
