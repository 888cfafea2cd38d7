"""How rows come to an engine's thread, and how that sleeps until some do."""

from __future__ import annotations

import threading
from typing import Protocol


class Intake(Protocol):
    """One engine's. `Engine.submit` and `Engine.cancel` work from any thread beside it."""

    def ring(self) -> None:
        """Wake the engine's thread, now or when it is about to sleep. Any thread."""

    def wait(self, timeout_s: float | None) -> None:
        """Sleep until it rings, something comes in, or the time is up; waking for nothing is harmless."""

    def collect(self) -> None:
        """Hand over what came in by `Engine.submit` and `Engine.cancel`, on the engine's thread; never sleeps."""

    def ended(self) -> None:
        """The engine takes no more rows and has answered for all; the last call on its thread."""


class ThreadIntake(Intake):
    """For rows that threads of this process submit."""

    def __init__(self) -> None:
        self._bell = threading.Condition()
        self._rung = False
        self._sleeps = False  # set before `_rung` is read, as `_rung` is set before this is: one sees the other

    def ring(self) -> None:
        """By a condition, if the thread sleeps or is about to."""
        self._rung = True
        if self._sleeps:
            with self._bell:
                self._bell.notify()

    def wait(self, timeout_s: float | None) -> None:
        """On the condition."""
        with self._bell:
            self._sleeps = True
            if not self._rung:
                self._bell.wait(timeout_s)
            self._sleeps = self._rung = False

    def ended(self) -> None:
        """Nothing is held here."""

    def collect(self) -> None:
        """All came by `Engine.submit` already; what rang for it until now need not wake the thread once more."""
        self._rung = False
