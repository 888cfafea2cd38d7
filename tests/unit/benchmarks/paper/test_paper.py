"""paper.py's arithmetic, the published scripts' policies, and the whole of it once on the emulated accelerator."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.paper import paper, worker
from deployments.engine.engine import Engine
from deployments.engine.ledger import Outcome
from deployments.scheduling.registry import make_policy
from deployments.scheduling.scheduler import Scheduler
from deployments.testing.fakes import FakeExecutor, answer_of, rows_at


def run(rate_rps: float, seed: int, mean_ms: float, stable: bool = True) -> dict[str, Any]:
    return {
        "rate_rps": rate_rps, "seed": seed, "mean_ms": mean_ms, "stable": stable, "valid": True, "answered": 9
    }  # fmt: skip


def test_the_reduction_is_given_where_both_are_stable_and_where_67_percent_is_first_reached() -> None:
    unbatched = {
        "open": [run(10.0, 0, 100.0), run(10.0, 1, 200.0), run(20.0, 0, 400.0), run(20.0, 1, 400.0)],
        "closed": {"1": {"mean_ms": 10.0}, "8": {"mean_ms": 80.0}},
    }
    ours = {
        "open": [run(10.0, 0, 50.0), run(10.0, 1, 100.0), run(20.0, 0, 100.0), run(20.0, 1, 100.0)],
        "closed": {"1": {"mean_ms": 10.0}, "8": {"mean_ms": 20.0}},
    }
    growing = {"open": [run(rate, seed, 9.0, stable=False) for rate in (10.0, 20.0) for seed in (0, 1)], "closed": {}}
    by_strategy = {"unbatched": unbatched, "ours": ours, "growing": growing}
    found = {one["strategy"]: one for one in paper.reductions(by_strategy, [10.0, 20.0], [0.3, 0.6])}
    assert found["ours"]["open_loop"]["30%"]["reduction"] == 0.5
    assert found["ours"]["open_loop"]["60%"] == {"reduction": 0.75, "ci95": [0.75, 0.75], "valid": True}
    assert found["ours"]["67_percent_from_load"] == "60%"
    assert found["ours"]["closed_loop"] == {"1": 0.0, "8": 0.75}
    assert found["ours"]["67_percent_from_clients"] == 8
    assert found["growing"]["open_loop"]["30%"] == {"reduction": None, "unstable": True}
    assert found["growing"]["67_percent_from_load"] is None


@pytest.mark.parametrize(
    ("published", "rows", "steps"),
    [
        ("benchmarks.paper.published:FullPerModel", 9, [(1, 4, 4), (1, 4, 4)]),
        ("benchmarks.paper.published:FullPerSlice", 17, [(1, 2, 16), (2, 3, 16), (3, 4, 16)]),
    ],
)
def test_a_published_batch_runs_only_when_it_is_full(
    published: str, rows: int, steps: list[tuple[int, int, int]]
) -> None:
    policy = make_policy(published, model="m", num_slices=4)
    executor, outcomes = FakeExecutor(), list[Outcome]()
    engine = Engine(Scheduler({"m": policy}), executor, outcomes.extend)
    names = [float(name) for name in range(rows)]
    engine.submit("m", 1, rows_at(*names), [0.0] * rows, [None] * rows)
    while engine.step_once() is not None:
        pass
    assert executor.batches == steps
    assert [outcome.logits.tolist() for outcome in outcomes if outcome.logits is not None] == [
        answer_of(name, 1, 4) for name in names[: rows - 1]
    ]
    assert policy.waiting == 1, "the last one waits for ever"


@pytest.mark.parametrize("published", paper.PUBLISHED)
def test_a_published_strategy_is_measured_although_a_single_row_would_wait_for_ever(published: str) -> None:
    args = paper.parser().parse_args(["--executor", "emulated", "--seconds", "0.1", "--seeds", "0", "--as-published"])
    job = {**paper.job_of(args, "launch-bound", published, [400.0]), "patience_s": 0.5}
    (run,) = worker.work(job)["open"]
    assert 0 < run["answered"] < run["requests"], "what fills no batch is lost"


@pytest.mark.long
def test_it_runs_end_to_end_and_says_that_the_accelerator_is_emulated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "paper.json"
    command = ["--executor", "emulated", "--strategies", "unbatched,continuous", "--quick", "--shares", "0.5"]
    assert paper.main([*command, "--out", str(out)]) == 0
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert document == json.loads(out.read_text())
    assert document["emulated"] == ["accelerator: launch-bound, hypothetical profile"]
    (result,) = document["results"]
    assert result["unbatched_capacity_rps"] == pytest.approx(111, rel=0.15), "1 / (0.9 ms x 10), the mean of four tails"
    assert {run["answered"] for one in result["strategies"].values() for run in one["open"]} == {57}
    offered = {run["rate_rps"] for one in result["strategies"].values() for run in one["open"]}
    assert offered == set(result["rates_rps"]), "a point is named by the rate that was offered"
    assert result["strategies"]["continuous"]["memory"]["process_peak"] > 0
    names = sorted(path.name for path in tmp_path.glob("*.png"))
    assert names == [
        f"paper_launch-bound_{what}.png" for what in ("inference-time", "memory", "reduction", "utilisation")
    ]
