"""When does batching across cuts pay? The curve in virtual time, and live points beside it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from actors.report.tables import Table
from headtail.demo.answer import Answer, about
from headtail.demo.load_curve import LIMIT_MS, SERIES, WAITS_S, Bench, Point
from headtail.demo.sender import Sent
from slicer.common.comparison import in_time, mean, percentile

QUESTION = "When does batching across cuts pay?"

#: Where strategies are compared in words: few requests, and many.
CALM_RPS, BUSY_RPS = 20, 200

#: Rates that are measured live, and by which series. Moderate ones: the devices share this machine with the server.
LIVE: Mapping[int, tuple[str, ...]] = {
    80: ("unbatched", "serve_batch", "per_tail_shared", "continuous"),
    BUSY_RPS: ("server-only", "per_tail_shared", "per_slice", "continuous"),
}

#: Length of a live point, seconds.
LIVE_S = 3.0

#: Parts of its rate at which a point is offered, one after another, until the generator is in time: a slow or busy
#: machine is asked for less. The last one stands, with its verdict.
SHARES = (1.0, 1.0, 0.5, 0.5, 0.25)

_WARM_UP = 0.1


@dataclass(frozen=True)
class Simulated:
    """The figures in virtual time.

    Attributes:
        curves, highest_rps: by series.
        tight_rps: the highest rate with deadlines of twice the model's time, by strategy.
        cpu_rps: the highest rate on the profile `cpu-like`, by strategy.
    """

    bench: Bench
    curves: Mapping[str, Sequence[Point]]
    highest_rps: Mapping[str, float]
    tight_rps: Mapping[str, float]
    cpu_rps: Mapping[str, float]

    def at(self, series: str, rate_rps: float) -> Point | None:
        """The curve's point at a rate of `RATES`; None: the series was given up before."""
        return next((point for point in self.curves[series] if point.rate_rps == rate_rps), None)


def simulate(bench: Bench, say: Callable[[str], None] = lambda _: None) -> Simulated:
    """Some 15 s of one core. `say` is told of each series that is done."""
    slo_s = 2e-3 * bench.whole_ms
    cpu = Bench("cpu-like", bench.entries, bench.requests, bench.seeds[:1])
    curves, highest = {}, {}
    for number, series in enumerate(SERIES, start=1):
        curves[series], highest[series] = bench.curve(series), bench.highest_rps(series)
        say(f"  virtual time: {series} ({number} of {len(SERIES)} curves)")
    return Simulated(
        bench,
        curves,
        highest,
        {name: bench.in_time_rps(name, slo_s) for name in ("per_slice", "continuous")},
        {name: cpu.highest_rps(name) for name in ("unbatched", "continuous")},
    )


@dataclass(frozen=True)
class LivePoint:
    """One series at one rate through Serve, on the client's clock, beside the same arrivals in virtual time.

    Attributes:
        server_mean_ms: on the server's clock, from a request's arrival there to its reply.
        lag_p99_ms: how late the generator sent; `valid`: it was in time (docs/measuring.md).
        lost: requests without an answer; `tries`: how often it was offered.
    """

    series: str
    rate_rps: int
    requests: int
    mean_ms: float
    p99_ms: float
    server_mean_ms: float
    simulated_mean_ms: float
    simulated_p99_ms: float
    lag_p99_ms: float
    valid: bool
    lost: int
    tries: int = 1

    @property
    def more_ms(self) -> float:
        """How far the live mean is above the simulated one."""
        return self.mean_ms - self.simulated_mean_ms


