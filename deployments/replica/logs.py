"""Where the records of the `headtail` loggers go in a replica: into its log, beside Serve's own lines."""

from __future__ import annotations

import logging


class _ToServe(logging.Handler):
    """Hands records on to Serve's logger: it has the replica's file, and a level that can change while it runs."""

    def emit(self, record: logging.LogRecord) -> None:
        """Called by `logging`."""
        serve = logging.getLogger("ray.serve")
        if serve.isEnabledFor(record.levelno):
            serve.handle(record)


def log_with_serve() -> None:
    """From now on in this process. Calling it again does nothing."""
    ours = logging.getLogger("headtail")
    if not any(isinstance(handler, _ToServe) for handler in ours.handlers):
        ours.addHandler(_ToServe())
        ours.setLevel(logging.DEBUG)  # Serve's logger decides
        ours.propagate = False  # else the root logger would say it a second time
