"""`engine_cost.py`: what it compares is the same work, at the load that it says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks.serving.engine_cost import Worker, load_for
from tests.paths import ROOT

CASE: dict[str, Any] = {"strategy": "continuous", "boundaries": 4, "together": False, "requests": 300}


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    worker = Worker(ROOT)
    yield worker
    worker.close()


@pytest.mark.parametrize("engine", ["pipelined", "plain"])
@pytest.mark.parametrize("together", [False, True])
def test_a_load_gives_the_rows_per_step_that_are_asked_for(worker: Worker, engine: str, together: bool) -> None:
    case = {**CASE, "engine": engine, "together": together}
    found = worker.ask({**case, "load": load_for(worker, case, rows=4.0)})
    assert found["us"] > 0
    assert found["rows_per_step"] == pytest.approx(4.0, rel=0.2)
    assert found["launches"] * found["rows_per_step"] == pytest.approx(found["steps_per_request"] * CASE["requests"])


def test_a_digest_tells_the_same_steps_from_others(worker: Worker) -> None:
    case = {**CASE, "engine": "pipelined", "load": 0.5}
    first, again = (worker.ask(case, log=True)["digest"] for _ in range(2))
    other = worker.ask({**case, "strategy": "per_slice", "load": 0.6}, log=True)["digest"]
    assert first == again != other