def judge(bench: Bench, series: str, rate_rps: int, seed: int, sent: Sequence[Sent], tries: int = 1) -> LivePoint:
    """The figures of one live point; the first tenth is not counted."""
    arrivals = bench.arrivals(series, rate_rps, seed, len(sent))
    skip = int(len(sent) * _WARM_UP)
    counted = sorted(sent, key=lambda one: one.due_s)[skip:]
    client_ms = [(one.done_s - one.due_s) * 1e3 for one in counted if one.done_s is not None]
    lag_ms = [(one.sent_s - one.due_s) * 1e3 for one in counted]
    simulated_ms = (bench.latencies_s(series, arrivals)[skip:] * 1e3).tolist()
    return LivePoint(
        series,
        rate_rps,
        len(counted),
        mean(client_ms) or 0.0,
        percentile(client_ms, 99) or 0.0,
        mean([one.in_server_ms for one in counted if one.in_server_ms is not None]) or 0.0,
        mean(simulated_ms) or 0.0,
        percentile(simulated_ms, 99) or 0.0,
        percentile(lag_ms, 99) or 0.0,
        in_time(lag_ms, client_ms),
        len(counted) - len(client_ms),
        tries,
    )


def requests_of(bench: Bench, series: str, rate_rps: int, seed: int) -> list[tuple[float, int]]:
    """(seconds from the start, entry) of a live point."""
    arrivals = bench.arrivals(series, rate_rps, seed, int(rate_rps * LIVE_S))
    return [(one.arrival_s, one.entry) for one in arrivals]


def answer(simulated: Simulated, live: Sequence[LivePoint]) -> Answer:
    """In words."""
    bench, highest, tight, cpu = simulated.bench, simulated.highest_rps, simulated.tight_rps, simulated.cpu_rps
    merging, tails = _kept(simulated, "continuous", BUSY_RPS), _kept(simulated, "per_tail_shared", BUSY_RPS)
    sentence = (
        f"When the accelerator is busy: at {BUSY_RPS} requests/s merging across entries (per_slice, continuous) "
        f"answers in {about(merging.mean_ms)} ms on average, a batch per tail in {about(tails.mean_ms)}. It keeps p99 "
        f"within {LIMIT_MS:g} ms up to {about(highest['continuous'])} requests/s, a batch per tail up to "
        f"{about(highest['per_tail_shared'])}, no batches up to {about(highest['unbatched'])}."
    )
    calm = [_kept(simulated, name, CALM_RPS).mean_ms for name in SERIES if name not in ("server-only", "serve_batch")]
    notes = (
        f"Emulated: one accelerator by the profile {bench.profile}, which is hypothetical (nobody measured it): a "
        f"block takes {bench.block_ms(1):.1f} ms with one row and with four {bench.block_ms(4):.1f}, "
        f"{bench.block_ms(bench.max_batch):.1f} ms with {bench.max_batch}. Cameras enter at blocks 0, 3, 6 and 9 of "
        f"12, equally often; server-only: all at 0. The whole model alone takes {bench.whole_ms:.1f} ms. What heads "
        "and links take is not in these times.",
        f"Where it does not pay: at {CALM_RPS} requests/s there is nothing to merge, and all of the engine's "
        f"strategies answer within {math.ceil(max(calm))} ms on average. And where two rows take twice the time of one "
        f"(profile cpu-like), unbatched keeps {about(cpu['unbatched'])} requests/s and continuous "
        f"{about(cpu['continuous'])}.",
        "The gain is merging across entries, which per_slice and continuous share. What continuous adds is deadlines: "
        f"where each request has {2 * bench.whole_ms:.0f} ms, twice the model's time, it keeps "
        f"{about(tight['continuous'])} requests/s, per_slice {about(tight['per_slice'])} (docs/strategies.md).",
        f"Splitting relieves the server: server-only, batched as well as can be, keeps "
        f"{about(highest['server-only'])} requests/s, since every request needs all 12 blocks there.",
        "The curve is the server's own scheduler in virtual time. serve_batch is a model of Ray Serve's batching "
        f"there, with the best batch_wait_timeout_s of {len(WAITS_S)}: {bench.serve_batch_wait_s * 1e3:g} ms.",
        *_agreement(live),
        *_late(live),
    )
    bad = tuple(f"{one.lost} requests of {one.series} at {one.rate_rps}/s had no answer" for one in live if one.lost)
    return Answer(
        "batching",
        QUESTION,
        sentence,
        (_table(simulated), _live_table(live)),
        notes,
        "Emulated accelerator, hypothetical profile. Lines: virtual time; dots: live through Ray Serve.",
        {
            "profile": bench.profile,
            "limit_p99_ms": LIMIT_MS,
            "curves": {s: [vars(point) for point in points] for s, points in simulated.curves.items()},
            "highest_rps": {s: round(rate, 1) for s, rate in highest.items()},
            "with_deadlines_rps": {s: round(rate, 1) for s, rate in simulated.tight_rps.items()},
            "cpu_like_rps": {s: round(rate, 1) for s, rate in simulated.cpu_rps.items()},
            "serve_batch_wait_ms": bench.serve_batch_wait_s * 1e3,
            "live": [vars(one) for one in live],
            "emulated": True,
        },
        bad,
    )


