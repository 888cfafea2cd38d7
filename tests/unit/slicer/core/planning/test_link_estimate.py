"""What a device learns of its link from its own requests."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slicer.core.planning.link_estimate import LinkEstimate


class World:
    """A link of a known rate and round trip, used by one request at a time unless told otherwise."""

    def __init__(self, rate: float, round_trip_s: float, noise: float = 0.0, seed: int = 0) -> None:
        self.rate, self.round_trip_s, self.noise = rate, round_trip_s, noise
        self.now_s = 0.0
        self.estimate = LinkEstimate()
        self._random = random.Random(seed)

    def join(self) -> None:
        self.estimate.small(self.round_trip_s)

    def ask(self, size: int, server_s: float = 0.02, extra_s: float = 0.0) -> None:
        sent = self.estimate.sent(self.now_s, size)
        took_s = self.round_trip_s + size / self.rate
        took_s *= 1 + self._random.uniform(-self.noise, self.noise)
        self.now_s += took_s + server_s + extra_s
        self.estimate.answered(sent, self.now_s, server_s)
        self.now_s += 0.1

    def is_known(self, share: float) -> None:
        view = self.estimate.view
        assert view.bytes_per_s == pytest.approx(self.rate, rel=share)
        assert view.round_trip_ms == pytest.approx(self.round_trip_s * 1e3, rel=share, abs=2.0)


def test_nothing_is_known_before_the_first_answer() -> None:
    estimate = LinkEstimate()
    assert not estimate.known
    assert estimate.view.round_trip_ms == 0.0
    assert estimate.view.bytes_per_s > 1e9


def test_requests_of_two_sizes_tell_rate_from_round_trip() -> None:
    world = World(2.5e6, 0.030)
    for size in (40_000, 150_000) * 3:
        world.ask(size)
    world.is_known(0.02)


def test_requests_of_one_size_need_the_small_message_of_joining() -> None:
    world = World(2.5e6, 0.030)
    world.join()
    for _ in range(5):
        world.ask(150_000)
    world.is_known(0.02)


@settings(max_examples=40)
@given(rate=st.floats(1e5, 1e8), round_trip_s=st.floats(0.0005, 0.2), seed=st.integers(0, 10))
def test_any_link_is_learnt_through_noise_as_far_as_it_matters(rate: float, round_trip_s: float, seed: int) -> None:
    world = World(rate, round_trip_s, noise=0.05, seed=seed)
    world.join()
    for size in (40_000, 150_000, 600_000) * 5:
        world.ask(size)
    view = world.estimate.view
    for size in (20_000, 150_000, 600_000):  # what is predicted is right, whichever part it is put down to
        true_s = round_trip_s + size / rate
        assert view.round_trip_ms / 1e3 + size / view.bytes_per_s == pytest.approx(true_s, rel=0.25, abs=0.002)


def test_a_quarter_of_wild_values_does_not_move_it() -> None:
    world = World(2.5e6, 0.030)
    world.join()
    for index in range(16):
        world.ask(150_000, extra_s=3.0 if index % 4 == 1 else 0.0)
    world.is_known(0.1)


def test_the_servers_own_time_is_not_the_links() -> None:
    world = World(2.5e6, 0.030)
    world.join()
    for index in range(8):
        world.ask(150_000, server_s=0.5 * (index % 3))
    world.is_known(0.02)


def test_a_link_that_changes_is_relearnt_within_a_few_requests() -> None:
    world = World(10e6, 0.010)
    world.join()
    for _ in range(16):
        world.ask(150_000)
    world.rate = 0.5e6
    for _ in range(5):
        world.ask(150_000)
    world.is_known(0.1)
    world.rate = 10e6
    for _ in range(5):
        world.ask(150_000)
    world.is_known(0.1)


def test_requests_that_wait_for_each_other_are_not_taken_for_a_slow_link() -> None:
    world = World(1e6, 0.010)
    world.join()
    for _ in range(4):
        world.ask(100_000)
    estimate, begin_s = world.estimate, world.now_s
    sent = [estimate.sent(begin_s, 100_000) for _ in range(4)]  # at once: the last leaves after 0.4 s
    for index, one in enumerate(sent):
        estimate.answered(one, begin_s + 0.010 + 0.1 * (index + 1), 0.0)
    world.is_known(0.1)


def test_a_request_that_was_given_up_says_that_the_link_is_slower_never_that_it_is_faster() -> None:
    world = World(1e6, 0.010)
    world.join()
    for _ in range(4):
        world.ask(100_000)
    before = world.estimate.view
    world.estimate.given_up(world.estimate.sent(world.now_s, 100_000), world.now_s + 0.01)
    assert world.estimate.view == before
    for _ in range(6):
        world.now_s += 5.0
        world.estimate.given_up(world.estimate.sent(world.now_s, 100_000), world.now_s + 4.0)
    assert world.estimate.view.bytes_per_s < 0.1e6


def test_an_answer_that_is_overdue_says_that_the_link_is_slower_and_the_answer_itself_then_counts() -> None:
    world = World(1e6, 0.010)
    world.join()
    for _ in range(4):
        world.ask(100_000)  # 110 ms, and 20 of the server
    estimate, began_s = world.estimate, world.now_s
    sent = estimate.sent(began_s, 100_000)
    assert not estimate.overdue(began_s + 0.25, 0.02)
    assert estimate.overdue(began_s + 0.53, 0.02)  # 2 x 130 ms and 20 more have passed
    view = estimate.view_at(began_s + 0.53, 0.02)
    assert view.bytes_per_s == pytest.approx(100_000 / 0.5)  # 530 ms, less 20 of the server and 10 of the round trip
    assert estimate.view.bytes_per_s == pytest.approx(1e6)
    estimate.answered(sent, began_s + 0.55, 0.02)
    assert not estimate.overdue(began_s + 5.0, 0.02)
    assert estimate.surprised
    assert estimate.view_at(began_s + 0.55, 0.02).bytes_per_s == pytest.approx(1e6)  # one may be chance


def test_what_is_on_its_way_is_in_the_way() -> None:
    world = World(1e6, 0.010)
    world.join()
    for _ in range(4):
        world.ask(100_000)
    estimate, now_s = world.estimate, world.now_s
    for _ in range(3):
        estimate.sent(now_s, 100_000)
    assert estimate.view_at(now_s, 0.0).backlog_ms == pytest.approx(300.0)
    assert estimate.view_at(now_s + 0.1, 0.0).backlog_ms == pytest.approx(200.0)
    assert estimate.view_at(now_s + 0.1, 0.0).bytes_per_s == pytest.approx(1e6)


def test_a_surprise_is_one_until_others_confirm_or_deny_it() -> None:
    world = World(1e6, 0.010)
    world.join()
    for _ in range(6):
        world.ask(100_000)
    assert not world.estimate.surprised
    world.ask(100_000, extra_s=1.0)
    assert world.estimate.surprised
    world.ask(100_000)
    assert not world.estimate.surprised
    world.rate = 0.2e6
    for _ in range(3):
        world.ask(100_000)
    assert not world.estimate.surprised  # three alike: it has changed
    world.is_known(0.05)


def test_noise_that_hides_the_slope_leaves_the_round_trip_of_small_messages() -> None:
    estimate, rng, now_s = LinkEstimate(), random.Random(3), 0.0
    for _ in range(5):
        estimate.small(0.030)
    for index in range(40):  # 40 and 50 ms of upload under noise of 60 ms
        size = (400_000, 500_000)[index % 2]
        sent = estimate.sent(now_s, size)
        now_s += 0.030 + size / 1e7 + rng.expovariate(1 / 0.03)
        estimate.answered(sent, now_s, 0.0)
        now_s += 0.5
    assert estimate.view.round_trip_ms == pytest.approx(30.0)


def test_small_messages_count_at_their_median() -> None:
    estimate = LinkEstimate()
    for took_s in (0.020, 0.500, 0.030, 0.025, 0.040):
        estimate.small(took_s)
    assert estimate.view.round_trip_ms == pytest.approx(30.0)


class Downlink(World):
    """A world whose answers take time down as well."""

    def __init__(self, rate: float, round_trip_s: float, down: float, **more: Any) -> None:
        super().__init__(rate, round_trip_s, **more)
        self.down = down

    def exchange(self, size: int, answer_bytes: int, server_s: float = 0.02) -> None:
        sent = self.estimate.sent(self.now_s, size, answer_bytes)
        took_s = self.round_trip_s + size / self.rate + answer_bytes / self.down
        self.now_s += took_s * (1 + self._random.uniform(-self.noise, self.noise)) + server_s
        self.estimate.answered(sent, self.now_s, server_s)
        self.now_s += 0.1

    def predicted_s(self, size: int, answer_bytes: int) -> float:
        view = self.estimate.view
        down_s = answer_bytes / view.down_bytes_per_s if view.down_bytes_per_s else 0.0
        return view.round_trip_ms / 1e3 + size / view.bytes_per_s + down_s


def test_without_outputs_nothing_is_known_of_the_way_down() -> None:
    world = World(2.5e6, 0.030)
    for size in (40_000, 150_000) * 3:
        world.ask(size)
    assert world.estimate.view.down_bytes_per_s is None
    assert world.estimate.view_at(world.now_s, 0.0).down_bytes_per_s is None


def test_what_the_first_outputs_take_longer_than_classes_is_the_way_down() -> None:
    world = Downlink(2.5e6, 0.030, 1e6)
    world.join()
    world.exchange(150_000, 0)
    world.exchange(150_000, 300_000)
    assert world.estimate.view.down_bytes_per_s == pytest.approx(1e6, rel=0.01)
    for size in (40_000, 150_000) * 3:
        world.exchange(size, 300_000)
    world.is_known(0.02)
    assert world.estimate.view_at(world.now_s, 0.0).down_bytes_per_s == pytest.approx(1e6, rel=0.01)


def test_an_answer_on_its_slow_way_down_is_not_overdue() -> None:
    world = Downlink(2.5e6, 0.030, 1e5)
    world.join()
    world.exchange(150_000, 0)
    world.exchange(150_000, 300_000)  # 3 s down
    world.estimate.sent(world.now_s, 150_000, 300_000)
    assert not world.estimate.overdue(world.now_s + 5.0, 0.02)
    assert world.estimate.overdue(world.now_s + 7.0, 0.02)  # twice 3.09 s and 0.02 s more


@pytest.mark.parametrize("factor", [0.1, 10.0])
def test_a_link_that_changed_is_predicted_as_a_whole(factor: float) -> None:
    world = Downlink(2.5e6, 0.010, 1e6)
    world.join()
    world.exchange(150_000, 0)
    for _ in range(6):
        world.exchange(150_000, 300_000)
    world.rate, world.down = factor * world.rate, factor * world.down
    for _ in range(6):
        world.exchange(150_000, 300_000)
    true_s = 0.010 + 150_000 / world.rate + 300_000 / world.down
    assert world.predicted_s(150_000, 300_000) == pytest.approx(true_s, rel=0.1)


@settings(max_examples=40)
@given(
    rate=st.floats(1e5, 1e8),
    down=st.floats(1e5, 1e8),
    round_trip_s=st.floats(0.0005, 0.2),
    answer_bytes=st.sampled_from([1_500, 300_000]),
    seed=st.integers(0, 10),
)
def test_any_two_rates_predict_an_exchange(
    rate: float, down: float, round_trip_s: float, answer_bytes: int, seed: int
) -> None:
    world = Downlink(rate, round_trip_s, down, noise=0.05, seed=seed)
    world.join()
    world.exchange(40_000, 0)
    for size in (40_000, 150_000, 600_000) * 5:
        world.exchange(size, answer_bytes)
    for size in (40_000, 150_000, 600_000):
        true_s = round_trip_s + size / rate + answer_bytes / down
        assert world.predicted_s(size, answer_bytes) == pytest.approx(true_s, rel=0.3, abs=0.002)
