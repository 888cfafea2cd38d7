"""What a device knows of its server: whether it is there, how long answers take, how long to pause."""

from __future__ import annotations

import random

from ...common.clock import Clock
from ...settings import DeviceSettings, pause_s
from .backlog import Backlog
from .circuit_breaker import CircuitBreaker
from .recovery_probe import RecoveryProbe, Reload

#: A device that can go on alone leaves the server for about so long after a first failure: it can afford to.
_AWAY_S = 0.25


class ServerHealth:
    """One device's opinion of its server. Used on its event loop.

    Attributes:
        breaker: whether requests are sent at all.
        backlog: what waits for the server, on a device that cannot go on alone.
        recovery: finds out that the server is back, on one that can.
        served_ms: what answers took lately, from sending on; 0 before the first.
    """

    def __init__(self, config: DeviceSettings, clock: Clock, reload: Reload) -> None:
        self._retry = config.retry
        self._jitter = random.Random(f"{config.seed}/{config.name}/retry")
        first_s = _AWAY_S if config.alone else config.retry.first_pause_s
        self.breaker = CircuitBreaker(first_s, config.retry.max_pause_s, self._jitter)
        self.backlog = Backlog(self.breaker, clock)
        self.recovery = RecoveryProbe(self.breaker, clock, reload)
        self.served_ms = 0.0

    def reseed(self, seed: str) -> None:
        """Draw pauses from here on as another device with this seed does."""
        self._jitter.seed(seed)

    def served(self, took_ms: float) -> None:
        """An answer of the server took so long."""
        self.served_ms += 0.1 * (took_ms - self.served_ms) if self.served_ms else took_ms

    def pause_s(self, attempt: int) -> float:
        """Before the sending after this one, jitter included."""
        return pause_s(self._retry, attempt) * self._jitter.uniform(0.5, 1.5)