def _kept(simulated: Simulated, series: str, rate_rps: float) -> Point:
    point = simulated.at(series, rate_rps)
    assert point is not None, f"the demo's words need {series} at {rate_rps}/s"
    return point


def _table(simulated: Simulated) -> Table:
    shown = (CALM_RPS, 80, BUSY_RPS, 500)

    def cell(series: str, rate_rps: int) -> str:
        point = simulated.at(series, rate_rps)
        return "too much" if point is None or point.grew else f"{point.mean_ms:.0f} / {point.p99_ms:.0f}"

    rows = tuple(
        (series, *(cell(series, rate) for rate in shown), f"{about(simulated.highest_rps[series])}/s")
        for series in SERIES
    )
    header = ("strategy", *(f"{rate}/s" for rate in shown), f"keeps p99 within {LIMIT_MS:g} ms to")
    return Table("mean / p99 in ms over the offered rate; emulated, virtual time", header, rows)


def _live_table(live: Sequence[LivePoint]) -> Table:
    rows = tuple(
        (
            f"{one.series}, {one.rate_rps}/s",
            f"{one.simulated_mean_ms:.0f} / {one.simulated_p99_ms:.0f}",
            f"{one.mean_ms:.0f} / {one.p99_ms:.0f}",
            f"{one.more_ms:+.0f}",
            f"{one.server_mean_ms:.0f}",
            "yes" if one.valid else "INVALID",
        )
        for one in live
    )
    header = ("same arrivals", "virtual time", "live", "mean apart", "of it in the server", "generator in time")
    return Table("two rates live beside virtual time, mean / p99 in ms; emulated accelerator", header, rows)


def _late(live: Sequence[LivePoint]) -> tuple[str, ...]:
    """What this machine was too slow or too busy for. It says nothing against the curve, so the demo does not fail."""
    late = [one for one in live if not one.valid]
    if not late:
        return ()
    worst = max(late, key=lambda one: one.lag_p99_ms)
    return (
        f"INVALID, and not in the picture: {len(late)} of {len(live)} live points. The load generator was late itself "
        f"({worst.series} at {worst.rate_rps}/s: its lag's p99 of {worst.lag_p99_ms:.1f} ms is above 5 % of the p50), "
        f"{worst.tries} times of {worst.tries}. Use an idle machine.",
    )


def _agreement(live: Sequence[LivePoint]) -> tuple[str, ...]:
    """How far live and virtual points agree; rounded up, so that a machine's noise does not show in the words."""
    steady = [abs(one.more_ms) for one in live if one.series != "unbatched" and one.valid]
    if not steady:
        return ()
    bound = next((b for b in (10, 20, 50) if max(steady) <= b), None)
    if bound is None:
        return ("The live means are far above virtual time: this machine was busy with something else.",)
    return (
        f"The live means are within {bound} ms of virtual time (unbatched left out: near its limit a little more is "
        "much more). What they add is Ray Serve and Python, of server and devices on this one machine.",
    )
