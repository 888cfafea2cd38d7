"""What is asked of a device for one image, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass

#: (class, logit) pairs, best first; empty without an answer.
TopK = tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class RequestOptions:
    """How one request is to be treated; times are the assignment's.

    `fresh_only`: `max_age_ms` counts also for what had to wait for the server, as a camera's frames.
    """

    top_k: int = 5
    max_age_ms: float | None = None
    deadline_ms: float | None = None
    fresh_only: bool = False
