"""What a device learns of itself: how long its slices, preprocessing and encoding take, and how its images come in."""

from __future__ import annotations

import math
import statistics
from collections import deque
from dataclasses import replace

from ..codecs.registry import as_taken
from .cut_planner import Choice, DeviceView, ModelFacts, goes_by_image
from .settings import DeviceTimes

#: Remembered values of each time, of which the median counts.
_REMEMBERED = 9

#: Weight of a new gap between two images, so that the rate is known to some 10 %. A wait grows steeply with the rate:
#: a few short gaps must not look like a device that cannot keep up.
_GAP_WEIGHT = 0.03

#: Weight of a new image's size.
_WEIGHT = 0.1

#: Gaps between images from which on a device knows its own rate.
_GAPS = 4

#: No gaps between images are taken to be more irregular than this (squared coefficient of variation).
_MOST_BURST = 4.0


class ComputeEstimate:
    """Not thread-safe: the device's event loop calls it.

    Args:
        facts: of the model that is served. profile: where learning begins.
    """

    def __init__(self, facts: ModelFacts, profile: DeviceTimes) -> None:
        self._facts, self._profile = facts, profile
        self._slices: list[deque[float]] = [deque(maxlen=_REMEMBERED) for _ in facts.slice_bytes]
        self._prepare: deque[float] = deque(maxlen=_REMEMBERED)
        self._encode: dict[str, deque[float]] = {}
        self._image_bytes: dict[str, float] = {}
        self._size_ratio = 1.0
        self._gaps = 0
        self._gap_s = self._gap_variance = 0.0
        self._last_s: float | None = None

    def arrived(self, now_s: float) -> None:
        """The device takes an image."""
        if self._last_s is not None:
            gap_s = max(now_s - self._last_s, 1e-6)
            self._gaps += 1
            away_s = gap_s - self._gap_s
            self._gap_s += max(_GAP_WEIGHT, 1 / self._gaps) * away_s
            if self._gaps <= _GAPS:
                self._gap_variance = self._gap_s**2  # as of Poisson arrivals, until it is known better
            else:
                self._gap_variance += _GAP_WEIGHT * (away_s**2 - self._gap_variance)
        self._last_s = now_s

    def computed(self, prepare_ms: float, slices_ms: tuple[float, ...]) -> None:
        """Preprocessing and slices 0, 1, ... of an image took so long."""
        self._prepare.append(prepare_ms)
        for found, value in zip(self._slices, slices_ms, strict=False):
            found.append(value)

    def encoded(self, choice: Choice, encode_ms: float, size_bytes: int) -> None:
        """An activation was encoded, or an image put into the wire's form."""
        if as_taken(choice.codec):
            before = self._image_bytes.get(choice.codec, float(size_bytes))
            self._image_bytes[choice.codec] = before + _WEIGHT * (size_bytes - before)
            return
        expected = self._facts.calibrated.get(choice)
        if expected is not None and expected.payload_bytes and goes_by_image(choice.codec, self._facts):
            self._size_ratio += _WEIGHT * (size_bytes / expected.payload_bytes - self._size_ratio)
        values = math.prod(self._facts.shapes[choice.cut])
        self._encode.setdefault(choice.codec, deque(maxlen=_REMEMBERED)).append(encode_ms * 1e6 / values)

    @property
    def view(self) -> DeviceView:
        """What was learnt; a slice that never ran takes what the profile says, or the others."""
        profile = self._profile
        known = [statistics.median(found) for found in self._slices if found]
        other = statistics.fmean(known) if known else 0.0
        slices = tuple(
            statistics.median(found)
            if found
            else profile.slices_ms[index].mean_ms
            if index < len(profile.slices_ms)
            else other
            for index, found in enumerate(self._slices)
        )
        prepare = statistics.median(self._prepare) if self._prepare else 0.0
        if not self._prepare and profile.preprocess_ms is not None:
            prepare = profile.preprocess_ms.mean_ms
        knows_rate = self._gaps >= _GAPS
        return DeviceView(
            slices,
            prepare,
            {codec: statistics.median(found) for codec, found in self._encode.items()},
            profile.memory_budget_bytes,
            1 / self._gap_s if knows_rate else 0.0,
            min(self._gap_variance / self._gap_s**2, _MOST_BURST) if knows_rate else 1.0,
            profile.watts,
            profile.joules_per_mb,
            self._image_bytes,
            self._size_ratio,
        )

    def hopeful(self, doubt: float) -> DeviceView:
        """`view`, in which slices that never ran are faster by the share `doubt` than their profile says."""
        view = self.view
        pairs = zip(self._slices, view.slices_ms, strict=True)
        return replace(view, slices_ms=tuple(ms if found else (1 - doubt) * ms for found, ms in pairs))
