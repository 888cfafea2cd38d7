"""The strategies on hand-worked cases: which rows run next, over which span, with which weights.

Rows are written as (entry, arrival_s) and get their keys in the order of submission.
"""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

from deployments.scheduling import registry, simple
from deployments.scheduling.queue_policy import QueuePolicy
from deployments.scheduling.registry import POLICIES, SHIPPED, Strategy, find_strategy, make_policy
from deployments.scheduling.scheduler import Resident, Row, Scheduler
from deployments.scheduling.simple import ORDERS, PerSlice
from slicer.errors import ConfigError
from tests.paths import ROOT


def policy_of(strategy: str, max_batch: int = 3, **options: object) -> Scheduler:
    policy = make_policy(strategy, model="vit", num_slices=4, max_batch=max_batch, options=options)
    return Scheduler({"vit": policy})


def add(scheduler: Scheduler, *rows: tuple[int, float]) -> None:
    for entry, arrival_s in rows:
        key = scheduler.waiting
        scheduler.add(Row(key, "vit", entry, arrival_s))


def run_all(scheduler: Scheduler) -> list[tuple[str, int, int, list[int]]]:
    """(weights, start, end, keys) of every step until nothing waits."""
    steps = []
    while (step := scheduler.next(0.0)) is not None:
        steps.append((step.weights, step.start, step.end, [row.key for row in step.rows]))
        scheduler.finish(step, 0.0)
    assert scheduler.waiting == 0
    return steps


def test_unbatched_runs_one_tail_at_a_time_oldest_first() -> None:
    scheduler = policy_of("unbatched")
    add(scheduler, (2, 0.3), (0, 0.1), (2, 0.2))
    assert run_all(scheduler) == [
        ("shared", 0, 4, [1]),  # arrived at 0.1
        ("shared", 2, 4, [2]),  # arrived at 0.2, same entry as row 0 and not batched with it
        ("shared", 2, 4, [0]),
    ]


def test_per_tail_batches_one_entry_and_the_queue_with_the_oldest_row_goes() -> None:
    scheduler = policy_of("per_tail")
    add(scheduler, (0, 0.2), (1, 0.1), (0, 0.3), (1, 0.5), (0, 0.4), (0, 0.6))
    assert run_all(scheduler) == [
        ("tail1", 1, 4, [1, 3]),  # row 1 is the oldest; row 3 entered where it did, so it goes along
        ("tail0", 0, 4, [0, 2, 4]),  # three rows are the limit
        ("tail0", 0, 4, [5]),
    ]


def test_per_tail_shared_takes_the_same_steps_with_one_copy_of_the_weights() -> None:
    steps = {}
    for strategy in ("per_tail", "per_tail_shared"):
        scheduler = policy_of(strategy)
        add(scheduler, (0, 0.2), (1, 0.1), (0, 0.3), (1, 0.5), (3, 0.0))
        steps[strategy] = run_all(scheduler)
    assert [step[1:] for step in steps["per_tail"]] == [step[1:] for step in steps["per_tail_shared"]]
    assert {step[0] for step in steps["per_tail"]} == {"tail0", "tail1", "tail3"}
    assert {step[0] for step in steps["per_tail_shared"]} == {"shared"}


def test_per_slice_merges_rows_that_entered_at_different_cuts() -> None:
    scheduler = policy_of("per_slice")
    add(scheduler, (0, 0.1), (1, 0.2), (2, 0.3), (0, 0.4))
    assert run_all(scheduler) == [
        ("shared", 0, 1, [0, 3]),  # row 0 is the oldest; row 3 waits for the same slice
        ("shared", 1, 2, [0, 1, 3]),  # they meet row 1, which entered at 1; in order of arrival
        ("shared", 2, 3, [0, 1, 2]),  # four rows wait for slice 2; the limit is three, so the youngest stays
        ("shared", 3, 4, [0, 1, 2]),  # row 0 is still the oldest
        ("shared", 2, 3, [3]),
        ("shared", 3, 4, [3]),
    ]


