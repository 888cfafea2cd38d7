"""An own executor: torch, with a log of every step, written where the operator says.

In a server's file, with the folder of this file on PYTHONPATH::

    executor: own_executor:LoggingExecutor
    executor_options: {log: /tmp/steps.csv}

An executor is called with `device`, `threads` and the options. Deriving from `TorchExecutor` is the short way; one that
computes in another way derives from `deployments.executors.Executor`, which says what it needs and shows a small one.
"""

from __future__ import annotations

from pathlib import Path

from deployments.executors import TorchExecutor
from deployments.scheduling import Step


class LoggingExecutor(TorchExecutor):
    """Writes ``model,start,end,rows,ms`` per step."""

    def __init__(self, device: str = "cpu", threads: int | None = None, *, log: str) -> None:
        super().__init__(device, threads)
        self._log = Path(log)

    def run(self, step: Step) -> float:
        """Run the step and log it."""
        seconds = super().run(step)
        with self._log.open("a", encoding="utf-8") as file:
            file.write(f"{step.model},{step.start},{step.end},{len(step.rows)},{seconds * 1e3:.3f}\n")
        return seconds
