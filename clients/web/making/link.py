"""Links: what random exchanges teach, and what is then reckoned with."""

from __future__ import annotations

from clients.web.making.numbers import Json, Numbers
from slicer.core.planning.link_estimate import LinkEstimate

_CASES = 24


def vectors() -> list[Json]:
    """Small messages in ms; then exchanges as [when in ms, bytes, ms without the server's], and after each the rate in
    bytes per second and the round trip in ms. The links are steady, noisy, or change on the way."""
    numbers = Numbers(19)
    return [_case(numbers) for _ in range(_CASES)]


def _case(numbers: Numbers) -> Json:
    link = LinkEstimate()
    small = [numbers.within(0, 40) for _ in range(numbers.below(4))]
    for took_ms in small:
        link.small(took_ms / 1e3)
    sizes = numbers.one_of(((38_000,), (19_000, 150_000), (1_000, 38_000, 600_000), (100_000, 110_000)))
    noise_ms = numbers.one_of((0, 1, 30))
    per_byte_ms, round_trip_ms = numbers.one_of((1e-5, 1e-4, 1e-3)), numbers.within(0, 30)
    exchanges: list[list[float]] = []
    found: list[list[float]] = []
    now_ms = 0.0
    for number in range(24):
        if number == 12 and numbers.below(2):
            per_byte_ms *= numbers.one_of((0.25, 4))
        now_ms += numbers.one_of((50.0, 500.0, 9000.0))
        size_bytes = numbers.one_of(sizes)
        took_ms = round_trip_ms + per_byte_ms * size_bytes + noise_ms * numbers.within(0, 1)
        exchanges.append([now_ms, size_bytes, took_ms])
        link.answered(link.sent((now_ms - took_ms) / 1e3, size_bytes), now_ms / 1e3, 0.0)
        found.append([link.view.bytes_per_s, link.view.round_trip_ms])
    return {"small": small, "exchanges": exchanges, "found": found}