def test_between_two_slices_an_older_row_passes_a_younger_one_that_entered_there() -> None:
    scheduler = policy_of("per_slice", max_batch=1)
    add(scheduler, (2, 0.1), (3, 0.2))
    first = scheduler.next(0.0)
    assert first is not None and [row.key for row in first.rows] == [0]
    scheduler.finish(first, 0.0)
    second = scheduler.next(0.0)
    assert second is not None and [row.key for row in second.rows] == [0]
    # Row 1 joined slice 3's queue first, but row 0 arrived at the server first.


@pytest.mark.parametrize(
    ("order", "slices"),
    [
        ("oldest", [1, 2, 3, 0, 1, 2, 3]),  # row 1 to its end, then row 0
        ("deepest", [1, 2, 3, 0, 1, 2, 3]),  # the same: whoever is ahead gets further ahead
        ("shallowest", [0, 1, 2, 3]),  # row 0 catches up with row 1, then they go on together
    ],
)
def test_the_order_of_per_slice_says_which_queue_goes(order: str, slices: list[int]) -> None:
    scheduler = policy_of("per_slice", order=order)
    add(scheduler, (0, 0.2), (1, 0.1))
    assert [start for _, start, _, _ in run_all(scheduler)] == slices


def test_oldest_first_is_not_deepest_first() -> None:
    first = {}
    for order in ORDERS:
        scheduler = policy_of("per_slice", order=order)
        add(scheduler, (0, 0.4), (1, 0.1), (2, 0.5), (2, 0.6), (3, 0.3))
        step = scheduler.next(0.0)
        assert step is not None
        first[order] = [row.key for row in step.rows]
    assert first == {
        "oldest": [1],  # arrived at 0.1
        "deepest": [4],  # waits for the last slice
        "shallowest": [0],  # waits for the first one
        "fullest": [2, 3],  # the only queue with two rows
    }


def test_of_equally_full_queues_the_deepest_goes() -> None:
    scheduler = policy_of("per_slice", order="fullest")
    add(scheduler, (0, 0.1), (2, 0.2))
    step = scheduler.next(0.0)
    assert step is not None and step.start == 2


def test_a_batch_is_what_waits_when_the_accelerator_is_free() -> None:
    scheduler = policy_of("per_tail", max_batch=8)
    add(scheduler, (0, 0.1))
    first = scheduler.next(0.1)
    assert first is not None and len(first.rows) == 1  # nobody else waits, and nobody is waited for
    for key in (1, 2, 3):
        scheduler.add(Row(key, "vit", 0, 0.2))  # these arrive while it runs
    scheduler.finish(first, 0.3)
    second = scheduler.next(0.3)
    assert second is not None and [row.key for row in second.rows] == [1, 2, 3]


def test_rows_that_arrived_together_go_in_the_order_of_submission() -> None:
    scheduler = policy_of("per_slice", max_batch=2)
    add(scheduler, (0, 0.1), (0, 0.1), (0, 0.1))
    step = scheduler.next(0.2)
    assert step is not None and [row.key for row in step.rows] == [0, 1]


def test_residents() -> None:
    wanted = {
        "unbatched": {"shared": Resident(1, 4, own_copy=False)},
        "per_tail": {"tail1": Resident(1, 4, own_copy=True), "tail3": Resident(3, 4, own_copy=True)},
        "per_tail_shared": {"shared": Resident(1, 4, own_copy=False)},
        "per_slice": {"shared": Resident(1, 4, own_copy=False)},
        "continuous": {"shared": Resident(1, 4, own_copy=False)},
        "lazy": {"shared": Resident(1, 4, own_copy=False)},
    }
    assert set(wanted) == set(POLICIES)
    for strategy, residents in wanted.items():
        policy = make_policy(strategy, model="vit", num_slices=4)
        assert policy.residents((1, 3)) == residents


