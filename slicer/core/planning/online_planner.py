"""The planner online: what a device learns of itself, its link and the server, and when it changes its cut and codec.

`planning.cut_planner` decides by arithmetic; this keeps its inputs up to date and its decisions calm:

* it reconsiders every `every_s`, each time drawn anew between half and one and a half of it, so that devices which plan
  alone do not all move at the same moment to the cut that was free for all of them (herding);
* a new choice must be better by `gain` (a share) and by `least_ms`, in two decisions running;
* of those who would move, each time only a share does, in proportion to what is gained (with `movers` 2 those who gain
  10 % move with a chance of 10 %, with 4 half of them; with 1 all do): what the server reports is then already the
  answer to those who moved, and a gain that is large or lasts is still taken soon;
* where the present choice is not possible any more (memory, entry, a link or device that cannot keep up), and where
  another is better by MUCH, it moves at once; an answer that is overdue is reason to reconsider before it is time;
* a move that relieves the server, and not for the server's sake, is not left to chance: others have no part in it;
  nor is one for the sake of images that have piled up on the device, which is reason to reconsider at once;
* a slice that never ran may be faster than its profile says, so it counts for less (`doubt`): what is tried is known
  from then on, while a profile that is too pessimistic would never be found out.

A device joins with one request of zeros beside its pings, so that its first choice is made by what its link and the
server are (`begin`). One that computes everything itself hears nothing of either; it sends such a request again after
`probe_s`, beside its work (`planning.probe`), and no image waits for it. The pauses grow while nothing changes,
and an answer that surprises is asked again before anything is decided by it; before such a device goes to the server
by what it heard some time ago, it asks.
"""

from __future__ import annotations

import random
import statistics
from dataclasses import replace

from ..codecs.registry import CODECS
from .compute_estimate import ComputeEstimate
from .cut_planner import (
    Choice,
    DeviceView,
    Estimate,
    Goal,
    ModelFacts,
    ServerView,
    choose,
    estimate,
    estimate_all,
)
from .link_estimate import LinkEstimate
from .settings import DeviceTimes, PlanSettings, goal_of

#: Weight of what a reply says of its own wait and execution.
_OWN_WEIGHT = 0.3

#: The server's load is asked for after so much of the time between two decisions.
_FRESH = 0.5

#: A choice that is better by this share needs no second look.
MUCH = 0.3

#: What is asked on the side, after an answer that surprised, is asked again after so long.
_AGAIN_S = 0.5

#: What is asked on the side takes at most one of so many seconds of the link.
_PROBE_SHARE = 3.0

#: Each pause between two of them is so many times the one before, up to so many times `probe_s`.
_PAUSE_GROWS, _LONGEST_PAUSE = 1.25, 4.0


