"""Ray Serve's batching in virtual time: who shares a batch, and when its answer comes."""

from __future__ import annotations

import pytest

from deployments.costs.profile_files import load_cost_profile
from deployments.simulation.simulator import Arrival
from headtail.demo.serve_batch_model import Batch, batches, latencies_s

COSTS = load_cost_profile("launch-bound").regroup([0, 3, 6, 9, 12])  # a slice: 3.6 ms with one to four rows


def arrivals(*pairs: tuple[float, int]) -> list[Arrival]:
    return [Arrival(ms / 1e3, entry) for ms, entry in pairs]


def test_a_batch_waits_from_its_first_request_on_and_closes_whether_the_accelerator_is_free_or_not() -> None:
    found = batches(arrivals((0, 0), (9, 0), (11, 0)), entry=0, max_batch=32, wait_s=0.01)
    assert found == [Batch(0, 0.01, (0, 1)), Batch(0, pytest.approx(0.021), (2,))]


def test_a_full_batch_does_not_wait() -> None:
    assert batches(arrivals((0, 0), (1, 0)), entry=0, max_batch=2, wait_s=0.01) == [Batch(0, 0.001, (0, 1))]


def test_requests_of_different_entries_never_share_a_batch() -> None:
    both = arrivals((0, 0), (1, 3))
    assert [batches(both, entry, 32, 0.01)[0].rows for entry in (0, 3)] == [(0,), (1,)]


def test_a_lone_request_waits_in_vain_and_then_runs_its_tail() -> None:
    [latency_s] = latencies_s(arrivals((0, 3)), COSTS, max_batch=32, wait_s=0.01)
    assert latency_s == pytest.approx(0.01 + 0.0036)


def test_tails_take_turns_on_the_one_accelerator() -> None:
    first_s, second_s = latencies_s(arrivals((0, 0), (0, 3)), COSTS, max_batch=32, wait_s=0.01)
    assert first_s == pytest.approx(0.01 + 0.0144)
    assert second_s == pytest.approx(0.01 + 0.0144 + 0.0036)


def test_under_load_small_batches_queue_behind_each_other() -> None:
    # One request each 11 ms: a batch of one closes each 11 ms, and takes 14.4.
    late = latencies_s(arrivals(*((11.0 * k, 0) for k in range(20))), COSTS, max_batch=32, wait_s=0.01)
    assert late[-1] == pytest.approx(0.0244 + 19 * 0.0034)
