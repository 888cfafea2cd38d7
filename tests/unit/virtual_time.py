"""Virtual time for tests; see `actors.testing.virtual_time`."""

from __future__ import annotations

from actors.testing.virtual_time import VirtualClock, VirtualLoop, run

__all__ = ["VirtualClock", "VirtualLoop", "run"]
