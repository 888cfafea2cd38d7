"""The example of an own strategy: loaded by name from outside the packages, and what it decides."""

from __future__ import annotations

from typing import Any

import pytest

from deployments.config import ModelConfig
from deployments.engine.engine import Engine, Outcome
from deployments.scheduling.registry import make_policy
from deployments.scheduling.scheduler import Resident, Scheduler
from deployments.testing.fakes import FakeClock, FakeExecutor, answer_of, rows_at
from slicer.errors import ConfigError
from tests.paths import ROOT

EXAMPLES = ROOT / "examples"


@pytest.fixture(autouse=True)
def examples_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))  # what PYTHONPATH=examples does


def policy_of(**options: Any) -> Any:
    return make_policy("own_strategy:FullestTail", model="vit", num_slices=4, max_batch=3, options=options)


def test_it_runs_in_the_engine_like_any_other() -> None:
    clock = FakeClock()
    executor = FakeExecutor(clock, lambda step: 0.04)
    outcomes: list[Outcome] = []
    engine = Engine(Scheduler({"vit": policy_of(patience_s=0.1)}), executor, outcomes.extend, clock=clock)
    names: dict[int, tuple[float, int]] = {}
    for entry, *rows in ([2, 20.0], [0, 1.0, 2.0, 3.0, 4.0], [1, 10.0, 11.0]):
        keys = engine.submit("vit", int(entry), rows_at(*rows), [clock.now_s] * len(rows), [None] * len(rows))
        names.update((key, (name, int(entry))) for key, name in zip(keys, rows, strict=True))
    while engine.step_once():
        pass
    assert executor.batches == [
        (0, 4, 3),  # four rows wait at entry 0, and three are the limit
        (1, 4, 2),  # two wait at entry 1; one each at 0 and 2
        (2, 4, 1),  # one each: the older one
        (0, 4, 1),
    ]
    assert {o.key: o.logits.tolist() for o in outcomes if o.logits is not None} == {
        key: answer_of(name, entry, 4) for key, (name, entry) in names.items()
    }


def test_who_has_waited_long_enough_goes_before_a_fuller_queue() -> None:
    clock = FakeClock()
    executor = FakeExecutor(clock, lambda step: 0.04)
    engine = Engine(Scheduler({"vit": policy_of(patience_s=0.05)}), executor, lambda ended: None, clock=clock)
    engine.submit("vit", 2, rows_at(20), [0.0], [None])
    engine.submit("vit", 0, rows_at(*range(9)), [0.01] * 9, [None] * 9)
    while engine.step_once():
        pass
    # At 0.00 and 0.04 entry 0 is fuller; at 0.08 the row at entry 2 has waited for more than 0.05 s.
    assert executor.batches == [(0, 4, 3), (0, 4, 3), (2, 4, 1), (0, 4, 3)]


def test_it_shares_one_copy_of_the_weights() -> None:
    assert policy_of().residents((1, 3)) == {"shared": Resident(1, 4, own_copy=False)}


def test_its_options_are_checked_like_any_others() -> None:
    with pytest.raises(ConfigError, match="patience_s -1"):
        policy_of(patience_s=-1)
    with pytest.raises(ConfigError, match=r"own_strategy:FullestTail.*haste"):
        policy_of(haste=1)
    with pytest.raises(ConfigError, match="own_strategy has no EmptiestTail"):
        make_policy("own_strategy:EmptiestTail", model="vit", num_slices=4)


def test_the_configuration_takes_it() -> None:
    model = ModelConfig(name="digits_vit", strategy="own_strategy:FullestTail", options={"patience_s": 0.05})
    assert model.strategy == "own_strategy:FullestTail"
