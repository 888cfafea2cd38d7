"""What a device knows of its link, learnt from its own requests alone: bytes per second either way, and the round trip.

A request of x bytes that was sent when b earlier bytes had not left yet takes, beside the server's own time, about ::

    round trip + (b + x) / rate

so a line through the last requests gives both. The line is Theil and Sen's (the median of the slopes of all pairs),
which a quarter of wild values does not move; where all requests were of one size, or noise hides the slope, the round
trip is what small messages took at the median (joining sends some) or what the last good line said, and the rest is
rate. When the newest requests all miss the line on one side, the link has changed, and what was before is forgotten. A
request whose answer is overdue says that the link is slower than was thought before any answer does: it then counts as
if it arrived now.

Answers that carry outputs take their time down as well. All of a device's are of one size, so no line tells that time
from the round trip: it is what the first of them took longer than a request for classes (joining sends both). It is
taken off before the line is drawn, and no answer can have taken longer to come than its whole exchange, so a link that
has become faster is noticed; what one that has become slower takes longer down counts as time up.

Only durations on the device's clock go in, less a duration that the server measured on its own.
"""

from __future__ import annotations

import itertools
import statistics
from collections import deque
from dataclasses import dataclass

from .cut_planner import LinkView

#: Requests that are remembered, and for how long.
WINDOW = 16
WINDOW_S = 60.0

#: So many of the newest must miss by more than a quarter, all on one side, before the older ones are forgotten.
CHANGED_AFTER = 3
CHANGED_SHARE = 0.25

#: An answer is overdue after so many times what was expected, and so much more.
OVERDUE = 2.0
OVERDUE_S = 0.02

#: Sizes that differ by less than this share of the larger one say nothing about the rate.
_APART = 0.25

#: A line is good where the upper quartile of its slopes is at most so many times the lower one.
_CLEAR = 2.0

_FASTEST = 10e9 / 8  # bytes per second; a faster link is as good as none
_LEAST_S = 1e-6  # no exchange takes less


@dataclass(frozen=True, slots=True)
class Sent:
    """A request on its way."""

    number: int
    at_s: float
    size_bytes: int
    behind_bytes: float
    answer_bytes: int = 0


@dataclass(frozen=True, slots=True)
class _Seen:
    at_s: float
    size_bytes: float  # those that were before it included
    took_s: float


