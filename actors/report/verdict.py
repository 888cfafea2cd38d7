"""The answer in words: which strategy was best for this load, by how much, beside which, and whether to trust it.

Judged is the mean inference time, by ratios that are paired over the seeds. Only strategies with sound runs take part
(valid, no growing queue) that answered about as many requests as the one that answered most: who refuses is not fast.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from actors.report import statistics as stats
from actors.report.result import Result, ratios, sound
from slicer.common.comparison import Ratio

#: A strategy is not judged by its times if its share of answered requests is so much below the largest.
FEWER = 0.01

#: Without an interval, since there is one seed, means that differ by less count as level.
LEVEL = 0.05

#: An interval that holds 1 around a ratio that differs from it by more says that there are too few seeds, not that
#: two strategies are level.
UNCLEAR = 0.1


@dataclass(frozen=True)
class Verdict:
    """What a report begins with, in sentences.

    Attributes:
        headline: the answer, without a full stop.
        lines: by how much, and beside which.
        trust: whether to believe it, and why not.
        best: the strategies that are best and level with each other; empty where none can be judged.
    """

    headline: str
    lines: tuple[str, ...]
    trust: str
    best: tuple[str, ...]


def verdict(result: Result) -> Verdict:
    """The verdict on a job."""
    judged = _judged(result)
    if not judged:
        return Verdict("No strategy can be judged at this load", _left_out(result, ()), _trust(result, ()), ())
    first, *others = judged
    against = {name: ratios(result, name, first)["mean_ms"] for name in others}
    level = [name for name in others if (ratio := against[name]) is not None and _level(ratio)]
    best = (first, *level)
    if len(result.strategies) == 1:
        headline = f"{first} was measured alone"
    elif not others:
        headline = f"Only {first} can be judged at this load"
    elif not level:
        headline = f"{first} was best for this load"
    elif len(best) == len(result.strategies):
        headline = "The strategies are level at this load"
    elif len(best) > 2:
        headline = f"{len(best)} of {len(result.strategies)} strategies are level, and best for this load"
    else:
        headline = f"{_and(best)} were best for this load, and level with each other"
    lines = [_figures(result, first)]
    if len(best) > 2:
        lines.insert(0, f"These runs show no difference between {_and(best)}.")
    if result.baseline in judged and result.baseline != first and not (len(best) > 2 and result.baseline in level):
        lines.append(_against(result, first, result.baseline))
    following = next((name for name in others if name not in level and name != result.baseline), None)
    if following is not None and (ratio := against[following]) is not None:
        unsure = ", too few seeds to be sure of it" if _unclear(ratio) else ""
        lines.append(f"Next came {following}: its mean is {_times(ratio)} that of {first}{unsure}.")
    return Verdict(headline, (*lines, *_left_out(result, judged)), _trust(result, best), best)


def _judged(result: Result) -> list[str]:
    """The strategies that can be compared, the one with the smallest mean first."""
    shares = {}
    for name in result.strategies:
        summary = stats.summarise_runs(result.of(name))
        shares[name] = summary.answered / summary.requests if summary.requests else 0.0
    means = {}
    for name, share in shares.items():
        mean_ms = stats.summarise_runs(sound(result, name)).mean_ms
        if mean_ms is not None and not stats.mostly_unstable(result.of(name)) and share >= max(shares.values()) - FEWER:
            means[name] = mean_ms
    if not means:
        return []
    # By the ratio to one of them, paired: seeds that only one of two has must not decide.
    anchor = min(means, key=means.__getitem__)
    found = {name: ratios(result, name, anchor)["mean_ms"] for name in means}
    return sorted(
        (name for name in means if name == anchor or found[name] is not None),
        key=lambda name: 1.0 if (ratio := found[name]) is None or name == anchor else ratio.ratio,
    )


def _level(ratio: Ratio) -> bool:
    if ratio.low is None or ratio.high is None:
        return abs(ratio.ratio - 1) < LEVEL
    return ratio.low <= 1 <= ratio.high and abs(ratio.ratio - 1) <= UNCLEAR


def _unclear(ratio: Ratio) -> bool:
    """Whether the seeds are too few to tell, although the means differ."""
    return ratio.low is not None and ratio.high is not None and ratio.low <= 1 <= ratio.high and not _level(ratio)


def _figures(result: Result, name: str) -> str:
    summary = stats.summarise_runs(sound(result, name))
    valid = "" if len(sound(result, name)) == len(result.of(name)) else " in its valid runs"
    return (
        f"{name} answered {summary.answered} of {summary.requests} images{valid}, in {summary.mean_ms:.1f} ms on "
        f"average, half of them within {summary.p50_ms:.1f} ms and 99 of 100 within {summary.p99_ms:.1f} ms."
    )


def _against(result: Result, name: str, other: str) -> str:
    found = ratios(result, name, other)
    mean, p99 = found["mean_ms"], found["p99_ms"]
    if mean is None:
        return f"With {other} it cannot be compared: no seed has a sound run of both."
    text = f"Beside {other} its mean is {_times(mean)}"
    if p99 is not None:
        text += f", its p99 {_times(p99)}"
    if _level(mean):
        return f"{text}: no difference that these runs can show."
    if _unclear(mean):
        return f"{text}: too few seeds to be sure of it."
    return f"{text}: {abs(1 - mean.ratio):.0%} {'less' if mean.ratio < 1 else 'more'} time."


def _times(ratio: Ratio) -> str:
    if ratio.low is None or ratio.high is None:
        return f"{ratio.ratio:.2f} times"
    return f"{ratio.ratio:.2f} times ({ratio.low:.2f} to {ratio.high:.2f})"


def _left_out(result: Result, judged: Sequence[str]) -> tuple[str, ...]:
    """Why the others are not compared."""
    lines = []
    for name in result.strategies:
        runs = result.of(name)
        summary = stats.summarise_runs(runs)
        if name in judged:
            continue
        if not summary.answered:
            why = "it answered nothing"
        elif stats.mostly_unstable(runs):
            why = "its queue grew all through the run, so this load is more than it can serve"
        elif not sound(result, name):
            why = "none of its runs is valid"
        else:
            why = f"it answered only {summary.answered} of {summary.requests}"
        lines.append(f"{name} is not compared: {why}.")
    return tuple(lines)


def _trust(result: Result, best: Sequence[str]) -> str:
    grave, light = [], []
    if result.failures:
        grave.append("not all runs could be measured to their end")
    invalid = sum(stats.invalid_reason(run) is not None for run in result.runs)
    if invalid:
        grave.append(f"{invalid} of {len(result.runs)} runs are invalid (the remarks say why)")
    answers = [r for run in result.runs for r in run.measured if r.outcome == "answered"]
    compared = [r for r in answers if r.top1 is not None and r.reference_top1 is not None]
    other = sum(r.top1 != r.reference_top1 for r in compared)
    if other:
        light.append(f"{other} of {len(compared)} answers are not the unsliced model's")
    grew = [name for name in result.strategies if any(map(stats.is_unstable, result.of(name)))]
    if grew:
        light.append(f"the queue of {_and(grew)} grew in some runs, which are left out")
    seeds = len({run.seed for run in result.runs})
    if seeds == 1 and len(result.strategies) > 1:
        light.append("one seed gives no interval, so small differences may be chance: --seeds 5 would tell")
    summary = stats.summarise_runs([run for name in best for run in result.of(name)])
    if best and summary.answered < (1 - FEWER) * summary.requests:
        light.append(f"{summary.requests - summary.answered} of {summary.requests} images had no answer")
    if grave:
        text = f"Not to be published as it is: {_and([*grave, *light])}."
    elif light:
        text = f"To be read with care: {_and(light)}."
    else:
        runs = len(result.runs)
        text = f"It can be trusted: {f'all {runs} runs are' if runs > 1 else 'the run is'} valid"
        text += ", and every answer is the unsliced model's." if compared else "."
    if result.emulated:
        text += " Parts were emulated, so these are figures of a model of them."
    return text


def _and(parts: Sequence[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
