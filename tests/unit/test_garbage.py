"""Full collections come while a replica is idle, and now and then if it never is."""

from __future__ import annotations

import subprocess
import sys

from deployments.garbage import IDLE_S, MOST_S, Garbage


class Replica:
    """A clock, whether something is at work, and when there was a collection."""

    def __init__(self) -> None:
        self.now_s, self.busy, self.collected_s = 0.0, False, list[float]()
        self.garbage = Garbage(
            lambda: not self.busy,
            clock=lambda: self.now_s,
            collect=lambda: self.collected_s.append(self.now_s),
        )

    def at(self, now_s: float, busy: bool) -> None:
        self.now_s, self.busy = now_s, busy
        self.garbage.look()


def test_an_idle_replica_collects_but_not_all_the_time() -> None:
    replica = Replica()
    for now_s in range(0, 31):
        replica.at(float(now_s), busy=False)
    assert replica.collected_s == [IDLE_S, 2 * IDLE_S, 3 * IDLE_S]


def test_a_busy_replica_waits_for_a_moment_without_work() -> None:
    replica = Replica()
    for now_s in range(0, 60):
        replica.at(float(now_s), busy=now_s < 42)
    assert replica.collected_s == [42.0, 52.0]


def test_one_that_is_never_idle_collects_all_the_same() -> None:
    replica = Replica()
    for now_s in range(0, int(2 * MOST_S) + 1):
        replica.at(float(now_s), busy=True)
    assert replica.collected_s == [MOST_S, 2 * MOST_S]


_SAYS = """
import gc, weakref
from deployments.garbage import Garbage

class Node:
    pass

def cycle():
    node = Node()
    node.self = node
    return weakref.ref(node)

Garbage.take_over()
full = []
gc.callbacks.append(lambda phase, info: full.append(phase) if info["generation"] == 2 else None)
young = cycle()
kept = [[n] for n in range(300_000)]  # Python would have collected everything several times
print(len(full), young() is None)
"""


def test_python_collects_young_objects_and_never_all_by_itself() -> None:
    done = subprocess.run([sys.executable, "-c", _SAYS], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "True"]
