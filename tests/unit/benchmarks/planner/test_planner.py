"""benchmarks/planner/planner.py on cases of seconds: the oracle is executed and best, the document is whole."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import pytest

from actors.device.config import PlanConfig
from benchmarks.planner import herding, planner
from benchmarks.planner.cases import SHAPES, Case, served
from benchmarks.planner.runs import Stage
from benchmarks.planner.server import VirtualServer, others
from benchmarks.planner.world import costs_of
from deployments.simulation.workloads import bound_rps
from slicer.core.planning.cut_planner import Choice
from slicer.core.protocol.messages import Answer, Request

VIT = next(iter(SHAPES))
LTE = Case("small", "grid", VIT, 400.0, 1.0, "periodic", {"preset": "lte"}, ((0.0, 0.2),), 25.0)
#: Fast, then as good as cut: to the server before, alone after.
TUNNEL = replace(
    LTE,
    name="small tunnel",
    kind="trace",
    link={"mbit_per_s": 100.0, "delay_ms": 2.0, "phases": ((0.0, 100.0), (20.0, 0.1))},
    loads=((0.0, 0.0),),
    seconds=40.0,
)


def test_the_oracle_is_the_best_that_was_run_and_what_was_not_run_could_not_win() -> None:
    # The image as a file, or everything here, or an activation.
    stage = Stage(replace(LTE, name="small rivals", whole_ms=140.0, loads=((0.0, 0.8),)))
    _, oracle = stage.oracle()
    assert len(stage.runs) > 1
    assert oracle.mean_ms() == min(outcome.mean_ms() for outcome in stage.runs.values())
    for choice in set(stage.choices) - {schedule[0][1] for schedule in stage.runs}:
        assert stage.executed(((0.0, choice),)).mean_ms() >= oracle.mean_ms()


def test_the_oracle_knows_when_a_link_will_change() -> None:
    schedule, oracle = Stage(TUNNEL).oracle()
    assert [choice.cut for _, choice in schedule] == [0, 4]
    assert schedule[1][0] in (19.5, 20.0)
    assert oracle.moves == 1
    assert oracle.mean_ms(0.0, 19.5) < 60.0  # 150 kB at 100 Mbit/s, 4 ms, 20 ms of preprocessing, 14.4 of the server
    assert oracle.mean_ms(20.0) == pytest.approx(420.0, rel=0.05)


def test_the_planner_learns_of_it_and_pays_for_learning_only() -> None:
    stage = Stage(TUNNEL)
    planned = stage.planned()
    assert (planned.chosen[5].cut, planned.chosen[-1].cut) == (0, 4)
    assert planned.mean_ms(30.0) == pytest.approx(stage.oracle()[1].mean_ms(30.0), rel=0.02)


def test_a_device_that_sends_seldom_hears_of_the_servers_load_with_every_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[bool] = []
    infer = VirtualServer.infer

    async def noting(self: VirtualServer, requests: Sequence[Request]) -> list[Answer]:
        asked.extend(request.wants_load for request in requests)
        return await infer(self, requests)

    monkeypatch.setattr(VirtualServer, "infer", noting)
    Stage(replace(LTE, name="seldom")).planned()
    assert len(asked) > 20 and all(asked)


def test_the_same_case_gives_the_same_figures() -> None:
    assert Stage(LTE).planned().times == Stage(LTE).planned().times


def test_the_link_without_a_wait_is_arithmetic() -> None:
    least_ms = Stage(TUNNEL).least_ms(Choice(0, "rgb8"), 0.0)
    link_ms = (3 * 224 * 224 + 300) * 8 / 100e6 * 1e3 + 2 * 2.0
    assert least_ms == pytest.approx(20.0 + link_ms + 12 * 1.2 + 1.0)
    assert Stage(TUNNEL).least_ms(Choice(4, "fp32"), 0.0) == pytest.approx(420.0)


def test_other_clients_offer_their_share_of_the_bound() -> None:
    costs, entries = costs_of("edge-gpu", 4), served(VIT).entries
    found = others(costs, entries, ((0.0, 0.5), (50.0, 0.0)), 100.0, "s")
    assert len(found) == pytest.approx(0.5 * bound_rps(costs, entries, 32) * 50, rel=0.05)
    assert max(at_s for at_s, _ in found) < 50.0


def test_the_document_is_json_and_counts_held_out_cases_apart() -> None:
    rows = [planner.compare(LTE), planner.compare(replace(TUNNEL, held_out=True))]
    document = json.loads(json.dumps(planner.document(rows, None, None)))
    assert document["regret_max"] == max(row["regret"] for row in rows)
    assert document["regret_mean"] == pytest.approx(sum(row["regret"] for row in rows) / 2, abs=1e-4)
    assert set(document["by_kind"]) == {"grid, seen", "trace, held out"}
    assert document["all"]["device_only"]["max"] > 0
    assert all(ratio >= 0.99 for row in rows for ratio in row["static_over_oracle"].values())


def test_no_case_stands_in_the_seen_ones_and_in_those_held_out() -> None:
    cases = planner.all_cases(["grid", "drawn", "traces", "held-out"])
    assert len({case.name for case in cases}) == len(cases)
    assert sum(case.held_out for case in cases) == 32


def test_a_small_herd_answers_everything() -> None:
    herd = herding.Herd(devices=3, seconds=20.0, others=(0.0, 0.0, 0.0))
    records, busy = herding.run(herd, PlanConfig(), 0.0, "0")
    assert sum(map(len, records)) == 3 * 100
    found = herding.figures(records, busy, herd.seconds)
    assert sum(found["share_at_cut"].values()) == pytest.approx(1.0, abs=0.01)
    assert found["share_at_cut"]["0"] > 0.9  # three of them have the server for themselves
    alone, _ = herding.run(herd, None, 0.0, "0")
    assert all(record.cut == 4 for of_one in alone for record in of_one)
