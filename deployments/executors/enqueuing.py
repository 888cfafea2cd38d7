"""What an executor offers beside `base.Executor` when its accelerator takes a step while one runs."""

from __future__ import annotations

from typing import Protocol, TypeVar, runtime_checkable

from deployments.scheduling.scheduler import Step

Ticket = TypeVar("Ticket")


@runtime_checkable
class Enqueuing(Protocol[Ticket]):
    """What an executor offers beside `Executor` when it takes steps while one runs."""

    def flush(self) -> None:
        """Begin to move what was put since the last time, so that it is there when its step begins.

        Raises:
            AcceleratorLost: nothing will run any more.
        """

    def launch(self, step: Step) -> Ticket:
        """Enqueue a step behind those launched before, and return at once.

        All that can be wrong with a step is found here; if it raises, the rows' activations are as before.

        Raises:
            OutOfMemory: a smaller batch may do.
            AcceleratorLost: nothing will run any more.
        """

    def wait(self, ticket: Ticket) -> float:
        """Wait until the step has ended; returns the seconds that the accelerator worked on it.

        Raises:
            AcceleratorLost: it will not end; nothing else may be raised.
        """
