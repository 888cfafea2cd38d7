"""The network phase against arithmetic, for every codec, at several rates."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator

from slicer.core.network.server import ENVELOPE_BYTES
from tests.rig import jobs
from tests.rig.every_codec import CHOICES
from tests.rig.finding import Finding, judged
from tests.rig.operator import Operator

#: One way, as the hosts were made; the rate that they were made with is last, so that they have it again.
DELAY_MS = 10.0
RATES_MBPS = (10.0, 200.0, 50.0)
TOLERANCE = 0.2
_SEGMENT_BYTES, _HEADERS_BYTES = 1448, 66  # Ethernet 14, IP 20, TCP 32 of 1514


def arithmetic_ms(payload_bytes: float, mbps: float, delay_ms: float = DELAY_MS) -> float:
    """There with the payload, back with an answer, at the link's rate."""

    def wire_ms(size_bytes: float) -> float:
        return 8 * (size_bytes + _HEADERS_BYTES * math.ceil(size_bytes / _SEGMENT_BYTES)) / mbps / 1e3

    return 2 * delay_ms + wire_ms(payload_bytes + ENVELOPE_BYTES) + wire_ms(ENVELOPE_BYTES)


def network(operator: Operator) -> Iterator[Finding]:
    """One device, one request at a time, all codecs in turn, at each rate."""
    for mbps in RATES_MBPS:
        for host in operator.hosts.edges:
            operator.hosts.shape(host, mbps)
        name = f"network-{mbps:g}"
        requests = 12 * len(CHOICES)
        flags = f"--fleet tests/rig/fleets/codecs.yaml --concurrency 1 --requests {requests} --warmup 0"
        results = jobs.finish_load(operator, jobs.start_load(operator, name, flags), name)
        for choice in CHOICES:
            mine = [r for r in results.records if r["codec"] == choice.codec and r["network_ms"] is not None]
            claim = f"network phase, {choice.codec} at {mbps:g} Mbit/s and {DELAY_MS:g} ms"
            if not mine:
                yield Finding(claim, "NOT MEASURED", "no answer")
                continue
            size_bytes = statistics.median(record["payload_bytes"] for record in mine)
            measured_ms = statistics.median(record["network_ms"] for record in mine)
            expected_ms = arithmetic_ms(size_bytes, mbps)
            off = measured_ms / expected_ms - 1
            yield judged(
                claim,
                abs(off) <= TOLERANCE,
                f"{measured_ms:.1f} ms, by arithmetic {expected_ms:.1f} ms ({off:+.0%}), {size_bytes / 1e3:.1f} kB, "
                f"median of {len(mine)}",
            )
