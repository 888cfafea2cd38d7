"""Links by name, with the source of their figures: for emulated links and for ``headtail slice --plan``.

Every preset is a stand-in for "a link of that kind", not for yours: measure yours, or give a trace.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LinkPreset:
    """What a link of this kind is like.

    Attributes:
        mbit_per_s: upwards; `down_mbit_per_s`: downwards.
        delay_ms: one way; `jitter_ms`: mean of what is added to it, drawn exponentially.
        loss: share of packets that have to be sent again.
        source: where the figures come from; what is assumed says so.
    """

    mbit_per_s: float
    down_mbit_per_s: float
    delay_ms: float
    jitter_ms: float
    loss: float
    source: str


PRESETS: dict[str, LinkPreset] = {
    "wired": LinkPreset(
        1000.0, 1000.0, 0.1, 0.0, 0.0, "1000BASE-T (IEEE 802.3ab): rate; delay of a switched local network: assumed"
    ),
    "wifi": LinkPreset(
        39.0,
        39.0,
        1.5,
        1.0,
        0.01,
        "IEEE 802.11n, one stream, 20 MHz, MCS 7: 65 Mbit/s at the physical layer; 60 % of it as payload, delay, "
        "jitter and loss: assumed",
    ),
    "lte": LinkPreset(
        12.0,
        12.0,
        35.0,
        5.0,
        0.0,
        "WebPageTest, connectivity.ini.sample, LTE: 12 Mbit/s both ways, round trip 70 ms, no loss; jitter: assumed",
    ),
    "4g": LinkPreset(
        9.0,
        9.0,
        85.0,
        10.0,
        0.0,
        "WebPageTest, connectivity.ini.sample, 4G: 9 Mbit/s both ways, round trip 170 ms, no loss; jitter: assumed",
    ),
    "slow-4g": LinkPreset(
        0.75,
        1.6,
        75.0,
        10.0,
        0.0,
        "Lighthouse, core/config/constants.js, mobileSlow4G: 750 kbit/s up, 1.6 Mbit/s down, round trip 150 ms, no "
        "loss; jitter: assumed",
    ),
    "5g": LinkPreset(
        50.0,
        100.0,
        12.5,
        3.0,
        0.0,
        "ITU-R M.2410-0, user experienced data rate, dense urban eMBB: 50 Mbit/s up, 100 Mbit/s down (requirements, "
        "not measurements); round trip 25 ms: one way 7 ms down, 18 ms up in a public 5G network (M. Kottkamp, Rohde & "
        "Schwarz, 2022); jitter: assumed",
    ),
}
