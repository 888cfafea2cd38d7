"""What overhead.py makes of its turns, its load, and its servers' code, without a server."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import numpy as np
import pytest

from benchmarks.serving.no_compute import CLASSES, SHAPE, NoCompute
from benchmarks.serving.overhead import arrivals_s, cases_of, loaded
from benchmarks.serving.overhead_figures import Turn, figures, table
from benchmarks.serving.servers import processes_of
from deployments.engine.pipelined import PipelinedEngine, engine_class
from deployments.scheduling.registry import make_policy
from deployments.scheduling.scheduler import Scheduler
from slicer.core.protocol.messages import Reply, Timings

REPLY = Reply("r", Timings(0.0, 0.0, 0.0, 0.0, (1,)))


def turn(cpu_us: dict[str, float], *alone_ms: float) -> Turn:
    return Turn({**cpu_us, "client": 1000.0, "others": 50.0}, 300.0, 0.1, 1.5, [2.0], list(alone_ms))


def turns() -> dict[str, list[Turn]]:
    return {
        "old": [turn({"server": 400.0, "haproxy": 100.0}, 1.0, 1.0, 9.0) for _ in range(3)],
        "new": [turn({"front": 300.0, "core": 40.0, "haproxy": 110.0}, 1.2 + i / 10, 8.0, 0.5) for i in range(3)],
        "single": [turn({"server": 500.0, "haproxy": 125.0}, 1.0) for _ in range(3)],
    }


def test_figures_are_of_the_servers_processes_paired_by_round() -> None:
    found = figures(turns(), 300.0)
    assert found["cpu_us_per_request"]["new"] == {
        **{"front": 300.0, "core": 40.0, "haproxy": 110.0, "client": 1000.0, "others": 50.0},
        "sum": 450.0,  # neither the client nor what is beside it
    }
    assert found["core_over_old_server"]["ratio"] == 0.1
    assert {form: one["ratio"] for form, one in found["sum_over_old"].items()} == {"new": 0.9, "single": 1.25}
    assert found["p50_ms_alone"] == {"old": 1.0, "new": 1.3, "single": 1.0}
    less = found["p50_ms_alone_less_old"]["new"]
    assert less["by_round"] == [0.2, 0.3, 0.4] and less["ms"] == 0.3
    assert less["ci95"] == pytest.approx([0.0516, 0.5484])  # t of two degrees, 4.303, times 0.1 / sqrt 3
    assert found["p99_ms_alone"]["single"] == 1.0


def test_one_client_alone_is_measured_with_the_first_rate_only() -> None:
    cases = cases_of((300.0, 900.0))
    assert [case.alone for case in cases] == [True] * 4 + [False] * 4
    assert cases[0].name == "151 kB fp32, singly, 300/s" and cases[-1].name == "38 kB int8, parcels of 8, 900/s"
    without = figures({form: [turn(one.cpu_us) for one in of_form] for form, of_form in turns().items()}, 900.0)
    assert "p50_ms_alone" not in without
    assert "p50" not in table({"a": without}) and "alone p50" in table({"a": figures(turns(), 300.0)})


def test_a_round_lost_to_noise_gives_no_ratio() -> None:
    spoilt = turns()
    spoilt["new"][1] = turn({"front": 300.0, "core": -2.0, "haproxy": 110.0}, 1.0)
    assert figures(spoilt, 300.0)["core_over_old_server"] is None


def test_arrivals_are_the_same_for_all_forms_and_others_in_each_round() -> None:
    first = arrivals_s(300.0, 4.0, (0, 1))
    assert first == arrivals_s(300.0, 4.0, (0, 1)) != arrivals_s(300.0, 4.0, (1, 1))
    assert len(first) == 1200 and first == sorted(first)
    assert first[-1] == pytest.approx(4.0, rel=0.15)


def test_load_is_open_a_slow_answer_holds_nothing_up() -> None:
    async def run() -> tuple[int, list[Reply]]:
        waiting, all_sent = 0, asyncio.Event()

        async def send() -> list[Reply]:
            nonlocal waiting
            waiting += 1
            if waiting == 5:
                all_sent.set()
            await all_sent.wait()
            return [REPLY]

        replies, latencies_ms, lags_ms, _ = await asyncio.wait_for(loaded(send, [0.0] * 5), 60)
        assert len(latencies_ms) == len(lags_ms) == 5
        return waiting, replies

    assert asyncio.run(run()) == (5, [REPLY] * 5)


def test_processes_are_told_apart() -> None:
    there = {
        1: ("gcs_server --log", "gcs_server"),
        2: ("ray::ServeReplica:new:Front", "ray::ServeRepli"),
        3: ("ray::ServeReplica:new:Core", "ray::ServeRepli"),
        4: ("ray::ServeReplica:single:TailServer", "ray::ServeRepli"),
        5: ("haproxy -db -f x", "haproxy"),
    }
    assert processes_of("new", there) == {"front": [2], "core": [3], "haproxy": [5], "others": [1, 4]}
    assert processes_of("single", there) == {"server": [4], "haproxy": [5], "others": [1, 2, 3]}
    with pytest.raises(RuntimeError, match="old has no process server"):
        processes_of("old", there)


def test_the_executor_without_compute_is_driven_like_one_that_takes_steps_ahead() -> None:
    executor, ended, all_ended = NoCompute(), list[Any](), threading.Event()
    assert engine_class(executor) is PipelinedEngine

    def deliver(outcomes: list[Any]) -> None:
        ended.extend(outcomes)
        if len(ended) == 3:
            all_ended.set()

    policy = make_policy("per_tail_shared", model="toy", num_slices=4, max_batch=32)
    engine = PipelinedEngine(Scheduler({"toy": policy}), executor, deliver)
    engine.start()
    engine.submit("toy", 0, np.zeros((3, *SHAPE), np.float32), [0.0] * 3, [None] * 3)
    assert all_ended.wait(60)
    engine.stop()
    assert all(outcome.logits is not None and outcome.logits.shape == (CLASSES,) for outcome in ended)
    assert engine.stats().rows_per_step == {3: 1}
