"""The answer in words: who was best, by how much, beside which, and whether to trust it."""

from __future__ import annotations

from collections.abc import Callable

from actors.report.result import Result
from actors.report.statistics import StrategyRun
from actors.report.verdict import verdict
from slicer.core.records.record import Record
from tests.unit.actors.report.test_result import record, result, steady

Records = Callable[[int], tuple[Record, ...]]


def job(seeds: int = 3, emulated: tuple[str, ...] = (), failures: tuple[str, ...] = (), **of: Records) -> Result:
    """Each strategy's records by seed."""
    return result(
        *(
            StrategyRun(name, seed, "open", 0.0, 10.0, records(seed))
            for seed in range(seeds)
            for name, records in of.items()
        ),
        emulated=emulated,
        failures=failures,
    )


def times(factor: float, spread: float = 0.0) -> Records:
    """About 55 ms times `factor`; `spread` moves it up and down from seed to seed."""
    return lambda seed: steady(factor * (1 + spread * (-1) ** seed), seed)


def growing(seed: int) -> tuple[Record, ...]:
    return tuple(record(t / 10, 20 + 10 * t) for t in range(100))


def test_the_best_is_named_with_its_gain_beside_the_baseline_and_the_next() -> None:
    said = verdict(job(unbatched=times(1), per_slice=times(0.5), lazy=times(0.6)))
    assert said.headline == "per_slice was best for this load" and said.best == ("per_slice",)
    assert said.lines[0].startswith("per_slice answered 300 of 300 images, in 27.")
    assert said.lines[1] == (
        "Beside unbatched its mean is 0.50 times (0.50 to 0.50), its p99 0.50 times (0.50 to 0.50): 50% less time."
    )
    assert said.lines[2] == "Next came lazy: its mean is 1.20 times (1.20 to 1.20) that of per_slice."
    assert said.trust == "It can be trusted: all 9 runs are valid, and every answer is the unsliced model's."


def test_strategies_whose_interval_holds_1_are_level() -> None:
    said = verdict(job(unbatched=times(1), per_slice=times(0.5), continuous=times(0.501, spread=0.05)))
    assert said.best == ("per_slice", "continuous") or said.best == ("continuous", "per_slice")
    assert said.headline.endswith("were best for this load, and level with each other")


def test_when_all_are_level_no_one_is_best() -> None:
    said = verdict(job(unbatched=times(1), per_slice=times(1, spread=0.1)))
    assert said.headline == "The strategies are level at this load"
    assert any("no difference that these runs can show" in line for line in said.lines) or said.best[0] == "unbatched"


def test_the_baseline_itself_may_be_best() -> None:
    said = verdict(job(unbatched=times(1), per_slice=times(1.5)))
    assert said.headline == "unbatched was best for this load"
    assert said.lines[1] == "Next came per_slice: its mean is 1.50 times (1.50 to 1.50) that of unbatched."


def test_who_refuses_is_not_fast() -> None:
    def refuses(seed: int) -> tuple[Record, ...]:
        missed = {"outcome": "refused", "inference_ms": None, "finished_s": None}
        return tuple(record(t / 10, 5.0, **({} if t % 2 else missed)) for t in range(100))

    said = verdict(job(unbatched=times(1), per_slice=refuses))
    assert said.best == ("unbatched",)
    assert "per_slice is not compared: it answered only 150 of 300." in said.lines


def test_a_growing_queue_has_no_time_to_compare() -> None:
    said = verdict(job(unbatched=growing, per_slice=times(1)))
    assert said.headline == "Only per_slice can be judged at this load"
    assert said.lines[-1] == (
        "unbatched is not compared: its queue grew all through the run, so this load is more than it can serve."
    )
    assert verdict(job(unbatched=growing)).headline == "No strategy can be judged at this load"


def test_invalid_and_failed_runs_are_not_to_be_published() -> None:
    late = tuple(record(t / 10, 50.0, generator_lag_ms=40.0) for t in range(100))
    said = verdict(job(failures=("per_slice, seed 9: gone",), unbatched=times(1), per_slice=lambda seed: late))
    assert said.trust.startswith("Not to be published as it is: ")
    assert "not all runs could be measured to their end and 3 of 6 runs are invalid" in said.trust
    assert "per_slice is not compared: none of its runs is valid." in said.lines


def test_one_seed_other_answers_and_emulated_parts_are_said() -> None:
    other = tuple(record(t / 10, 50.0, top1=3) for t in range(100))
    said = verdict(job(seeds=1, emulated=("emulated link x",), unbatched=lambda seed: other, per_slice=times(2)))
    assert "100 of 200 answers are not the unsliced model's" in said.trust
    assert "one seed gives no interval" in said.trust
    assert said.trust.endswith("Parts were emulated, so these are figures of a model of them.")


def test_one_strategy_alone_is_described_not_praised() -> None:
    said = verdict(job(seeds=1, per_slice=times(1)))
    assert said.headline == "per_slice was measured alone"
    assert said.trust == "It can be trusted: the run is valid, and every answer is the unsliced model's."


def test_many_level_ones_are_counted_in_the_headline_and_named_below() -> None:
    level = {name: times(1, spread=0.1) for name in ("per_slice", "continuous", "lazy")}
    said = verdict(job(unbatched=times(2), **level))
    assert said.headline == "3 of 4 strategies are level, and best for this load"
    assert said.lines[0].startswith("These runs show no difference between ") and "lazy" in said.lines[0]
    assert said.lines[2].startswith("Beside unbatched its mean is 0.5"), "the baseline is not among them"


def test_figures_of_some_runs_only_say_so() -> None:
    late = tuple(record(t / 10, 50.0, generator_lag_ms=40.0) for t in range(100))
    said = verdict(job(unbatched=times(2), per_slice=lambda seed: steady(1, seed) if seed else late))
    assert said.lines[0].startswith("per_slice answered 200 of 200 images in its valid runs, in 55.")


def test_a_large_difference_that_few_seeds_cannot_prove_is_neither_level_nor_sure() -> None:
    said = verdict(job(seeds=2, unbatched=lambda seed: steady(4 if seed else 40, seed), per_slice=times(1)))
    assert said.headline == "per_slice was best for this load"
    assert said.lines[1].startswith("Beside unbatched its mean is 0.08 times (0.00 to ")
    assert said.lines[1].endswith(": too few seeds to be sure of it.")


def test_runs_that_a_growing_queue_leaves_out_are_said() -> None:
    said = verdict(job(unbatched=lambda seed: steady(1, seed) if seed else growing(seed), per_slice=times(1)))
    assert said.trust.startswith("To be read with care: the queue of unbatched grew in some runs, which are left out")
