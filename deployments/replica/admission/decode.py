"""Payloads to rows: what arrives together with one codec is decoded in one go, and a bad one touches no neighbour."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from deployments.ipc.hosted_model import HostedModel, Receiving
from slicer.core.codecs.activations import ordinary
from slicer.core.protocol.messages import Refusal, Request
from slicer.errors import CodecError, NotFiniteError

logger = logging.getLogger("headtail.server")


def decode_rows(
    model: HostedModel, requests: Sequence[Request], receiving: Receiving = ordinary
) -> tuple[npt.NDArray[np.float32], list[Refusal | None]]:
    """Decode requests of one model and cut into one [B, ...] float32 array. Any thread.

    Args:
        receiving: makes the memory for the rows, where all of them are good activations of one codec.

    Returns the array of the good rows, in order, and per request its refusal or None.
    """
    if len({request.codec for request in requests}) == 1:
        try:
            rows = model.decode(
                requests[0].codec, [request.payload for request in requests], requests[0].cut, receiving
            )
            return rows, [None] * len(requests)
        except Exception:  # one of them; which one is found below
            logger.debug("decoding %d payloads one by one", len(requests), exc_info=True)
    rows = np.empty((len(requests), *model.shapes[requests[0].cut]), dtype=np.float32)
    refusals: list[Refusal | None] = []
    good = 0
    for request in requests:
        try:
            rows[good] = model.decode(request.codec, [request.payload], request.cut)[0]
        except CodecError as error:
            code = "not_finite" if isinstance(error, NotFiniteError) else "bad_codec"
            refusals.append(Refusal(request.id, code, str(error)))  # type: ignore[arg-type]
        except Exception as error:  # its own misfortune (memory, a defect), and nobody else's
            logger.exception("a payload could not be decoded")
            refusals.append(Refusal(request.id, "failed", f"it could not be decoded ({type(error).__name__})"))
        else:
            refusals.append(None)
            good += 1
    return rows[:good], refusals