@pytest.mark.parametrize("strategy", POLICIES)
def test_urgency_is_the_earliest_deadline_or_the_longest_wait(strategy: str) -> None:
    policy = make_policy(strategy, model="vit", num_slices=4, max_wait_s=2.0)
    assert policy.urgency_s() is None
    policy.add(Row(0, "vit", 0, arrival_s=1.0))
    assert policy.urgency_s() == 3.0
    policy.add(Row(1, "vit", 1, arrival_s=1.5, deadline_s=1.75))
    assert policy.urgency_s() == 1.75


@pytest.mark.parametrize("strategy", POLICIES)
def test_a_removed_row_does_not_run(strategy: str) -> None:
    scheduler = policy_of(strategy)
    add(scheduler, (0, 0.1), (0, 0.2), (2, 0.3))
    assert scheduler.remove(1) is not None
    assert scheduler.remove(1) is None
    assert 1 not in [key for *_, keys in run_all(scheduler) for key in keys]


def test_names_and_values_that_are_wrong_are_refused_with_the_remedy() -> None:
    with pytest.raises(ConfigError, match=r"'per_head': known are unbatched, per_tail, per_tail_shared, per_slice"):
        make_policy("per_head", model="vit", num_slices=4)
    with pytest.raises(ConfigError, match=r"order 'random' of vit: per_slice knows oldest, deepest"):
        policy_of("per_slice", order="random")
    with pytest.raises(ConfigError, match=r"'per_tail' with options \{'order': 'oldest'\}: .*order"):
        policy_of("per_tail", order="oldest")
    with pytest.raises(ConfigError, match=r"max_batch 0 of vit"):
        policy_of("per_tail", max_batch=0)
    with pytest.raises(ConfigError, match=r"max_wait_s nan of vit"):
        make_policy("per_tail", model="vit", num_slices=4, max_wait_s=float("nan"))
    with pytest.raises(ConfigError, match=r"no_such_module"):
        make_policy("no_such_module:Policy", model="vit", num_slices=4)


def test_an_own_policy_is_called_with_the_same_arguments() -> None:
    policy = make_policy(f"{__name__}:Own", model="vit", num_slices=4, max_batch=5, options={"spice": 2})
    assert isinstance(policy, Own) and (policy.max_batch, policy.spice) == (5, 2)


class Own(PerSlice):
    def __init__(self, *, spice: int, **arguments: object) -> None:
        QueuePolicy.__init__(self, **arguments)  # type: ignore[arg-type]
        self.order, self.spice = "oldest", spice


def test_every_order_is_named_in_the_documentation_of_per_slice() -> None:
    for order in ORDERS:
        assert f"``{order}``" in (PerSlice.__doc__ or "")


@pytest.mark.parametrize("strategy", SHIPPED.values(), ids=SHIPPED)
def test_a_shipped_strategy_is_described_and_its_class_is_where_the_registry_says(strategy: Strategy) -> None:
    assert strategy.summary and strategy.when
    assert callable(strategy.made_by)
    assert strategy.needs_costs == (strategy.name in {"continuous", "lazy"})


def test_a_strategy_that_drives_the_accelerator_itself_has_no_policy() -> None:
    (alone,) = set(SHIPPED) - set(POLICIES)
    with pytest.raises(ConfigError, match=f"'{alone}': known are unbatched"):
        make_policy(alone, model="vit", num_slices=4)


def test_an_own_strategy_is_imported_and_its_arguments_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[object] = []
    whole = inspect.signature
    monkeypatch.setattr(inspect, "signature", lambda made_by: (read.append(made_by), whole(made_by))[1])
    strategy = find_strategy(f"{__name__}:Own")
    assert not strategy.needs_costs
    strategy.policy(model="vit", num_slices=4, options={"spice": 2})
    assert read == [Own]


def test_the_names_of_the_strategies_are_known_without_torch_and_ray() -> None:
    code = "import sys, deployments.config; print(sorted({'torch', 'ray', 'timm'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("name", ["ORDERS", "PerSlice", "PerTail", "PerTailShared", "QueuePolicy", "Unbatched"])
def test_the_classes_are_still_found_where_they_were(name: str) -> None:
    assert getattr(registry, name) is getattr(simple, name)
