"""A request on the side: zeros in place of an activation, whose answer says how link and server are.

Sent when a device joins with a plan, and by one that computes everything itself and so hears of nothing; no image waits
for it. A device that asks for outputs sends two when it joins, the first for a class alone: the difference is what
outputs take to come. To the server each is a row like any other.
"""

from __future__ import annotations

import asyncio
import contextlib

import numpy as np

from ..codecs import activations
from ..common.clock import Clock
from ..errors import HeadTailError
from ..network.server import ENVELOPE_BYTES, Server
from ..protocol.messages import Reply, Request, ServedModel
from .cut_planner import Choice
from .online_planner import OnlinePlanner

#: An answer that takes longer says nothing more than that.
PATIENCE_S = 10.0


async def probe(
    planner: OnlinePlanner,
    choice: Choice,
    served: ServedModel,
    server: Server,
    clock: Clock,
    *,
    name: str = "probe",
    token: str = "",
    outputs: tuple[str, ...] = (),
) -> None:
    """Send one at `choice`, tell the planner what came of it. Never raises except for cancellation.

    Args:
        served: the model that is asked for, with the manifest that the server knows.
        name, token: make the request's id the device's own.
        outputs: that the answer is to carry; empty: a class.
    """
    shape = planner.shape(choice.cut)
    payload = activations.encode(choice.codec, np.zeros(shape, np.float32), planner.channel_axis(choice.cut))
    began_s = clock.now_s()
    request = Request(
        id=f"{name}/probe-{began_s:.6f}@{token}",
        model=served.name,
        manifest=served.manifest,
        cut=choice.cut,
        codec=choice.codec,
        shape=shape,
        payload=payload,
        top_k=1,
        wants_load=True,
        outputs=outputs,
    )
    sent = planner.link.sent(began_s, len(payload) + ENVELOPE_BYTES, planner.answer_bytes if outputs else 0)
    answer = None
    with contextlib.suppress(HeadTailError, asyncio.TimeoutError):
        [answer] = await asyncio.wait_for(server.infer([request]), PATIENCE_S)
    now_s = clock.now_s()
    if isinstance(answer, Reply):
        timings = answer.timings
        planner.link.answered(sent, now_s, timings.total_ms / 1e3)
        planner.served(choice.cut, timings.admission_ms + timings.queue_ms, timings.execution_ms, answer.load)
    else:
        planner.link.given_up(sent, now_s)
    planner.probed(now_s, now_s - began_s)
