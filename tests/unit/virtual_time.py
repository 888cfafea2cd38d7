"""Virtual time for tests; see `actors.virtual_time`."""

from __future__ import annotations

from actors.virtual_time import VirtualClock, VirtualLoop, run

__all__ = ["VirtualClock", "VirtualLoop", "run"]
