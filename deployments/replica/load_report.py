"""How busy the server is, per entry: what devices that plan are told with a reply.

Smoothed over the last second or so. Entries that nobody used lately are derived from those that were: execution in
proportion to the slices that are left, waiting as the others wait.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

#: Half of what is known of an entry is from the last so many seconds; after ten of these it is forgotten.
HALF_LIFE_S = 1.0

_REFRESH_S = 0.1

Load = tuple[tuple[int, float, float], ...]


class LoadReport:
    """Of one model. Not thread-safe: use it from one event loop.

    Args:
        entries: where requests enter; `num_slices`: of the model.
        clock: seconds.
    """

    def __init__(self, entries: tuple[int, ...], num_slices: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._entries, self._num_slices, self._clock = entries, num_slices, clock
        self._seen: dict[int, tuple[float, float, float]] = {}  # entry -> (wait, execution, when)
        self._report: Load = ()
        self._made_s = -math.inf

    def observe(self, entry: int, wait_ms: float, execution_ms: float) -> None:
        """A request that entered there was answered."""
        now_s = self._clock()
        before = self._seen.get(entry)
        if before is not None:
            keep = 0.5 ** ((now_s - before[2]) / HALF_LIFE_S)
            keep = min(keep, 0.9)  # many at once are not all the same moment's news
            wait_ms += keep * (before[0] - wait_ms)
            execution_ms += keep * (before[1] - execution_ms)
        self._seen[entry] = (wait_ms, execution_ms, now_s)

    def report(self) -> Load:
        """(entry, ms in queues, ms of execution), by entry; empty if there was no request lately."""
        now_s = self._clock()
        if now_s - self._made_s >= _REFRESH_S:
            self._report, self._made_s = self._make(now_s), now_s
        return self._report

    def _make(self, now_s: float) -> Load:
        fresh = {e: s for e, s in self._seen.items() if now_s - s[2] < 10 * HALF_LIFE_S}
        if not fresh:
            return ()
        wait_ms = sum(seen[0] for seen in fresh.values()) / len(fresh)
        slices = sum(self._num_slices - entry for entry in fresh)
        per_slice_ms = sum(seen[1] for seen in fresh.values()) / slices
        return tuple(
            (entry, round(fresh[entry][0], 3), round(fresh[entry][1], 3))
            if entry in fresh
            else (entry, round(wait_ms, 3), round(per_slice_ms * (self._num_slices - entry), 3))
            for entry in self._entries
        )
