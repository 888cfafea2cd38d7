"""`ray down` leaves nothing running."""

from __future__ import annotations

import time
from collections.abc import Iterator

from tests.rig.finding import Finding, judged
from tests.rig.hosts import HEAD
from tests.rig.operator import Operator

#: What Ray's processes are called; the brackets keep the command from finding itself.
_OF_RAY = r"[r]aylet|[g]cs_server|[r]ay::|[r]ay/_private|[r]ay/dashboard|[r]ay/autoscaler|[h]aproxy"

#: Within this time after `ray down` has returned.
MOST_S = 30.0


def down(operator: Operator) -> Iterator[Finding]:
    """After `ray down`, no host has a process of Ray's."""

    def left() -> dict[str, int]:
        hosts = [HEAD, *operator.hosts.edges]
        return {h: len(operator.hosts.run(h, f"pgrep -f '{_OF_RAY}'", check=False).split()) for h in hosts}

    before = left()
    began_s = time.monotonic()
    operator.ray_down()
    returned_s = time.monotonic()
    while any((now := left()).values()) and time.monotonic() - returned_s < 3 * MOST_S:
        time.sleep(1.0)  # between two looks
    took_s = time.monotonic() - returned_s
    yield judged(
        "`ray down` leaves nothing on any host",
        all(before.values()) and not any(now.values()) and took_s <= MOST_S,
        f"of {sum(before.values())} processes {sum(now.values())} left {took_s:.0f} s after `ray down` returned "
        f"(itself {returned_s - began_s:.0f} s)",
    )
