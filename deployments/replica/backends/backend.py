"""What stands between a checked request and its outcome in a replica: the engine, or what a strategy brings instead."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from deployments.core.status import Counters
from deployments.engine.trace import TracedStep
from deployments.replica.admission.calls import CheckedRequest, Result


class Backend(Protocol):
    """Runs the tails of all models of a replica.

    It is made with the models and their weights, an executor and the `ServerConfig`, takes the weights over, and is
    ready when its constructor returns. `infer` and `healthy` belong to the replica's event loop, the others to any
    thread.
    """

    async def infer(self, requests: Sequence[CheckedRequest]) -> list[Result]:
        """Checked requests of one call, in order: outcome and moment of admission of each, or why it was not admitted.

        It returns when the last one has ended. A caller that is cancelled takes its rows with it, where that is
        possible.
        """

    def counters(self) -> Counters:
        """What was done so far, consistent in itself."""

    def steps(self) -> list[TracedStep]:
        """The last steps, times on `time.monotonic`; none where a backend does not keep them."""
        return []

    async def healthy(self) -> None:
        """Return if it can serve.

        Raises:
            RuntimeError: it cannot any more, and why: Serve restarts the replica.
        """

    def close(self) -> None:
        """Answer what waits, as far as it can, and end the threads. Calling it again is harmless."""
