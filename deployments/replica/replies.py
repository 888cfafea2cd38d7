"""Outcomes to answers: what a device is told of its row, how long it took, and how busy the server is."""

from __future__ import annotations

import time
from collections.abc import Iterable

import numpy as np

from deployments.engine.ledger import Outcome
from deployments.replica.admission.calls import CheckedRequest
from deployments.replica.load_report import LoadReport
from slicer.core.common.top_k import top_k
from slicer.core.protocol.messages import Answer, Refusal, Reply, Timings


class Replies:
    """Of one replica. Not thread-safe: use it from one event loop.

    Args:
        replica: its name, which every answer bears.
    """

    def __init__(self, replica: str) -> None:
        self._loads: dict[tuple[str, str], LoadReport] = {}  # by model and digest
        self._replica = replica

    def answer(self, checked: CheckedRequest, outcome: Outcome, admitted_s: float) -> Answer:
        """The answer to a row that has ended; it counts for the load that later answers tell of.

        Args:
            admitted_s: when it was admitted, on the clock of `checked`.
        """
        request = checked.request
        if outcome.logits is None:
            # A cancelled row's caller is gone, so nobody reads that answer.
            code = "stopped" if outcome.code in (None, "cancelled") else outcome.code
            return Refusal(request.id, code, outcome.message, self._replica)
        timings = Timings(
            admission_ms=(admitted_s - checked.arrived_s) * 1e3,
            queue_ms=outcome.queue_s * 1e3,
            execution_ms=outcome.execution_s * 1e3,
            total_ms=(time.monotonic() - checked.arrived_s) * 1e3,
            rows_per_step=outcome.rows_per_step,
        )
        model = checked.model
        load = self._loads.get((model.name, request.manifest))
        if load is None:
            load = self._loads[model.name, request.manifest] = LoadReport(model.entries, model.num_slices)
        load.observe(request.cut, timings.admission_ms + timings.queue_ms, timings.execution_ms)
        said = load.report() if request.wants_load else ()
        outputs = model.outputs
        if request.outputs:
            values = tuple(
                (one.name, one.shape, np.ascontiguousarray(one.of(outcome.logits), "<f4").tobytes())
                for one in outputs
                if one.name in request.outputs
            )
            return Reply(request.id, timings, server=self._replica, load=said, outputs=values)
        own = outputs[0].of(outcome.logits) if len(outputs) > 1 else outcome.logits
        if request.top_k is None:
            logits = np.ascontiguousarray(own, dtype="<f4")
            return Reply(request.id, timings, (), logits.tobytes(), logits.shape, self._replica, said)
        return Reply(request.id, timings, top_k(own, request.top_k), b"", (), self._replica, said)

    def unknown(self, request_id: str, model: str, models: Iterable[str]) -> Refusal:
        """Of a model that is none of those that are served here."""
        known = ", ".join(models)
        return Refusal(
            request_id, "unknown_model", f"model {model[:200]!r} is not served here; there is {known}", self._replica
        )
