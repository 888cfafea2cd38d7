"""Arrivals: seeded schedules that are the same for every strategy, and the windows they fill."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.load.arrivals import ArrivalProcess, closed_loop_clients, parse_process, read_trace, schedule
from slicer.errors import ConfigError

DEVICES = ("a", "b", "c")


def times(process: ArrivalProcess, **how: object) -> dict[str, list[float]]:
    made = schedule(process, DEVICES, images=10, **{"seed": 0, **how})  # type: ignore[arg-type]
    return {device: [arrival.at_s for arrival in arrivals] for device, arrivals in made.items()}


@pytest.mark.parametrize("kind", ["poisson", "periodic"])
def test_the_same_seed_makes_the_same_schedule_and_another_seed_another(kind: str) -> None:
    process = parse_process(kind, 30.0)
    first, again, other = (schedule(process, DEVICES, images=10, seed=s, duration_s=5.0) for s in (1, 1, 2))
    assert first == again
    assert first != other


def test_periodic_devices_keep_their_period_from_phases_of_their_own() -> None:
    made = times(parse_process("periodic", 30.0), duration_s=2.0)  # 30/s over 3 devices: each takes one every 100 ms
    for arrivals in made.values():
        assert len(arrivals) == 20
        assert 0 <= arrivals[0] < 0.1
        assert [later - earlier for earlier, later in itertools.pairwise(arrivals)] == pytest.approx([0.1] * 19)
    assert len({arrivals[0] for arrivals in made.values()}) == 3


def test_poisson_has_the_rate_and_the_spread_of_a_poisson_process() -> None:
    arrivals = sorted(itertools.chain.from_iterable(times(parse_process("poisson", 300.0), duration_s=40.0).values()))
    assert len(arrivals) == pytest.approx(12_000, rel=0.04)  # sd of a Poisson count of 12,000 is 110: 4.4 sd
    gaps = [later - earlier for earlier, later in itertools.pairwise(arrivals)]
    mean = sum(gaps) / len(gaps)
    variance = sum((gap - mean) ** 2 for gap in gaps) / len(gaps)
    assert variance**0.5 / mean == pytest.approx(1.0, rel=0.05)  # exponential gaps: coefficient of variation 1


@given(
    st.sampled_from(["poisson", "periodic"]),
    st.integers(1, 500),
    st.floats(0.5, 200),
    st.floats(0, 3),
    st.integers(0, 2**31),
)
def test_requests_are_exactly_as_many_shared_evenly_sorted_and_after_the_warmup(
    kind: str, requests: int, rate_rps: float, warmup_s: float, seed: int
) -> None:
    made = schedule(parse_process(kind, rate_rps), DEVICES, images=7, seed=seed, warmup_s=warmup_s, requests=requests)
    measured = {device: [a for a in arrivals if a.at_s >= warmup_s] for device, arrivals in made.items()}
    counts = [len(arrivals) for arrivals in measured.values()]
    assert sum(counts) == requests
    assert max(counts) - min(counts) <= 1
    for arrivals in made.values():
        assert [a.at_s for a in arrivals] == sorted(a.at_s for a in arrivals)
        assert all(a.at_s >= 0 and 0 <= a.image < 7 for a in arrivals)


def test_every_device_takes_the_same_images_in_the_same_order_and_warmup_uses_none_of_them_up() -> None:
    made = schedule(parse_process("poisson", 30.0), DEVICES, images=10, seed=3, warmup_s=1.0, requests=36)
    first, *others = ([a.image for a in arrivals if a.at_s >= 1.0] for arrivals in made.values())
    assert first[:10] != sorted(first[:10]), "shuffled"
    assert sorted(first[:10]) == list(range(10)), "each image once before one comes again"
    assert all(images == first for images in others)


def test_duration_bounds_the_window() -> None:
    for kind in ("poisson", "periodic"):
        made = times(parse_process(kind, 50.0), warmup_s=1.0, duration_s=2.0)
        everything = sorted(itertools.chain.from_iterable(made.values()))
        assert 0 <= everything[0] < 1 and 2.5 < everything[-1] < 3.0


RECORDED = "0,a\n0.5,b\n2.0,a"


def trace(tmp_path: Path, text: str = RECORDED) -> Path:
    path = tmp_path / "trace.csv"
    path.write_text(text)
    return path


def test_a_trace_is_read_shifted_sorted_and_may_name_devices(tmp_path: Path) -> None:
    path = trace(tmp_path, "# a comment\n12.5, b\n10.0\n\n11.0,a  # the first camera\n")
    assert read_trace(path) == ((0.0, None), (1.0, "a"), (2.5, "b"))


def test_a_trace_goes_to_the_devices_it_names_as_recorded(tmp_path: Path) -> None:
    process = parse_process(f"trace:{trace(tmp_path)}", None)
    # Recorded: 2 gaps in 2 s, 1/s; so it repeats every 3 s, and 4 s hold the first arrivals of the second round.
    assert times(process, duration_s=4.0) == {"a": [0.0, 2.0, 3.0], "b": [0.5, 3.5], "c": []}


def test_a_rate_stretches_a_trace(tmp_path: Path) -> None:
    process = parse_process(f"trace:{trace(tmp_path)}", 2.0)
    assert times(process, requests=3) == {"a": [0.0, 1.0], "b": [0.25], "c": []}


@pytest.mark.parametrize(
    ("text", "named"),
    [("", "no arrival"), ("1\nsoon\n", "line 2"), ("nan", "line 1"), ("0\n1,z", "'z'"), ("1\n1", "one time")],
)
def test_a_bad_trace_is_refused_by_name(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        times(parse_process(f"trace:{trace(tmp_path, text)}", None), duration_s=5.0)


def test_a_missing_trace_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.csv"):
        parse_process(f"trace:{tmp_path / 'absent.csv'}", None)


@pytest.mark.parametrize(
    ("text", "rate_rps", "named"),
    [
        ("uniform", 1.0, "'uniform'"),
        ("poisson", None, "--rate"),
        ("periodic", -3.0, "-3"),
        ("poisson", float("nan"), "nan"),
        ("poisson", float("inf"), "inf"),
    ],
)
def test_bad_arrivals_are_refused_by_value(text: str, rate_rps: float | None, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        parse_process(text, rate_rps)


@pytest.mark.parametrize(
    "how",
    [
        {"duration_s": 1.0, "requests": 5},
        {},
        {"duration_s": 0.0},
        {"duration_s": float("inf")},
        {"requests": 0},
        {"duration_s": 1e9},
    ],
)
def test_a_window_that_is_none_is_refused(how: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        times(parse_process("poisson", 10.0), **how)


def test_closed_loop_clients_are_shared_evenly_and_few_are_spread_over_the_fleet() -> None:
    assert closed_loop_clients(7, DEVICES) == {"a": 3, "b": 2, "c": 2}
    eight = [f"d{i}" for i in range(8)]
    few = closed_loop_clients(2, eight)
    assert [device for device, clients in few.items() if clients] == ["d0", "d4"]
    with pytest.raises(ConfigError, match="concurrency 0"):
        closed_loop_clients(0, DEVICES)
