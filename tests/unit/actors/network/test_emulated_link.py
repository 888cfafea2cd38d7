"""The emulated link against arithmetic, on a fake clock."""

from __future__ import annotations

import asyncio
import statistics
from pathlib import Path
from typing import Any

import pytest

from actors.network.emulated_link import EmulatedLink, Phase, read_trace, resolve
from actors.network.link import Link, make_link
from slicer.core.planning.link_presets import PRESETS
from slicer.errors import ConfigError
from tests.unit import virtual_time


def crossing(*sizes: int, apart_s: float = 0.0, down: bool = False, **options: Any) -> list[float]:
    """When messages arrive that are sent `apart_s` one after another, seconds."""

    async def scenario() -> list[float]:
        link = EmulatedLink(**options, clock=virtual_time.VirtualClock())

        async def one(index: int, size: int) -> float:
            await asyncio.sleep(index * apart_s)
            await (link.receive(size) if down else link.send(size))
            return asyncio.get_running_loop().time()

        return await asyncio.gather(*(one(index, size) for index, size in enumerate(sizes)))

    return virtual_time.run(scenario())


def test_a_message_takes_its_bytes_and_the_delay() -> None:
    # 125,000 bytes at 10 Mbit/s are 100 ms.
    assert crossing(125_000, mbit_per_s=10.0, delay_ms=20.0) == pytest.approx([0.120])


def test_messages_leave_one_after_the_other_but_travel_together() -> None:
    assert crossing(125_000, 12_500, 12_500, mbit_per_s=10.0, delay_ms=20.0) == pytest.approx([0.120, 0.130, 0.140])
    assert crossing(12_500, 12_500, apart_s=1.0, mbit_per_s=10.0, delay_ms=20.0) == pytest.approx([0.030, 1.030])


def test_down_is_another_way_than_up() -> None:
    options = {"mbit_per_s": 10.0, "down_mbit_per_s": 100.0, "delay_ms": 5.0}
    assert crossing(125_000, down=True, **options) == pytest.approx([0.015])

    async def both() -> float:
        link = EmulatedLink(**options, clock=virtual_time.VirtualClock())
        await asyncio.gather(link.send(125_000), link.receive(125_000))
        return asyncio.get_running_loop().time()

    assert virtual_time.run(both()) == pytest.approx(0.105)


def test_jitter_has_its_mean_and_follows_the_seed() -> None:
    options = {"mbit_per_s": 1000.0, "delay_ms": 10.0, "jitter_ms": 4.0}
    times = crossing(*[1] * 2000, apart_s=1.0, **options)
    late_ms = [(arrived - index) * 1e3 - 10.0 for index, arrived in enumerate(times)]
    assert min(late_ms) >= 0
    assert statistics.fmean(late_ms) == pytest.approx(4.0, rel=0.1)
    assert crossing(1, 1, seed=1, **options) == crossing(1, 1, seed=1, **options) != crossing(1, 1, seed=2, **options)


def test_lost_packets_are_sent_again_a_round_trip_later() -> None:
    # 10 % of 100 packets: about 11 % more bytes, and at least one round of 2 x 10 ms.
    clean = crossing(144_800, mbit_per_s=100.0, delay_ms=10.0)[0]
    lossy = crossing(144_800, mbit_per_s=100.0, delay_ms=10.0, loss=0.1)[0]
    assert 0.020 < lossy - clean < 0.085


def test_phases_change_the_rate_in_the_middle_of_a_message() -> None:
    phases = [Phase(0.0, 10.0), Phase(0.05, 1.0)]
    # 62,500 bytes leave in the first 50 ms; the other 62,500 take 500 ms at 1 Mbit/s.
    assert crossing(125_000, mbit_per_s=10.0, phases=phases) == pytest.approx([0.550], abs=1e-6)


