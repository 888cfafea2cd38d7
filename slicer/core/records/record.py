"""One record per intended request: raw timestamps and durations first, statistics later.

A record is made when the arrival is scheduled and it is closed exactly once, so the ledger of a run always closes:
scheduled = answered + refused + dropped + lost. Durations are differences on one host's clock; `network_ms` is what
remains of the round trip after the server's own time, since clocks of two hosts are never subtracted.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

RequestOutcome = Literal[
    "answered",  # a reply came
    "refused",  # the server said why not; `code` and `message` hold it
    "dropped",  # the device dropped a stale image (--max-age-ms); a miss
    "lost",  # no answer: the server went away, or the run ended first; a miss
]


@dataclass(slots=True)
class Record:
    """One intended request of one device. The device fills everything but `label` and `reference_top1` (the load job).

    Attributes:
        id: unique in the run.
        device: name of the device actor; `group`: its group in the fleet.
        cut: the cut it was sent at; num_slices: the device computed all of it, as planned.
        codec: of what was sent, or would have been.
        alone: the model with which the device finished by itself, since the server did not; `message` says why.
        image: index into the job's list of images; `label`: its class as this device's model numbers them, None where
            unknown.
        scheduled_s: intended capture time, seconds since the start of the run on the device's clock.
        started_s: when the device began to work on it, same clock; `finished_s`: when the answer was there.
        wait_ms, head_ms, encode_ms, network_ms, admission_ms, queue_ms, execution_ms: the phases.
        inference_ms: finished_s - scheduled_s: from the intended capture to the answer in the device's hands.
        held_ms: of a camera's answer: how long it was held for an earlier frame that it had overtaken; not in
            `inference_ms`. 0: it had overtaken none; None: nobody asked for an order.
        generator_lag_ms: how late the arrival was noticed by the load generator itself (not the device's queue).
        payload_bytes: of what was sent; answer_bytes: of what came back (`protocol.messages.answer_bytes`).
        rows_per_step: rows in each step the request took part in.
        overrun: an emulated slice took longer on this host than its profile says.
    """

    id: str
    device: str
    group: str
    cut: int
    image: int
    label: int | None
    scheduled_s: float
    outcome: RequestOutcome = "lost"
    code: str = ""
    message: str = ""
    started_s: float | None = None
    finished_s: float | None = None
    wait_ms: float | None = None
    head_ms: float | None = None
    encode_ms: float | None = None
    network_ms: float | None = None
    admission_ms: float | None = None
    queue_ms: float | None = None
    execution_ms: float | None = None
    inference_ms: float | None = None
    held_ms: float | None = None
    generator_lag_ms: float = 0.0
    rows_per_step: tuple[int, ...] = ()
    payload_bytes: int = 0
    attempts: int = 0
    top1: int | None = None
    reference_top1: int | None = None
    overrun: bool = False
    codec: str = ""
    alone: str = ""
    answer_bytes: int = 0

    def close(
        self, outcome: RequestOutcome, code: str = "", message: str = "", finished_s: float | None = None
    ) -> None:
        """The one place where a request ends. `finished_s`: on the device's clock; None: nobody was there to see it."""
        self.outcome, self.code, self.message, self.finished_s = outcome, code, message, finished_s
        if outcome == "answered" and finished_s is not None:
            self.inference_ms = (finished_s - self.scheduled_s) * 1e3

    def to_json(self) -> dict[str, Any]:
        """The record as one JSON object, for records.jsonl."""
        return asdict(self)