class LinkEstimate:
    """Not thread-safe: the device's event loop calls it.

    Attributes:
        surprised: the newest request missed the line, and whether the link has changed is not known yet.
    """

    def __init__(self) -> None:
        self._seen: deque[_Seen] = deque(maxlen=WINDOW)
        self.surprised = False
        self._small: list[float] = []
        self._base_s: float | None = None  # the round trip, of small messages or of the last good line
        self._round_trip_s: float | None = None
        self._seconds_per_byte: float | None = None
        self._down_seconds_per_byte: float | None = None
        self._backlog_bytes = 0.0
        self._backlog_at_s = 0.0
        self._number = itertools.count()
        self._open: dict[int, Sent] = {}  # sent and not answered, in order

    @property
    def view(self) -> LinkView:
        """What the planner reckons with; an infinitely fast link until a request was answered."""
        rate = 1 / self._seconds_per_byte if self._seconds_per_byte else _FASTEST
        return LinkView(min(rate, _FASTEST), (self._round_trip_s or 0.0) * 1e3, down_bytes_per_s=self._down_bytes_per_s)

    def view_at(self, now_s: float, server_s: float) -> LinkView:
        """`view`, with what is on its way now: how long that still takes to leave, and whether its answer is overdue,
        for which the server may take `server_s`."""
        per_byte_s = max(self._seconds_per_byte or 0.0, 1 / _FASTEST)
        if self.overdue(now_s, server_s):
            oldest = next(iter(self._open.values()))
            spent_s = now_s - oldest.at_s - server_s - (self._round_trip_s or 0.0) - self._download_s(oldest)
            per_byte_s = max(per_byte_s, spent_s / (oldest.size_bytes + oldest.behind_bytes))
        backlog_bytes = self._left_bytes(now_s, per_byte_s)
        round_trip_ms, backlog_ms = (self._round_trip_s or 0.0) * 1e3, backlog_bytes * per_byte_s * 1e3
        return LinkView(1 / per_byte_s, round_trip_ms, backlog_ms, self._down_bytes_per_s)

    def overdue(self, now_s: float, server_s: float) -> bool:
        """Whether the oldest request that is on its way should have been answered long ago."""
        if not self._open or not self.known:
            return False
        oldest = next(iter(self._open.values()))
        expected_s = self._predicted_s(oldest.size_bytes + oldest.behind_bytes) + self._download_s(oldest) + server_s
        return now_s - oldest.at_s > OVERDUE * expected_s + OVERDUE_S

    @property
    def known(self) -> bool:
        """Whether anything was learnt of the rate."""
        return self._seconds_per_byte is not None

    def sent(self, now_s: float, size_bytes: int, answer_bytes: int = 0) -> Sent:
        """A request leaves now, whose answer will carry outputs of so many bytes."""
        behind = self._left_bytes(now_s, self._seconds_per_byte or 0.0)
        self._backlog_bytes, self._backlog_at_s = behind + size_bytes, now_s
        sent = Sent(next(self._number), now_s, size_bytes, behind, answer_bytes)
        self._open[sent.number] = sent
        return sent

    def _left_bytes(self, now_s: float, per_byte_s: float) -> float:
        """What was sent and has not left yet; no more than what is not answered."""
        drained = (now_s - self._backlog_at_s) / per_byte_s if per_byte_s else float("inf")
        return min(max(self._backlog_bytes - drained, 0.0), sum(sent.size_bytes for sent in self._open.values()))

    def answered(self, sent: Sent, now_s: float, server_s: float) -> None:
        """Its answer is here; `server_s` of the time was the server's."""
        for number in [number for number in self._open if number <= sent.number]:
            del self._open[number]  # it has left, and what was sent before it
        size_bytes, took_s = sent.size_bytes + sent.behind_bytes, max(now_s - sent.at_s - server_s, _LEAST_S)
        if sent.answer_bytes and self.known:
            first = self._down_seconds_per_byte is None
            down_s = took_s - self._predicted_s(size_bytes) if first else self._download_s(sent)
            self._down_seconds_per_byte = max(min(down_s, took_s) / sent.answer_bytes, 1 / _FASTEST)
        self._learn(_Seen(now_s, size_bytes, max(took_s - self._download_s(sent), _LEAST_S)))

    def given_up(self, sent: Sent, now_s: float) -> None:
        """No answer came: it took at least so long; that counts where it is more than was expected."""
        self._open.pop(sent.number, None)
        took_s = now_s - sent.at_s - self._download_s(sent)
        if self._seconds_per_byte is not None and took_s > self._predicted_s(sent.size_bytes + sent.behind_bytes):
            self._learn(_Seen(now_s, sent.size_bytes + sent.behind_bytes, took_s))

    def small(self, took_s: float) -> None:
        """A small message and its small answer took so long, the server's time included."""
        self._small.append(max(took_s, 0.0))
        self._base_s = self._round_trip_s = statistics.median(self._small)

    @property
    def _down_bytes_per_s(self) -> float | None:
        return None if self._down_seconds_per_byte is None else 1 / self._down_seconds_per_byte

    def _download_s(self, sent: Sent) -> float:
        return (self._down_seconds_per_byte or 0.0) * sent.answer_bytes

    def _predicted_s(self, size_bytes: float) -> float:
        return (self._round_trip_s or 0.0) + (self._seconds_per_byte or 0.0) * size_bytes

    def _learn(self, new: _Seen) -> None:
        self._seen.append(new)
        while self._seen[0].at_s < new.at_s - WINDOW_S:
            self._seen.popleft()
        self.surprised = False
        if self._seconds_per_byte is not None:
            newest = list(self._seen)[-CHANGED_AFTER:]
            missed = [one.took_s / max(self._predicted_s(one.size_bytes), 1e-6) - 1 for one in newest]
            all_on_one_side = min(missed) > CHANGED_SHARE or max(missed) < -CHANGED_SHARE
            if all_on_one_side and len(self._seen) > CHANGED_AFTER:
                self._seen = deque(newest, maxlen=WINDOW)
            else:
                self.surprised = abs(missed[-1]) > CHANGED_SHARE
        self._fit()

    def _fit(self) -> None:
        seen = self._seen
        sizes = [one.size_bytes for one in seen]
        apart = max(sizes) - min(sizes)
        if apart > _APART * max(sizes):
            # Only pairs that are far apart: the noise of two near ones is larger than what lies between them.
            slopes = [
                (b.took_s - a.took_s) / (b.size_bytes - a.size_bytes)
                for a, b in itertools.combinations(seen, 2)
                if abs(b.size_bytes - a.size_bytes) > apart / 2
            ]
            if len(slopes) >= 3 and _clear(slopes):
                slope = statistics.median(slopes)
                self._seconds_per_byte = max(slope, 1 / _FASTEST)
                self._base_s = max(statistics.median(s.took_s - slope * s.size_bytes for s in seen), 0.0)
                self._round_trip_s = self._base_s
                return
        typical_s = statistics.median(one.took_s for one in seen)
        # Nothing tells the two apart but what a small message took; that is no longer than a request takes.
        base_s = typical_s / 2 if self._base_s is None else min(self._base_s, 0.95 * typical_s)
        rest = statistics.median((one.took_s - base_s) / one.size_bytes for one in seen)
        self._seconds_per_byte, self._round_trip_s = max(rest, 1 / _FASTEST), base_s


def _clear(slopes: list[float]) -> bool:
    """Whether they agree on more than their sign."""
    lower, _, upper = statistics.quantiles(slopes, n=4, method="inclusive")
    return lower > 0 and upper <= _CLEAR * lower
