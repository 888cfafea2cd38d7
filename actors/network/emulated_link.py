"""An emulated link: rate, delay, jitter and loss, constant or changing over time.

A request's bytes wait until those before them have left the device, then take ``size / rate`` to leave, then the delay
to arrive. Packets that are lost are sent again, and each round of that costs a round trip more, as it does a transport
that acknowledges. Down and up do not disturb each other. The time that this host needs for the real transport comes on
top, so what is emulated should be slower than it.

In a fleet file::

    link: lte                                        # a preset (slicer.core.planning.link_presets)
    link: emulated
    link_options: {mbit_per_s: 20, delay_ms: 10, jitter_ms: 2, loss: 0.01}
    link_options: {preset: wifi, trace: tunnel.csv}  # seconds,mbit_per_s[,delay_ms[,loss]]: from that second on

Rate 0 in a trace is a link that is cut: what is on its way waits, until it goes on or its sender gives up.
"""

from __future__ import annotations

import asyncio
import csv
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slicer.core.common.clock import Clock
from slicer.core.planning.link_presets import PRESETS
from slicer.errors import ConfigError

#: Payload bytes of a packet, over Ethernet with TCP timestamps.
PACKET_BYTES = 1448

_COLUMNS = ("seconds", "mbit_per_s", "delay_ms", "loss")


@dataclass(frozen=True, slots=True)
class Phase:
    """How the link is from `from_s` on, seconds after the beginning of a run; None: as without a trace."""

    from_s: float
    mbit_per_s: float
    delay_ms: float | None = None
    loss: float | None = None


class EmulatedLink:
    """`actors.network.link.Link` with times of its own. All calls on one event loop; they may overlap.

    Args:
        preset: values for what is not given.
        mbit_per_s, down_mbit_per_s: rates; downwards default: as upwards.
        delay_ms: one way. jitter_ms: mean of what is added to it, drawn exponentially for each message.
        loss: share of packets that are lost.
        phases: changes over time (rate upwards; downwards in the same proportion), ascending; or rows as of a trace.
        repeat_s: the phases begin again after so many seconds; None: the last one stays.
        seed: of jitter and loss.

    Raises:
        ConfigError: a value is out of range.
    """

    def __init__(
        self,
        *,
        preset: str | None = None,
        mbit_per_s: float | None = None,
        down_mbit_per_s: float | None = None,
        delay_ms: float | None = None,
        jitter_ms: float | None = None,
        loss: float | None = None,
        phases: Sequence[Phase | Sequence[float | None]] = (),
        repeat_s: float | None = None,
        seed: int | str = 0,
        clock: Clock | None = None,
    ) -> None:
        if preset is not None and preset not in PRESETS:
            raise ConfigError(f"unknown link preset {preset!r}; there are {', '.join(PRESETS)}")
        base = PRESETS[preset] if preset else None
        if base is None and mbit_per_s is None:
            raise ConfigError("an emulated link needs mbit_per_s, or a preset")
        up = mbit_per_s if mbit_per_s is not None else base.mbit_per_s if base else 0.0
        down = down_mbit_per_s
        if down is None:
            down = base.down_mbit_per_s if base is not None and mbit_per_s is None else up
        self._up, self._down = up, down
        self._delay_ms = delay_ms if delay_ms is not None else base.delay_ms if base else 0.0
        self._jitter_ms = jitter_ms if jitter_ms is not None else base.jitter_ms if base else 0.0
        self._loss = loss if loss is not None else base.loss if base else 0.0
        for name, value in (("mbit_per_s", up), ("down_mbit_per_s", down)):
            if not (value > 0 and math.isfinite(value)):
                raise ConfigError(f"link: {name} {value}: it must be above 0")
        self._phases = tuple(p if isinstance(p, Phase) else Phase(*p) for p in phases)  # type: ignore[arg-type]
        self._repeat_s = repeat_s
        self._check()
        self._name = preset or "link"
        self._random = random.Random(f"{seed}/link")
        self._seed = seed
        self._clock = clock or Clock()
        self._began_s = self._clock.now_s()
        self._ways = (_Way(), _Way())  # up, down

    def _check(self) -> None:
        losses = [self._loss, *(p.loss for p in self._phases if p.loss is not None)]
        delays = [self._delay_ms, self._jitter_ms, *(p.delay_ms for p in self._phases if p.delay_ms is not None)]
        if any(not 0 <= loss <= 0.5 for loss in losses) or any(not delay >= 0 for delay in delays):
            raise ConfigError(f"link: losses {losses} are shares up to 0.5, delays {delays} ms, none below 0")
        starts = [phase.from_s for phase in self._phases]
        if starts != sorted(starts) or (starts and starts[0] != 0):
            raise ConfigError(f"link: phases begin at 0 and ascend, not {starts[:5]}")
        if any(not phase.mbit_per_s >= 0 for phase in self._phases):
            raise ConfigError("link: a rate of a phase is below 0")
        if self._repeat_s is not None and not (starts and self._repeat_s > starts[-1]):
            raise ConfigError(f"link: repeat_s {self._repeat_s}: after the start of the last phase")
        if self._phases and not self._phases[-1].mbit_per_s and self._repeat_s is None:
            raise ConfigError("link: the last phase has rate 0, so nothing would ever arrive; add one, or repeat_s")

    @property
    def emulated(self) -> str:
        """In a few words, for every result."""
        changing = ", changing" if self._phases else ""
        return f"{self._name} ({self._up:g} Mbit/s up, {self._delay_ms:g} ms, loss {self._loss:g}{changing})"

    def begin(self, seed: int | str) -> None:
        """A run begins: phases start, and jitter and loss are drawn as in every other run of this seed."""
        self._random.seed(f"{seed}/link")
        self._began_s = self._clock.now_s()

    async def send(self, size_bytes: int) -> None:
        """Return when so many bytes, sent now, have reached the server."""
        await self._cross(0, size_bytes)

    async def receive(self, size_bytes: int) -> None:
        """Return when so many bytes, sent by the server now, have reached the device."""
        await self._cross(1, size_bytes)

    async def _cross(self, index: int, size_bytes: int) -> None:
        way = self._ways[index]
        asked_s = self._clock.now_s()
        async with way.turn:
            start_s = max(asked_s, way.free_s)  # not when this task woke up: lateness would add up
            phase = self._phase_at(start_s)
            sent_bytes, rounds = self._with_losses(size_bytes, self._loss if phase.loss is None else phase.loss)
            left_s = self._left_s(start_s, sent_bytes, index)
            # Someone who gives up while the link is cut leaves it free for the next.
            await self._clock.until(left_s)
            way.free_s = left_s
        delay_ms = self._delay_ms if phase.delay_ms is None else phase.delay_ms
        jitter_ms = self._random.expovariate(1 / self._jitter_ms) if self._jitter_ms else 0.0
        await self._clock.until(left_s + (delay_ms * (1 + 2 * rounds) + jitter_ms) / 1e3)

    def _phase_at(self, now_s: float) -> Phase:
        if not self._phases:
            return Phase(0.0, self._up)
        at_s = self._in_trace(now_s)
        return next(phase for phase in reversed(self._phases) if phase.from_s <= at_s)

    def _in_trace(self, now_s: float) -> float:
        at_s = max(now_s - self._began_s, 0.0)
        return at_s if self._repeat_s is None else math.fmod(at_s, self._repeat_s)

    def rate_bytes_per_s(self, now_s: float, index: int = 0) -> float:
        """The true rate at a moment of the clock, upwards (0) or downwards (1): what an oracle knows."""
        return self._phase_at(now_s).mbit_per_s * (self._down / self._up if index else 1.0) * 1e6 / 8

    def delay_s(self, now_s: float) -> float:
        """The true delay one way, mean jitter included."""
        phase = self._phase_at(now_s)
        return ((self._delay_ms if phase.delay_ms is None else phase.delay_ms) + self._jitter_ms) / 1e3

    def _left_s(self, start_s: float, size_bytes: float, index: int) -> float:
        """When so many bytes have left that begin to leave at `start_s`."""
        now_s = start_s
        if not self._phases:
            return now_s + size_bytes / self.rate_bytes_per_s(now_s, index)
        while True:
            rate, until_s = self.rate_bytes_per_s(now_s, index), self._phase_end_s(now_s)
            if rate and now_s + size_bytes / rate <= until_s:
                return now_s + size_bytes / rate
            size_bytes -= rate * (until_s - now_s)
            now_s = until_s

    def _phase_end_s(self, now_s: float) -> float:
        at_s = self._in_trace(now_s)
        ends_s = next((phase.from_s for phase in self._phases if phase.from_s > at_s), self._repeat_s)
        # A hair later: what begins exactly at an end must see the next phase in spite of rounding.
        return math.inf if ends_s is None else now_s + (ends_s - at_s) + 1e-9

    def _with_losses(self, size_bytes: int, loss: float) -> tuple[int, int]:
        """Bytes that cross the link, and rounds of sending again."""
        total, rounds, packets = size_bytes, 0, math.ceil(size_bytes / PACKET_BYTES)
        while loss and (packets := sum(self._random.random() < loss for _ in range(packets))):
            total, rounds = total + packets * PACKET_BYTES, rounds + 1
        return total, rounds


