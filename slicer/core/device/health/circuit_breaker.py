"""When to leave a server alone, and when to ask it again.

After a failure nobody asks for a pause that doubles with every failure and is drawn anew each time, so that a fleet
does not come back all at once. Then one request at a time, the probe, finds out whether the server is back.
"""

from __future__ import annotations

import math
import random


class CircuitBreaker:
    """One device's opinion of its server. Not thread-safe: its event loop calls it.

    Args:
        first_pause_s, max_pause_s: of the pauses; each is drawn from half to one and a half of that.
        rng: of the draws.
    """

    def __init__(self, first_pause_s: float, max_pause_s: float, rng: random.Random) -> None:
        self._first_s, self._max_s, self._rng = first_pause_s, max_pause_s, rng
        self._pause_s = first_pause_s
        self._until_s: float | None = None  # None: the server is there
        self._asking = False

    @property
    def closed(self) -> bool:
        """Requests pass: the last that is known of the server is good."""
        return self._until_s is None

    def may_try(self, now_s: float) -> bool:
        """Whether a request may be sent. Where the server was away, the one that may is the probe: say how it went."""
        if self._until_s is None:
            return True
        if self._asking or now_s < self._until_s:
            return False
        self._asking = True
        return True

    def pause_left_s(self, now_s: float) -> float:
        """Until a request may be sent; infinity while a probe is on its way."""
        if self._until_s is None:
            return 0.0
        return math.inf if self._asking else max(self._until_s - now_s, 0.0)

    def failed(self, now_s: float, *, probe: bool = False) -> None:
        """A request got no answer, or was refused for want of room or time."""
        if self._until_s is not None and not probe:
            return  # one of those that were on their way when it went: no news
        self._asking = False
        self._until_s = now_s + self._pause_s * self._rng.uniform(0.5, 1.5)
        self._pause_s = min(2 * self._pause_s, self._max_s)

    def answered(self) -> None:
        """An answer came in time."""
        self._until_s, self._asking, self._pause_s = None, False, self._first_s

    def said_nothing(self) -> None:
        """The probe ended without news of the server."""
        self._asking = False