class OnlinePlanner:
    """One device's planner. Not thread-safe: its event loop calls it; nothing here waits.

    Args:
        facts: of the model that is served.
        profile: the device's; its times are where learning begins.
        present: what the device does now.
        seed: of the moments and of who moves.
    """

    def __init__(
        self, config: PlanSettings, facts: ModelFacts, profile: DeviceTimes, present: Choice, seed: str
    ) -> None:
        self.present = present
        self.link = LinkEstimate()
        self._config = config
        self._facts = facts if config.codecs is None else _only(facts, config.codecs)
        self._profile = profile
        self._random = random.Random(f"{seed}/plan")
        self._self = ComputeEstimate(self._facts, profile)
        self._server = ServerView({}, {})
        self._own: dict[int, tuple[float, float]] = {}
        self._next_s: float | None = None
        self._waited = 0  # images, at the last decision
        self._ask_load_s = 0.0
        self._probe_at_s = self._probed_s = 0.0
        self._probing, self._pause_s = False, config.probe_s
        self._heard_s = 0.0
        self._wanted: Choice | None = None
        self._drawn: Choice | None = None  # may be moved to without drawing again

    # ---------------------------------------------------------------------------------------------------- learning

    def arrived(self, now_s: float) -> None:
        """The device takes an image."""
        self._self.arrived(now_s)

    def computed(self, prepare_ms: float, slices_ms: tuple[float, ...]) -> None:
        """Preprocessing and slices 0, 1, ... of an image took so long."""
        self._self.computed(prepare_ms, slices_ms)

    def encoded(self, choice: Choice, encode_ms: float, size_bytes: int) -> None:
        """An activation was encoded, or an image put into the wire's form."""
        self._self.encoded(choice, encode_ms, size_bytes)

    def served(
        self, entry: int, wait_ms: float, execution_ms: float, load: tuple[tuple[int, float, float], ...]
    ) -> None:
        """What a reply says: of its own entry, and of all of them where the server reported."""
        if load:
            self._server = ServerView({e: wait for e, wait, _ in load}, {e: execution for e, _, execution in load})
            self._own.clear()
            return
        before = self._own.get(entry) or (
            self._server.wait_ms.get(entry, wait_ms),
            self._server.execution_ms.get(entry, execution_ms),
        )
        self._own[entry] = (
            before[0] + _OWN_WEIGHT * (wait_ms - before[0]),
            before[1] + _OWN_WEIGHT * (execution_ms - before[1]),
        )

    def asks_load(self, now_s: float) -> bool:
        """Whether the request that is sent now asks how busy the server is: so often that no decision goes by what is
        older than the time between two. `due` would not do: who sends seldom decides before each image, and asks then
        with none."""
        if now_s < self._ask_load_s:
            return False
        self._ask_load_s = now_s + _FRESH * self._config.every_s
        return True

    # ---------------------------------------------------------------------------------------------------- deciding

    def due(self, now_s: float, waiting: int = 0) -> bool:
        """Whether it is time to reconsider, with so many images that wait for the device."""
        if self._next_s is None:
            self._next_s = now_s + self._config.every_s * self._random.random()
        piled_up = waiting > 2 * self._waited + 1
        return now_s >= self._next_s or piled_up or self.link.overdue(now_s, self._server_s)

    def begin(self) -> Choice:
        """The first choice, at joining; the present one where nothing is known of the device or its link."""
        if not self._profile.slices_ms or not self.link.known:
            return self.present
        best = choose(self.estimates(), goal_of(self._config, None))
        return self.present if best is None else best.choice

    def probe(self, now_s: float) -> Choice | None:
        """What to send beside the work, now, to hear of link and server; None: nothing. The caller says how it went by
        `probed`."""
        if not self._config.probe_s or not self._keeps_all:
            self._pause_s = self._config.probe_s
            self._probe_at_s, self._probed_s = now_s + self._pause_s, now_s
            return None
        at_s = self._probe_at_s
        if self.link.surprised:
            at_s, self._pause_s = min(at_s, self._probed_s + _AGAIN_S), self._config.probe_s
        if self._probing or now_s < at_s:
            return None
        self._probing = True
        return self.smallest()

    def probed(self, now_s: float, took_s: float) -> None:
        """What was sent on the side has been answered, or given up."""
        self._probing, self._heard_s, self._probed_s = False, now_s, now_s + _PROBE_SHARE * took_s
        if self._drawn is not None:
            self._next_s = now_s  # it was asked for this decision
        self._probe_at_s = max(now_s + self._pause_s, self._probed_s)
        self._pause_s = min(_PAUSE_GROWS * self._pause_s, _LONGEST_PAUSE * self._config.probe_s)

    @property
    def _keeps_all(self) -> bool:
        """Whether the present choice sends nothing."""
        return self.present.cut == self._facts.num_slices

    def smallest(self) -> Choice | None:
        """The activation with the fewest bytes that the server takes; of equals that of the shortest tail."""
        goal = goal_of(self._config, None)
        sizes = [
            (self._facts.encoded_bytes(Choice(cut, codec)), -cut, codec)
            for cut in self._facts.entries
            for codec in CODECS
            if codec in self._facts.codecs and goal.agreement_of(Choice(cut, codec), self._facts) >= goal.agreement
        ]
        if not sizes:
            return None
        _, deepest, codec = min(sizes)
        return Choice(-deepest, codec)

    def reconsider(self, now_s: float, deadline_ms: float | None = None, waiting: int = 0) -> Choice | None:
        """Another choice, if there is a reason to move to it; the caller sets `present` once it has moved. `waiting`:
        images that wait for the device now."""
        self._waited = waiting
        self._next_s = now_s + self._config.every_s * self._random.uniform(0.5, 1.5)
        if not self.link.known and not self._keeps_all:
            return None  # nothing was sent yet
        goal, device, link = (
            goal_of(self._config, deadline_ms),
            replace(self._self.hopeful(self._config.doubt), waiting=waiting),
            self.link.view_at(now_s, self._server_s),
        )
        best = choose(estimate_all(self._facts, device, link, self.server, goal), goal)
        if best is None or best.choice == self.present:
            self._wanted = self._drawn = None
            return None
        now = estimate(self._facts, self.present, device, link, self.server, goal)
        if not now.refused:
            if self._keeps_all and self.link.surprised and self._config.probe_s:
                return None  # it is asked again
            better = now.cost - best.cost
            least = max(self._config.gain * now.cost, self._config.least_ms)
            in_time = goal.deadline_ms is not None and best.total_ms < goal.deadline_ms * (1 - goal.margin)
            if not (in_time and now.total_ms > (goal.deadline_ms or 0.0)):  # a missed deadline is reason enough
                if better < least and not _cheaper(best, now, goal):
                    self._wanted = self._drawn = None
                    return None
                if self._wanted != best.choice and better < MUCH * now.cost:
                    self._wanted = best.choice
                    return None
            piled_up = waiting and now.device_wait_ms - best.device_wait_ms > MUCH * now.cost
            movers = self._config.movers if not piled_up and _others_would(now, best, least) else 1.0
            lucky = self._drawn == best.choice or self._random.random() <= 2 / movers * _worth(now, best, goal)
            if movers > 1 and not lucky:
                return None
            if self._keeps_all and self._config.probe_s and now_s - self._heard_s > self._config.every_s:
                self._probe_at_s, self._drawn = now_s, best.choice  # what is known is old: ask before going there
                return None
        self._wanted = self._drawn = None
        return best.choice

    @property
    def answer_bytes(self) -> int:
        """Of the outputs that an answer carries."""
        return self._facts.answer_bytes

    def shape(self, cut: int) -> tuple[int, ...]:
        """Of the activation at a cut."""
        return self._facts.shapes[cut]

    def channel_axis(self, cut: int) -> int | None:
        """Of the activation at a cut; None: not told."""
        return self._facts.channel_axes[cut] if self._facts.channel_axes else None

    def estimates(self, deadline_ms: float | None = None) -> list[Estimate]:
        """All choices as they look, whatever is on its way."""
        return estimate_all(
            self._facts,
            self._self.hopeful(self._config.doubt),
            self.link.view,
            self.server,
            goal_of(self._config, deadline_ms),
        )

    @property
    def _server_s(self) -> float:
        """What the server is expected to need for the present choice."""
        cut, server = self.present.cut, self.server
        return (server.wait_ms.get(cut, 0.0) + server.execution_ms.get(cut, 0.0)) / 1e3

    @property
    def device(self) -> DeviceView:
        """What was learnt of the device; a slice that never ran takes what the profile says, or the others."""
        return self._self.view

    @property
    def server(self) -> ServerView:
        """What the server reported, and what replies said since: entries share an accelerator, so when the wait at one
        of them has grown by so much, it has at the others."""
        if not self._own:
            return self._server
        told = self._server
        grown_ms = statistics.fmean(wait - told.wait_ms.get(e, wait) for e, (wait, _) in self._own.items())
        return ServerView(
            {e: max(wait + grown_ms, 0.0) for e, wait in told.wait_ms.items()}
            | {e: wait for e, (wait, _) in self._own.items()},
            {**told.execution_ms, **{e: execution for e, (_, execution) in self._own.items()}},
        )


def _others_would(now: Estimate, best: Estimate, least: float) -> bool:
    """Whether others may have the same reason to move, or mind it: the server is more at work than before, or what
    is gained is less waiting there."""
    without_waits = now.cost - now.server_wait_ms - (best.cost - best.server_wait_ms)
    return best.execution_ms > now.execution_ms or without_waits < least


def _cheaper(best: Estimate, now: Estimate, goal: Goal) -> bool:
    """With a deadline that both meet: clearly less of the server."""
    return goal.deadline_ms is not None and best.execution_ms < 0.9 * now.execution_ms


def _only(facts: ModelFacts, codecs: tuple[str, ...]) -> ModelFacts:
    return replace(facts, codecs=tuple(codec for codec in facts.codecs if codec in codecs))


def _worth(now: Estimate, best: Estimate, goal: Goal) -> float:
    """What a move gains, as a share: of the cost; with a deadline of the server's time, too, and half at least where it
    is missed now."""
    gained = 1 - best.cost / now.cost
    if goal.deadline_ms is None:
        return gained
    missed = 0.5 if now.total_ms > goal.deadline_ms else 0.0
    return max(gained, missed, 1 - best.execution_ms / now.execution_ms if now.execution_ms else 0.0)
