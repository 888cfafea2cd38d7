"""Virtual time for tests; see `actors.clock.virtual_time`."""

from __future__ import annotations

from actors.clock.virtual_time import VirtualClock, VirtualLoop, run

__all__ = ["VirtualClock", "VirtualLoop", "run"]
