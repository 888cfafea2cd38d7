"""The planner online: it moves when there is reason to, and only then."""

from __future__ import annotations

import random
from typing import Any

from actors.adaptive import Adaptive, PlanConfig
from slicer.planner import Choice, Facts
from slicer.profiles import NATIVE, Profile

FACTS = Facts(
    shapes=((3, 100, 100), (25, 100), (25, 100), (25, 100), (10,)),
    slice_bytes=(1000,) * 4,
    entries=(0, 1, 2, 3),
    codecs=("fp32", "fp16", "int8"),
)
BOARD = Profile(name="b", hypothetical=True, slices_ms=[{"mean": 10.0, "std": 0.1}] * 4)  # type: ignore[arg-type]
LOAD = ((0, 1.0, 8.0), (1, 1.0, 6.0), (2, 1.0, 4.0), (3, 1.0, 2.0))


class World:
    """One device that asks once in 0.2 s, on a link of a known rate."""

    def __init__(self, rate: float, present: Choice, noise: float = 0.0, seed: int = 0, **config: Any) -> None:
        self.rate, self.noise, self.now_s = rate, noise, 0.0
        self.planner = Adaptive(PlanConfig(**config), FACTS, BOARD, present, str(seed))
        self.planner.link.small(0.005)
        self.load: tuple[tuple[int, float, float], ...] = LOAD
        self.moves: list[Choice] = []
        self._random = random.Random(seed)

    def ask(self) -> None:
        planner, noise = self.planner, 1 + self._random.uniform(-self.noise, self.noise)
        choice = planner.present
        planner.arrived(self.now_s)
        planner.computed(2.0, (10.0 * noise,) * choice.cut)
        if choice.cut < 4:
            size = 2500 * {"fp32": 4, "fp16": 2, "int8": 1}[choice.codec] if choice.cut else 120_000
            sent = planner.link.sent(self.now_s, size)
            wait_ms, execution_ms = next((w, e) for entry, w, e in self.load if entry == choice.cut)
            server_s = (wait_ms + execution_ms) / 1e3
            planner.link.answered(sent, self.now_s + (0.005 + size / self.rate) * noise + server_s, server_s)
            planner.served(choice.cut, wait_ms, execution_ms, self.load)
        if planner.due(self.now_s) and (moved := planner.reconsider(self.now_s)) is not None:
            planner.present = moved
            self.moves.append(moved)
        self.now_s += 0.2

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds / 0.2)):
            self.ask()


def test_it_goes_where_it_is_clearly_better_and_stays() -> None:
    world = World(rate=1e6, present=Choice(3, "fp32"))
    world.run(20)
    assert world.planner.present == Choice(1, "int8")
    moves = len(world.moves)
    world.run(60)
    assert len(world.moves) == moves


def test_a_noisy_link_makes_it_neither_flap_nor_leave() -> None:
    flaps = []
    for seed in range(10):
        world = World(rate=1e6, present=Choice(1, "int8"), noise=0.4, seed=seed)
        world.run(120)  # some 120 decisions
        flaps.append(len(world.moves))
    assert max(flaps) <= 4
    assert sum(flaps) <= 10


def test_a_link_that_dies_away_moves_the_work_to_the_device_and_back() -> None:
    world = World(rate=1e6, present=Choice(1, "int8"))
    world.run(10)
    world.rate = 2e4
    world.run(20)
    assert world.planner.present.cut == 4
    # At cut 4 nothing is sent, so nothing is learnt of the link: the device sends again when the server says so, or it
    # is told to; here the choice stays, which is right as far as anybody knows.
    world.run(20)
    assert world.planner.present.cut == 4


def test_a_server_that_fills_up_at_one_entry_is_left_there() -> None:
    world = World(rate=1e6, present=Choice(1, "int8"))
    world.run(10)
    world.load = ((0, 40.0, 8.0), (1, 40.0, 6.0), (2, 1.0, 4.0), (3, 1.0, 2.0))
    world.run(20)
    assert world.planner.present.cut == 2


def test_devices_that_plan_alone_do_not_move_at_one_moment() -> None:
    worlds = [World(rate=1e6, present=Choice(3, "fp32"), seed=seed) for seed in range(40)]
    for _ in range(3):
        for world in worlds:
            world.ask()
    moved_at: list[int] = []
    for tick in range(100):
        before = [len(world.moves) for world in worlds]
        for world in worlds:
            world.ask()
        moved_at += [tick] * sum(len(w.moves) > b for w, b in zip(worlds, before, strict=True))
    assert all(world.planner.present.cut == 1 for world in worlds)
    assert max(moved_at.count(tick) for tick in set(moved_at)) <= 12  # of 40, in 0.2 s


def test_only_codecs_that_are_allowed_and_accurate_enough_are_used() -> None:
    world = World(rate=1e6, present=Choice(3, "fp32"), codecs=("fp32", "fp16"))
    world.run(20)
    assert world.planner.present == Choice(1, "fp16")
    exact = World(rate=1e6, present=Choice(3, "fp32"), agreement=1.0)
    exact.run(20)
    assert exact.planner.present.codec == "fp32"


def test_what_was_never_run_is_taken_from_the_profile_or_from_the_slices_that_were() -> None:
    world = World(rate=1e6, present=Choice(1, "int8"))
    world.run(2)
    assert world.planner.device.slices_ms == (10.0, 10.0, 10.0, 10.0)
    native = Adaptive(PlanConfig(), FACTS, NATIVE, Choice(2, "fp32"), "s")
    native.computed(1.0, (4.0, 6.0))
    assert native.device.slices_ms == (4.0, 6.0, 5.0, 5.0)


def test_a_deadline_that_the_present_choice_misses_is_reason_enough() -> None:
    world = World(rate=1e6, present=Choice(0, "fp32"), deadline=True, movers=1.0)
    for _ in range(3):
        world.ask()  # 120 kB take 120 ms
    moved = world.planner.reconsider(world.now_s, deadline_ms=60.0)
    assert moved is not None
    assert moved.cut == 4  # 42 ms: in time without the server