class _Way:
    """One direction: whose turn it is, and when the last byte has left."""

    def __init__(self) -> None:
        self.turn = asyncio.Lock()  # FIFO
        self.free_s = 0.0


def read_trace(path: Path) -> list[list[float | None]]:
    """The phases of a CSV file with a header: seconds, mbit_per_s and perhaps delay_ms and loss.

    Raises:
        ConfigError: it cannot be read, or a line is wrong; the message names it.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file)
            unknown = set(table.fieldnames or ()) - set(_COLUMNS)
            if unknown or not {"seconds", "mbit_per_s"} <= set(table.fieldnames or ()):
                raise ConfigError(f"trace {path}: columns {table.fieldnames}; they are {', '.join(_COLUMNS)}")
            rows = []
            for row in table:
                try:
                    rows.append([float(row[name]) if row.get(name) else None for name in _COLUMNS])
                except ValueError:
                    raise ConfigError(f"trace {path}, line {table.line_num}: {row} is not all numbers") from None
                if rows[-1][0] is None or rows[-1][1] is None:
                    raise ConfigError(f"trace {path}, line {table.line_num}: seconds and mbit_per_s are needed")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"trace {path}: cannot be read ({error})") from error
    if not rows:
        raise ConfigError(f"trace {path}: no line")
    return rows


def resolve(name: str, options: Mapping[str, Any], directory: Path) -> tuple[str, dict[str, Any]]:
    """Link and options of a fleet file with presets and traces read, so that the device's node needs no file.

    Raises:
        ConfigError: the trace cannot be read; or the options make no link.
    """
    if name in PRESETS:
        name, options = "emulated", {"preset": name, **options}
    resolved = dict(options)
    if name != "emulated":
        return name, resolved
    trace = resolved.pop("trace", None)
    if trace is not None:
        resolved["phases"] = read_trace(directory / str(trace))
        if resolved.get("mbit_per_s") is None and resolved.get("preset") is None:
            resolved["mbit_per_s"] = max(float(row[1] or 0) for row in resolved["phases"])
    try:
        EmulatedLink(**resolved)
    except TypeError as error:
        raise ConfigError(f"link emulated: {error}") from None
    return name, resolved
