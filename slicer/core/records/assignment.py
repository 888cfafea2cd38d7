"""What one device does in one measured run: which image at which time.

The load job gives each device an assignment beforehand: all captures (open loop), or how many clients keep it busy
(closed loop); the two are never mixed in one. Times are seconds after the start of the run, which each device takes
from its own clock: it is told "start in x s", never an absolute time. Plain picklable dataclasses without Ray, torch or
numpy.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

from ..errors import ConfigError


@dataclass(frozen=True, slots=True)
class Capture:
    """One intended capture, which the server may see arrive later or never.

    Attributes:
        at_s: seconds after the start.
        image: its number in the assignment's list.
    """

    at_s: float
    image: int


@dataclass(frozen=True, slots=True)
class Closed:
    """A closed loop: each client asks, waits for the answer, thinks, and asks again.

    Attributes:
        images: indices into the assignment's, taken in turn by all clients of this device, begun again at the end.
        clients: how many clients this device holds; its head still runs one image at a time.
        requests: stop after so many requests of this device, all clients together; None: by `duration_s`.
        duration_s: begin no request after so many seconds; None: by `requests`. One of the two must be given.
        think_s: pause of a client between an answer and its next request.
    """

    images: tuple[int, ...]
    clients: int = 1
    requests: int | None = None
    duration_s: float | None = None
    think_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Assignment:
    """One measured run of one device.

    Attributes:
        run_id: names the run; every record's id begins with it.
        images: paths as the device sees them (relative ones from the job's working directory).
        labels: class of each image, None where unknown; as long as `images`.
        arrivals: open loop: intended captures, in order of time; empty in a closed loop.
        closed: closed loop, or None.
        max_age_ms: an image older than this when the device gets to it is dropped; None: never.
        deadline_ms: how long after its intended capture an answer is worth something; travels with the request; None:
            no deadline.
        in_order: it is a camera; open loop only. Answers are handed on in the order of the arrivals
            (`device.frame_order`), and `max_age_ms` counts also for an image that had to wait for the
            server.
        top_k: how many (class, logit) pairs to ask for.
        warmup: images (indices) that are asked one after the other before the clock starts; they leave no record.
        drain_s: how long after the last intended capture (closed loop: after the last request was begun) the device
            waits for answers; what is open then is lost.

    Raises:
        ConfigError: on construction, when the values contradict each other.
    """

    run_id: str
    images: tuple[str, ...]
    labels: tuple[int | None, ...]
    arrivals: tuple[Capture, ...] = ()
    closed: Closed | None = None
    max_age_ms: float | None = None
    deadline_ms: float | None = None
    top_k: int = 5
    warmup: tuple[int, ...] = ()
    drain_s: float = 30.0
    in_order: bool = False

    def rest(self, asked: int, from_s: float) -> Assignment | None:
        """What is left of it after `from_s` seconds of the run, when `asked` requests have ended; None: nothing."""
        closed = self.closed
        if closed is None:
            left = tuple(capture for capture in self.arrivals if capture.at_s >= from_s)
            return replace(self, arrivals=left) if left else None
        if closed.duration_s is not None and closed.requests is None:
            return self if from_s < closed.duration_s else None
        left_requests = (closed.requests or 0) - asked
        return replace(self, closed=replace(closed, requests=left_requests)) if left_requests > 0 else None

    def longest_s(self, budget_s: float) -> float:
        """How long a run of it can take at most; a closed loop by requests: as long as `budget_s` for each allows."""
        if self.arrivals:
            return self.arrivals[-1].at_s + self.drain_s
        if self.closed is None:
            return 0.0
        if self.closed.duration_s is not None:
            return self.closed.duration_s + self.drain_s
        return (self.closed.requests or 0) * (budget_s + self.closed.think_s) + self.drain_s

    def __post_init__(self) -> None:
        if len(self.labels) != len(self.images):
            raise ConfigError(f"{len(self.labels)} labels for {len(self.images)} images; give one per image, or None")
        if self.arrivals and self.closed is not None:
            raise ConfigError("an assignment is an open loop (arrivals) or a closed one, never both; leave one out")
        if any(later.at_s < earlier.at_s for earlier, later in pairwise(self.arrivals)):
            raise ConfigError("arrivals must be in order of time; sort them by at_s")
        if self.closed is not None and self.closed.requests is None and self.closed.duration_s is None:
            raise ConfigError("a closed loop needs an end: give requests or duration_s")
        if self.closed is not None and not self.closed.images:
            raise ConfigError("a closed loop needs at least one image")
        used = {a.image for a in self.arrivals} | set(self.warmup) | set(self.closed.images if self.closed else ())
        unknown = sorted(i for i in used if not 0 <= i < len(self.images))
        if unknown:
            raise ConfigError(f"image {unknown[0]} is asked, but there are {len(self.images)} images (from 0)")