def test_a_link_that_is_cut_goes_on_where_it_was() -> None:
    phases = [Phase(0.0, 10.0), Phase(0.05, 0.0), Phase(20.05, 10.0)]
    assert crossing(125_000, mbit_per_s=10.0, phases=phases) == pytest.approx([20.1], abs=1e-6)


def test_who_gives_up_on_a_cut_link_leaves_it_free() -> None:
    async def scenario() -> float:
        clock = virtual_time.VirtualClock()
        phases = [Phase(0.0, 0.0), Phase(2.0, 10.0)]
        link = EmulatedLink(mbit_per_s=10.0, phases=phases, clock=clock)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(link.send(12_500_000), 1.0)
        await link.send(12_500)
        return clock.now_s()

    assert virtual_time.run(scenario()) == pytest.approx(2.01, abs=1e-6)


def test_phases_repeat_and_begin_with_the_run() -> None:
    phases = [[0.0, 10.0, None, None], [1.0, 1.0, 50.0, None]]

    async def scenario() -> list[float]:
        clock = virtual_time.VirtualClock()
        link = EmulatedLink(mbit_per_s=10.0, phases=phases, repeat_s=2.0, clock=clock)
        await asyncio.sleep(1.5)
        link.begin("run")  # it was in its second phase
        took = []
        for _ in range(4):
            began = clock.now_s()
            await link.send(12_500)
            took.append(clock.now_s() - began)
            await asyncio.sleep(1.0 - took[-1])
        return took

    assert virtual_time.run(scenario()) == pytest.approx([0.010, 0.150, 0.010, 0.150], abs=1e-6)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_names_its_source_and_makes_a_link_that_says_it_is_emulated(name: str) -> None:
    assert len(PRESETS[name].source) > 40
    link = make_link("emulated", {"preset": name})
    assert isinstance(link, Link)
    assert name in link.emulated


def test_a_trace_is_read_where_the_fleet_file_is(tmp_path: Path) -> None:
    (tmp_path / "drive.csv").write_text("seconds,mbit_per_s,delay_ms,loss\n0,20,10,\n5,0.5,80,0.02\n", encoding="utf-8")
    name, options = resolve("emulated", {"trace": "drive.csv"}, tmp_path)
    assert (name, options["phases"]) == ("emulated", [[0.0, 20.0, 10.0, None], [5.0, 0.5, 80.0, 0.02]])
    assert "changing" in make_link(name, options).emulated
    assert resolve("lte", {}, tmp_path) == ("emulated", {"preset": "lte"})
    assert resolve("direct", {}, tmp_path) == ("direct", {})


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("seconds,rate\n0,1\n", "columns"),
        ("seconds,mbit_per_s\n0,fast\n", "line 2"),
        ("seconds,mbit_per_s\n0,\n", "needed"),
        ("seconds,mbit_per_s\n", "no line"),
    ],
)
def test_a_damaged_trace_is_named_with_its_line(tmp_path: Path, text: str, word: str) -> None:
    (tmp_path / "t.csv").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=word):
        read_trace(tmp_path / "t.csv")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_trace(tmp_path / "none.csv")


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({}, "needs mbit_per_s"),
        ({"preset": "pigeon"}, "pigeon"),
        ({"mbit_per_s": 0.0}, "above 0"),
        ({"mbit_per_s": 1.0, "loss": 0.9}, "loss"),
        ({"mbit_per_s": 1.0, "delay_ms": -1.0}, "delays"),
        ({"mbit_per_s": 1.0, "phases": [[1.0, 1.0, None, None]]}, "begin at 0"),
        ({"mbit_per_s": 1.0, "phases": [[0.0, 0.0, None, None]]}, "nothing would ever arrive"),
        ({"mbit_per_s": 1.0, "phases": [[0.0, 1.0, None, None]], "repeat_s": 0.0}, "repeat_s"),
        ({"mbit_per_s": 1.0, "colour": "red"}, "colour"),
    ],
)
def test_a_link_that_makes_no_sense_is_refused(options: dict[str, Any], word: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=word):
        resolve("emulated", options, tmp_path)
