"""Load jobs on the cluster: how they are submitted, and what their results folder says."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

from tests.rig.hosts import OPERATOR, Output, RigError
from tests.rig.operator import Operator

#: Name of the application.
APP = "cameras"

#: Where the operator collects results.
RESULTS = "/tmp/headtail-results"


@dataclass(frozen=True)
class Results:
    """A job's results folder, fetched to the operator's host."""

    files: tuple[str, ...]
    document: dict[str, Any]
    records: tuple[dict[str, Any], ...]

    def of(self, device: str) -> list[dict[str, Any]]:
        """One device's records."""
        return [record for record in self.records if record["device"] == device]

    @property
    def devices(self) -> dict[str, str]:
        """Address by name."""
        return {device["name"]: device["node_ip"] for device in self.document["manifest"]["devices"]}

    @property
    def outcomes(self) -> Counter[str]:
        """How many requests ended how."""
        return Counter(record["outcome"] for record in self.records)


def serve(operator: Operator) -> None:
    """Start the application and leave it running."""
    operator.job(f"python -m deployments.cli tests/rig/server.yaml --name {APP} --address auto --detach")


def start_load(operator: Operator, name: str, flags: str) -> Output:
    """Submit a load job that writes its report to ``~/results/NAME`` on the head."""
    return operator.submit(f"python -m actors --server {APP} {flags} --out '~/results/{name}'", name)


def finish_load(operator: Operator, output: Output, name: str, timeout_s: float = 240.0) -> Results:
    """Wait for its end and fetch what it wrote. Raises RigError when it failed."""
    if output.wait(timeout_s) != 0:
        raise RigError(f"load job {name}: exit status {output.code}\n{output.text[-2000:]}")
    operator.fetch("~/results/", f"{RESULTS}/")

    def read(file: str) -> str:
        return operator.hosts.run(OPERATOR, f"cat {RESULTS}/{name}/{file}")

    return Results(
        tuple(operator.hosts.run(OPERATOR, f"ls {RESULTS}/{name}").split()),
        json.loads(read("result.json")),
        tuple(json.loads(line) for line in read("records.jsonl").splitlines()),
    )


def ledger(results: Results) -> tuple[bool, str]:
    """Whether every intended request has one record and everyone without an answer a reason; the sum in words."""
    counts, whole = results.outcomes, True
    for device in results.devices:
        mine = results.of(device)
        whole &= [int(record["id"].rpartition("/")[2]) for record in mine] == list(range(len(mine)))
    whole &= all(record["message"] for record in results.records if record["outcome"] != "answered")
    parts = ", ".join(f"{count} {outcome}" for outcome, count in counts.most_common())
    return whole, f"{sum(counts.values())} sent = {parts}"


def p99_ms(records: list[dict[str, Any]], start_s: float, end_s: float) -> tuple[float, int]:
    """99th percentile of the inference time of what was captured in that part of the run, and of how many."""
    times = sorted(
        record["inference_ms"]
        for record in records
        if record["outcome"] == "answered" and start_s <= record["scheduled_s"] < end_s
    )
    return (times[math.ceil(0.99 * len(times)) - 1] if times else math.nan), len(times)
