"""The applications of the demo: what is configured, and at which rates they are asked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from deployments.config import parse_config
from deployments.costs.profile_files import load_cost_profile
from headtail.demo import batching, live, run
from headtail.demo.load_curve import SERIES, Bench
from headtail.demo.sender import Sent


def test_each_strategy_has_a_copy_of_the_real_model_and_each_series_one_of_the_emulated(tmp_path: Path) -> None:
    configs = live.configs(Bench(), tmp_path / "costs.yaml")
    checked = [parse_config(config) for config in configs.values()]
    real = [model for config in checked if config.executor == "torch" for model in config.models]
    emulated = [model for config in checked if config.executor == "emulated" for model in config.models]
    assert {model.strategy for model in real} == set(live.STRATEGIES)
    assert {model.name for model in emulated} == {live.model_of(series) for series in SERIES}
    assert {model.source for model in real} == {"digits_vit"}


def test_serve_batch_waits_live_as_long_as_in_virtual_time(tmp_path: Path) -> None:
    configs = live.configs(Bench(serve_batch_wait_s=0.03), tmp_path / "costs.yaml")
    assert parse_config(configs["demo-emulated-serve-batch"]).serve_batch_wait_timeout_s == 0.03


def test_strategies_that_decide_by_costs_are_given_the_curves_table(tmp_path: Path) -> None:
    bench = Bench()
    table = live.write_table(bench.costs, tmp_path)
    assert load_cost_profile(table).tails(8) == bench.costs.tails(8)
    engine = parse_config(live.configs(bench, table)["demo-emulated-engine"])
    assert {model.name for model in engine.models if model.profile} == {"continuous", "server_only"}


def test_a_machine_that_is_too_slow_is_asked_for_less(monkeypatch: pytest.MonkeyPatch) -> None:
    offered: list[int] = []

    class Running:
        def offer(self, series: str, requests: Sequence[tuple[float, int]]) -> list[Sent]:
            rate = round(len(requests) / batching.LIVE_S)
            offered.append(rate)
            lag_s = 0.0 if rate < 80 else 0.5
            return [Sent(at_s, at_s + lag_s, entry, at_s + lag_s + 0.02, 15.0) for at_s, entry in requests]

    monkeypatch.setattr(batching, "LIVE", {80: ("continuous",)})
    (point,) = run._live_points(Running(), Bench(), lambda line: None, 0)  # type: ignore[arg-type]
    assert offered == [80, 80, 40]
    assert point.valid and (point.rate_rps, point.tries) == (40, 3)
