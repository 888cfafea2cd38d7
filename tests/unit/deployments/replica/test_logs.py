"""Records of HeadTail's loggers are in the replica's log, once, at Serve's level."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from deployments.replica.logs import log_with_serve


class Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append((record.name, record.getMessage()))


@pytest.fixture
def serve_log() -> Iterator[Lines]:
    ours, serve, lines = logging.getLogger("headtail"), logging.getLogger("ray.serve"), Lines()
    before = [(log, log.handlers[:], log.level, log.propagate) for log in (ours, serve)]
    serve.handlers, serve.propagate = [lines], False
    serve.setLevel(logging.INFO)
    yield lines
    for log, handlers, level, propagate in before:
        log.handlers, log.propagate = handlers, propagate
        log.setLevel(level)


def test_records_go_to_serves_log_once_and_at_its_level(serve_log: Lines) -> None:
    log_with_serve()
    log_with_serve()
    logger = logging.getLogger("headtail.engine")
    logger.warning("an execution failed: %s", "why")
    logger.debug("too much")
    logging.getLogger("ray.serve").setLevel(logging.DEBUG)
    logger.debug("asked for")
    assert serve_log.lines == [("headtail.engine", "an execution failed: why"), ("headtail.engine", "asked for")]
