"""How a device plans, as data: what the planner reads of it."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Protocol

from .cut_planner import Goal


class PlanSettings(Protocol):
    """How a device plans; the values are the defaults.

    Attributes:
        joule_ms: what one joule of the device is worth, in ms of inference time.
        server_ms: what one ms of the server's execution is worth, in ms of inference time.
        agreement: the least top-1 agreement with fp32 that a codec must have.
        margin: share of the deadline that is kept free for what cannot be predicted.
        deadline: meet the requests' deadline at the least execution on the server, instead of the least time.
        measured: agreement of codecs with fp32 for this model, where it was measured.
        codecs: what may be used; default: all that the server takes.
        every_s: how often the choice is reconsidered; each time drawn anew between half and one and a half of it.
        gain: a new choice must be better by this share.
        least_ms: and by so much.
        movers: a device that would move does so with a chance of its gain times 2 over this; 1: it always does.
        doubt: a slice that never ran may be faster than its profile says by this share.
        probe_s: a device that computes everything itself asks how link and server are after so many seconds; 0: never,
            and it stays alone until its own times change.
    """

    joule_ms: float = 0.0
    server_ms: float = 0.0
    agreement: float = 0.99
    margin: float = 0.2
    deadline: bool = False
    measured: dict[str, float]
    codecs: tuple[str, ...] | None = None
    every_s: float = 1.0
    gain: float = 0.08
    least_ms: float = 0.5
    movers: float = 2.0
    doubt: float = 0.2
    probe_s: float = 4.0


class Plan(PlanSettings):
    """The defaults, with what is said otherwise.

    Args:
        agreement, codecs, deadline, measured: see `PlanSettings`.
    """

    def __init__(
        self,
        *,
        agreement: float = PlanSettings.agreement,
        codecs: Sequence[str] | None = None,
        deadline: bool = False,
        measured: Mapping[str, float] | None = None,
    ) -> None:
        self.agreement = agreement
        self.codecs = None if codecs is None else tuple(codecs)
        self.deadline = deadline
        self.measured = dict(measured or {})


def goal_of(plan: PlanSettings, deadline_ms: float | None) -> Goal:
    """What is minimised, for requests of this deadline."""
    return Goal(
        plan.joule_ms,
        plan.server_ms,
        deadline_ms if plan.deadline else None,
        plan.margin,
        plan.agreement,
        plan.measured,
    )


class Duration(Protocol):
    """A time that varies."""

    @property
    def mean_ms(self) -> float:
        """Its expected value."""

    def draw_ms(self, rng: random.Random) -> float:
        """One of its values, drawn."""


class DeviceTimes(Protocol):
    """What is known beforehand of a device's speed; a native device that was not measured has no times."""

    @property
    def slices_ms(self) -> Sequence[Duration]:
        """Per slice, batch 1; empty: not known."""

    @property
    def preprocess_ms(self) -> Duration | None:
        """Decoding and preprocessing of an image; None: not known."""

    @property
    def memory_budget_bytes(self) -> int | None:
        """What head and largest activation may take together; None: no limit."""

    @property
    def watts(self) -> float | None:
        """Drawn while it computes, above idling; None: not known."""

    @property
    def joules_per_mb(self) -> float | None:
        """To send 10^6 bytes; None: not known."""
