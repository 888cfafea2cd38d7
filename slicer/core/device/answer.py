"""What is asked of a device for one image, and what it answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..common.top_k import top_k
from ..errors import ConfigError, ServerError
from ..protocol.messages import Reply
from ..protocol.outputs import LOGITS, Outputs

#: (class, logit) pairs, best first; empty without an answer.
TopK = tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class RequestOptions:
    """How one request is to be treated; times are the assignment's.

    `fresh_only`: `max_age_ms` counts also for what had to wait for the server, as a camera's frames.

    `outputs`: of the model (`protocol.outputs`), whole, in the order in which they are packed; then there are
    classes only where ``logits`` is one of them.
    """

    top_k: int = 5
    max_age_ms: float | None = None
    deadline_ms: float | None = None
    fresh_only: bool = False
    outputs: tuple[str, ...] = ()


def outputs_of(reply: Reply, names: Sequence[str]) -> Outputs:
    """Those that a reply carries. Raises ServerError: others than were asked for."""
    given = {name: np.frombuffer(values, "<f4").reshape(shape) for name, shape, values in reply.outputs}
    if list(given) != list(names):
        raise ServerError(
            f"the server answered with outputs {', '.join(given) or 'none'}, not {', '.join(names)}; is it of another "
            "release?"
        )
    return given


def chosen(made: Outputs | None, names: Sequence[str], device: str) -> Outputs:
    """Those of a device's own outputs that were asked for.

    Raises:
        ConfigError: it made none, or not these.
    """
    if made is None or not made.keys() >= set(names):
        raise ConfigError(
            f"device {device} computed the whole model, but gives {', '.join(made or ()) or 'logits alone'}, not "
            f"{', '.join(names)}; its class must fill Computed.outputs, or its group leave outputs out"
        )
    return {name: made[name] for name in names}


def classes_of(outputs: Outputs, count: int) -> TopK:
    """The best classes of these outputs, where logits are one of them; else none."""
    return top_k(outputs[LOGITS], count) if LOGITS in outputs else ()
