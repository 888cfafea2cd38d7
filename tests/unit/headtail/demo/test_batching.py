"""The second question: live points beside virtual time, and the words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from headtail.demo.batching import LivePoint, Simulated, answer, judge, requests_of
from headtail.demo.load_curve import SERIES, Bench, Point
from headtail.demo.sender import Sent

BENCH = Bench(requests=500, seeds=(0,))

LIVE = LivePoint("continuous", 200, 540, 18.0, 33.0, 16.0, 15.0, 29.0, 0.5, valid=True, lost=0)


@pytest.fixture(scope="module")
def simulated() -> Simulated:
    rates = (20, 80, 200, 500)
    return Simulated(
        BENCH,
        {series: [Point(rate, 10 + k, 30, grew=False) for rate in rates] for k, series in enumerate(SERIES)},
        {series: 100.0 * (k + 1) for k, series in enumerate(SERIES)},
        {"per_slice": 47.0, "continuous": 198.0},
        {"unbatched": 97.0, "continuous": 97.0},
    )


def sent(seconds: Callable[[int], float], lag_s: float = 0.0) -> list[Sent]:
    requests = requests_of(BENCH, "continuous", 80, 0)
    return [Sent(due, due + lag_s, entry, due + seconds(number), 10.0) for number, (due, entry) in enumerate(requests)]


def test_a_live_point_counts_from_the_moment_that_was_due_on_the_clients_clock() -> None:
    point = judge(BENCH, "continuous", 80, 0, sent(lambda _: 0.020, lag_s=0.0005))
    assert point.mean_ms == pytest.approx(20.0)
    assert point.lag_p99_ms == pytest.approx(0.5)
    assert point.valid and point.lost == 0
    assert point.more_ms == pytest.approx(20.0 - point.simulated_mean_ms)


def test_a_generator_later_than_a_twentieth_of_the_median_makes_the_point_invalid() -> None:
    assert not judge(BENCH, "continuous", 80, 0, sent(lambda _: 0.020, lag_s=0.0011)).valid


def test_a_request_without_an_answer_is_lost_not_fast() -> None:
    answers = sent(lambda _: 0.020)
    answers[-1] = replace(answers[-1], done_s=None)
    assert judge(BENCH, "continuous", 80, 0, answers).lost == 1


def test_the_words_follow_from_the_figures(simulated: Simulated) -> None:
    found = answer(simulated, [LIVE])
    assert "answers in 15 ms on average, a batch per tail in 13" in found.sentence
    assert "up to 600 requests/s, a batch per tail up to 400, no batches up to 200" in found.sentence
    assert any("it keeps 200 requests/s, per_slice 47" in note for note in found.notes)
    assert any("there is nothing to merge" in note for note in found.notes)
    assert not found.bad


def test_what_is_emulated_is_told_first(simulated: Simulated) -> None:
    assert answer(simulated, [LIVE]).notes[0].startswith("Emulated: one accelerator by the profile launch-bound")


def test_noise_of_a_machine_does_not_move_the_words(simulated: Simulated) -> None:
    quiet, noisy = replace(LIVE, mean_ms=17.0), replace(LIVE, mean_ms=22.0)
    assert answer(simulated, [quiet]).notes == answer(simulated, [noisy]).notes
    assert answer(simulated, [replace(LIVE, mean_ms=26.0)]).notes != answer(simulated, [noisy]).notes


def test_a_lost_request_fails_the_demo_and_an_invalid_point_is_told(simulated: Simulated) -> None:
    late = replace(LIVE, valid=False, lag_p99_ms=2.0, tries=4)
    found = answer(simulated, [LIVE, late])
    assert not found.bad
    [words] = [note for note in found.notes if note.startswith("INVALID, and not in the picture: 1 of 2")]
    assert "continuous at 200/s" in words and "4 times of 4" in words
    assert "2 requests of continuous at 200/s had no answer" in answer(simulated, [replace(LIVE, lost=2)]).bad[0]
