"""The planner on cases that can be worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slicer.core.codecs import activations
from slicer.core.planning.cut_planner import (
    Choice,
    DeviceView,
    Goal,
    LinkView,
    ModelFacts,
    ServerView,
    choose,
    estimate,
    estimate_all,
)
from slicer.core.protocol.calibration_index import Measured
from slicer.errors import ConfigError

#: Four slices; a square image of 3 x 100 x 100, activations of 25 x 100 = 2,500 values, ten classes.
FACTS = ModelFacts(
    shapes=((3, 100, 100), (25, 100), (25, 100), (25, 100), (10,)),
    slice_bytes=(1000, 2000, 3000, 4000),
    entries=(0, 1, 2, 3),
    codecs=("fp32", "fp16", "int8", "rgb8", "jpeg"),
)
DEVICE = DeviceView((10.0, 10.0, 10.0, 10.0), 2.0, {c: 0.0 for c in FACTS.codecs})
LINK = LinkView(1e6, 5.0)  # 1 kB a millisecond
SERVER = ServerView({e: 1.0 for e in range(4)}, {0: 8.0, 1: 6.0, 2: 4.0, 3: 2.0})


def best(
    device: DeviceView = DEVICE, link: LinkView = LINK, server: ServerView | None = SERVER, **goal: float
) -> Choice:
    aim = Goal(**goal)  # type: ignore[arg-type]
    chosen = choose(estimate_all(FACTS, device, link, server, aim), aim)
    assert chosen is not None
    return chosen.choice


def test_the_phases_are_those_of_the_way_and_add_up() -> None:
    one = estimate(FACTS, Choice(2, "fp16"), DEVICE, LINK, SERVER, Goal())
    assert (one.head_ms, one.upload_ms, one.round_trip_ms) == (22.0, 5.0, 5.0)  # 2 + 2 x 10; 5,000 bytes
    assert (one.server_wait_ms, one.execution_ms, one.payload_bytes) == (1.0, 4.0, 5000)
    assert one.total_ms == pytest.approx(37.0)
    assert one.memory_bytes == 3000 + 4 * 30_000  # slices 1 and 2, and the image as float32
    assert not one.refused


def test_an_answer_with_outputs_takes_its_time_down_at_every_cut_but_the_last() -> None:
    facts, link = replace(FACTS, answer_bytes=3000), replace(LINK, down_bytes_per_s=5e5)
    two, whole = (estimate(facts, Choice(cut, "fp16"), DEVICE, link, SERVER, Goal()) for cut in (2, 4))
    plain = estimate(FACTS, Choice(2, "fp16"), DEVICE, LINK, SERVER, Goal())
    assert (two.download_ms, two.total_ms) == (6.0, plain.total_ms + 6.0)
    assert whole.download_ms == 0.0
    assert two == replace(plain, download_ms=6.0, total_ms=plain.total_ms + 6.0, cost=plain.cost + 6.0)


def test_without_outputs_or_without_a_known_rate_nothing_comes_down_and_all_is_as_before() -> None:
    plain = estimate_all(FACTS, DEVICE, LINK, SERVER, Goal())
    assert plain == estimate_all(FACTS, DEVICE, replace(LINK, down_bytes_per_s=1.0), SERVER, Goal())
    assert plain == estimate_all(replace(FACTS, answer_bytes=3000), DEVICE, LINK, SERVER, Goal())


def test_large_outputs_over_a_slow_downlink_are_better_made_on_the_device() -> None:
    near, far = replace(LINK, down_bytes_per_s=1e6), replace(LINK, down_bytes_per_s=1e4)
    cuts = []
    for link in (near, far):
        chosen = choose(estimate_all(replace(FACTS, answer_bytes=1000), DEVICE, link, SERVER, Goal()), Goal())
        assert chosen is not None
        cuts.append(chosen.choice.cut)
    assert cuts[0] < 4 == cuts[1]


def test_answers_that_the_link_cannot_carry_at_that_rate_are_refused() -> None:
    facts, link = replace(FACTS, answer_bytes=3000), replace(LINK, down_bytes_per_s=5e5)  # 6 ms each
    light = replace(DEVICE, preprocess_ms=0.0, rate_rps=200.0)
    over = estimate(facts, Choice(0, "int8"), light, replace(link, bytes_per_s=1e9), SERVER, Goal())
    assert over.refused == "answers would keep the link busy 120% of the time"
    kept = estimate(facts, Choice(4, "fp32"), replace(light, slices_ms=(0.1,) * 4), link, SERVER, Goal())
    assert not kept.refused


def test_a_fast_link_sends_the_image_and_a_slow_one_keeps_it() -> None:
    assert best(link=LinkView(1e9, 1.0)).cut == 0
    assert best(link=LinkView(1e3, 1.0)).cut == FACTS.num_slices


def test_a_medium_link_wants_the_smallest_activation_early() -> None:
    # cut 1, int8: 2 + 10 + 2,700 bytes = 2.7 + 5 + 1 + 6 = 26.7; cut 0, rgb8: 2 + 30 + 5 + 1 + 8 = 46; device: 42.
    assert activations.encoded_bytes("int8", FACTS.shapes[1]) == 2700
    assert best() == Choice(1, "int8")


def test_a_busy_server_is_relieved_of_the_entries_where_it_is_busy() -> None:
    busy = ServerView({0: 50.0, 1: 50.0, 2: 1.0, 3: 1.0}, SERVER.execution_ms)
    assert best(server=busy).cut == 2
    assert best(server=ServerView({e: 99.0 for e in range(4)}, SERVER.execution_ms)).cut == FACTS.num_slices


def test_without_a_server_only_the_device_is_left() -> None:
    assert best(server=None) == Choice(4, "fp32")


def test_memory_accuracy_and_entries_are_limits() -> None:
    small = replace(DEVICE, memory_bytes=FACTS.memory_bytes(1))
    assert best(small, LinkView(1e4, 1.0)).cut <= 1
    assert best(agreement=0.999).codec == "fp16"  # int8 is assumed to agree in 99.5 %
    measured = Goal(agreement=0.999, measured={"int8": 0.9995})
    assert choose(estimate_all(FACTS, DEVICE, LINK, SERVER, measured), measured).choice.codec == "int8"  # type: ignore[union-attr]
    only = replace(FACTS, entries=(3,))
    refused = {one.choice.cut: one.refused for one in estimate_all(only, DEVICE, LINK, SERVER, Goal())}
    assert refused[1] == "no entry of the server"
    assert not refused[3]


def test_a_device_that_cannot_keep_up_or_a_link_that_cannot_is_not_offered() -> None:
    fast_camera = replace(
        DEVICE, rate_rps=50.0
    )  # 20 ms an image: one slice of 10 ms, after 2 ms, is all it has time for
    assert best(fast_camera).cut <= 1
    one = estimate(FACTS, Choice(2, "int8"), fast_camera, LINK, SERVER, Goal())
    assert "busy 110%" in one.refused
    slow = estimate(FACTS, Choice(1, "fp32"), replace(DEVICE, rate_rps=50.0), LinkView(4e5, 1.0), SERVER, Goal())
    assert "link would be busy 125%" in slow.refused


def test_waits_of_device_and_link_are_those_of_a_queue() -> None:
    one = estimate(FACTS, Choice(1, "fp16"), replace(DEVICE, rate_rps=40.0), LINK, SERVER, Goal())
    assert one.device_wait_ms == pytest.approx(0.48 * 12 / (2 * 0.52))  # M/D/1, 12 ms at 40/s
    # As M/D/1, but that a device which is busy for 48 % of the time lets images out more evenly than they came.
    assert one.upload_wait_ms == pytest.approx((1 - 0.48**2) * 0.2 * 5 / (2 * 0.8))
    ticking = estimate(FACTS, Choice(1, "fp16"), replace(DEVICE, rate_rps=40.0, burst=0.0), LINK, SERVER, Goal())
    assert (ticking.device_wait_ms, ticking.upload_wait_ms) == (0.0, 0.0)


def test_images_that_have_piled_up_wait_for_each_other_at_the_slower_of_device_and_link() -> None:
    piled_up = replace(DEVICE, waiting=6)
    slow, fast = replace(LINK, bytes_per_s=1e4), replace(LINK, bytes_per_s=1e9)
    for link in (slow, fast):
        found = estimate(FACTS, Choice(1, "fp16"), piled_up, link, SERVER, Goal())
        service_ms = found.head_ms + found.encode_ms
        assert found.device_wait_ms == pytest.approx(3 * service_ms)
        assert found.upload_wait_ms == pytest.approx(3 * max(found.upload_ms - service_ms, 0.0))
    whole = estimate(FACTS, Choice(FACTS.num_slices, "fp32"), piled_up, LINK, SERVER, Goal())
    assert whole.device_wait_ms == pytest.approx(3 * whole.head_ms)


def test_with_a_deadline_the_server_is_used_as_little_as_it_allows() -> None:
    assert best(deadline_ms=45.0, margin=0.1).cut == 2  # cut 3 takes 42.7 of 40.5 ms, cut 2 34.7
    assert best(deadline_ms=60.0, margin=0.1).cut == 4  # 42 of 54: the server is not needed
    assert best(deadline_ms=10.0) == best()  # not to be met: the fastest


def test_energy_and_the_servers_time_have_a_price() -> None:
    hungry = replace(DEVICE, watts=5.0, joules_per_mb=1.0)
    assert best(hungry, joule_ms=1000.0).cut == 0
    assert best(server_ms=10.0).cut == 4
    one = estimate(FACTS, Choice(1, "fp16"), hungry, LINK, SERVER, Goal(joule_ms=100.0, server_ms=2.0))
    assert one.joules == pytest.approx(5.0 * 0.012 + 0.005)
    assert one.cost == pytest.approx(one.total_ms + 100 * one.joules + 2 * 6.0)


def test_a_photograph_is_offered_where_its_size_is_known_and_costs_the_device_nothing() -> None:
    sizes = {one.choice: one for one in estimate_all(FACTS, DEVICE, LINK, SERVER, Goal(agreement=0.9))}
    assert sizes[Choice(0, "jpeg")].refused == "size of the image not known"
    known = replace(DEVICE, image_bytes={"jpeg": 4000.0})
    one = estimate(FACTS, Choice(0, "jpeg"), known, LINK, SERVER, Goal(agreement=0.9))
    assert (one.head_ms, one.payload_bytes) == (0.0, 4000)
    assert Choice(1, "jpeg") not in sizes
    assert Choice(0, "rgb8") in sizes


def test_of_equals_the_lower_cut_is_chosen() -> None:
    free = DeviceView((0.0,) * 4, 0.0, {c: 0.0 for c in FACTS.codecs})
    nothing = ServerView({}, {})
    assert best(free, LinkView(math.inf, 0.0), nothing).cut == 0


@pytest.mark.parametrize("wrong", [{"joule_ms": -1.0}, {"margin": 1.0}, {"agreement": 2.0}])
def test_a_goal_that_makes_no_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="goal"):
        Goal(**wrong)  # type: ignore[arg-type]


@given(
    slices=st.lists(st.floats(0.1, 500), min_size=4, max_size=4),
    rate=st.floats(1e3, 1e9),
    round_trip=st.floats(0, 300),
    waits=st.lists(st.floats(0, 300), min_size=4, max_size=4),
    images=st.floats(0, 30),
)
def test_nothing_that_is_offered_is_better_than_what_is_chosen(
    slices: list[float], rate: float, round_trip: float, waits: list[float], images: float
) -> None:
    device = DeviceView(tuple(slices), 1.0, rate_rps=images)
    server = ServerView(dict(enumerate(waits)), SERVER.execution_ms)
    estimates = estimate_all(FACTS, device, LinkView(rate, round_trip), server, Goal())
    chosen = choose(estimates, Goal())
    offered = [one for one in estimates if not one.refused]
    assert (chosen is None) == (not offered)
    if chosen is not None:
        assert chosen.total_ms == min(one.total_ms for one in offered)
        assert math.isfinite(chosen.total_ms)


CALIBRATED = {
    Choice(one.cut, one.codec): one
    for one in (
        Measured(0, "jpeg-75", 6000.0, 0.994, 0.99, 0.995),
        Measured(2, "transform-990", 500.0, 0.991, 0.98, 0.97),
        Measured(2, "transform-995", 700.0, 0.996, 0.98, 0.993),
        Measured(3, "int8", 2600.0, 0.98, 0.97, 0.9),
    )
}
WITH_TABLES = replace(FACTS, codecs=(*FACTS.codecs, "transform-990", "transform-995", "jpeg-75"), calibrated=CALIBRATED)


def test_codecs_with_tables_are_offered_where_there_are_some() -> None:
    found = [one.choice for one in estimate_all(WITH_TABLES, DEVICE, LINK, SERVER, Goal())]
    assert [one for one in found if "transform" in one.codec] == [
        Choice(2, "transform-990"),
        Choice(2, "transform-995"),
    ]
    assert not [one for one in estimate_all(FACTS, DEVICE, LINK, SERVER, Goal()) if "transform" in one.choice.codec]


@pytest.mark.parametrize(("agreement", "codec"), [(0.95, "transform-990"), (0.99, "transform-995"), (0.997, "fp16")])
def test_the_goals_agreement_picks_the_quality(agreement: float, codec: str) -> None:
    goal = Goal(agreement=agreement)
    found = choose([one for one in estimate_all(WITH_TABLES, DEVICE, LINK, SERVER, goal) if one.choice.cut == 2], goal)
    assert found is not None and found.choice == Choice(2, codec)


def test_what_calibration_found_at_a_cut_counts_before_what_a_codec_says_of_itself() -> None:
    found = {one.choice: one.refused for one in estimate_all(WITH_TABLES, DEVICE, LINK, SERVER, Goal())}
    assert found[Choice(3, "int8")] == "agreement 0.900 is below 0.99" and not found[Choice(2, "int8")]
    told = Goal(measured={"int8": 0.999})
    assert not estimate(WITH_TABLES, Choice(3, "int8"), DEVICE, LINK, SERVER, told).refused


def test_an_expected_size_grows_with_what_the_device_has_seen() -> None:
    sizes = [
        estimate(WITH_TABLES, choice, replace(DEVICE, size_ratio=1.5), LINK, SERVER, Goal()).payload_bytes
        for choice in (Choice(2, "transform-995"), Choice(0, "jpeg-75"), Choice(2, "int8"))
    ]
    assert sizes == [1050, 9000, 2700]  # int8 has its own size, whatever the image


def test_a_file_of_the_models_size_is_prepared_on_the_device_and_only_offered_where_it_was_measured() -> None:
    one = estimate(WITH_TABLES, Choice(0, "jpeg-75"), DEVICE, LINK, SERVER, Goal())
    assert (one.head_ms, one.upload_ms, one.refused) == (2.0, 6.0, "")
    plain = replace(FACTS, codecs=(*FACTS.codecs, "jpeg-75"))
    assert estimate(plain, Choice(0, "jpeg-75"), DEVICE, LINK, SERVER, Goal()).refused == "size of the image not known"


def test_the_choice_may_be_to_send_the_jpeg() -> None:
    slow_device = replace(DEVICE, slices_ms=(60.0,) * 4)
    goal = Goal()
    found = choose(estimate_all(WITH_TABLES, slow_device, LINK, SERVER, goal), goal)
    assert found is not None and found.choice == Choice(0, "jpeg-75")
