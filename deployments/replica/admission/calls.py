"""A call of requests in the replica, and what becomes of each of them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from deployments.engine.ledger import Outcome
from deployments.ipc.hosted_model import HostedModel
from slicer.core.protocol.messages import Refusal, Request


@dataclass(frozen=True, slots=True)
class CheckedRequest:
    """A checked request, with the moment it reached the replica (monotonic clock)."""

    model: HostedModel
    request: Request
    arrived_s: float

    @property
    def deadline_s(self) -> float | None:
        """The deadline on the same clock."""
        left_ms = self.request.deadline_ms
        return None if left_ms is None else self.arrived_s + left_ms / 1e3


#: What becomes of one request: its outcome and when it was admitted, or why it was not.
Result = tuple[Outcome, float] | Refusal


@dataclass(slots=True)
class Call:
    """The requests of one call, and what becomes of them. Use it from one event loop only.

    Attributes:
        requests: one or several.
        ended: done when every request has its result, when the call has failed, or when the caller is gone.
        results: of the requests, in order, as they end; emptied when they are handed over, since answers hold memory
            that rows need, and who gathers calls may hold a call until the next one comes.
        open: how many have none yet.
        tickets: of its rows, once they are admitted.
        left: nobody waits for its rows any more.
    """

    requests: Sequence[CheckedRequest]
    ended: asyncio.Future[None]
    results: list[Result | None] = field(init=False)
    open: int = field(init=False)
    tickets: list[int] = field(default_factory=list)
    left: bool = False

    def __post_init__(self) -> None:
        self.open = len(self.requests)
        self.results = [None] * self.open

    def end(self, index: int, result: Result) -> None:
        """One request has ended."""
        if not self.left:
            self.results[index] = result
        self.open -= 1
        if not self.open and not self.ended.done():
            self.ended.set_result(None)

    def fail(self, error: BaseException) -> None:
        """The whole call has failed."""
        if not self.ended.done():
            self.ended.set_exception(error)


#: A request of a call: the call, and which one.
Place = tuple[Call, int]


def request_at(place: Place) -> CheckedRequest:
    """The request that a place stands for."""
    call, index = place
    return call.requests[index]
