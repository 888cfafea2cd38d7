"""When does splitting pay? The planner's arithmetic over devices, links and server loads; nothing is executed.

All boards are made up, links are presets, the server is an emulated accelerator; every figure here is emulated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from actors.report.tables import Table
from deployments.simulation.simulator import Setup, Simulation
from deployments.simulation.workloads import Workload
from headtail.demo.answer import Answer
from headtail.demo.load_curve import Bench
from slicer.core.planning.cut_planner import (
    Choice,
    DeviceView,
    Estimate,
    Goal,
    LinkView,
    ModelFacts,
    ServerView,
    choose,
    estimate_all,
)
from slicer.core.planning.link_presets import PRESETS
from slicer.profiles.device_profile import load_device_profile

QUESTION = "When does splitting pay?"

#: DeiT-S at 224 px in four slices of three blocks: shapes at the cuts (timm's own), and 88 MB of weights.
FACTS = ModelFacts(
    shapes=((3, 224, 224), (197, 384), (197, 384), (197, 384), (1000,)),
    slice_bytes=(22_500_000, 21_300_000, 21_300_000, 22_900_000),
    entries=(0, 1, 2, 3),
    codecs=("fp32", "fp16", "bf16", "int8", "int4", "rgb8", "jpeg"),
    channel_axes=(0, 1, 1, 1, 0),
)

#: A JPEG of 224 px at quality 90; 20 to 40 kB are usual. The camera makes it, the server decodes it.
JPEG_BYTES = 30_000.0

#: Codecs whose top-1 agrees less with fp32 than JPEG's 0.98 are not taken, so that both sides may lose as much.
AGREEMENT = 0.98

#: The answer that is good enough, for the second goal.
DEADLINE_MS = 250.0

LINKS = ("wired", "wifi", "lte", "slow-4g")
LOADS = (0.0, 0.8, 0.95)

Verdict = Literal["split", "server-only", "device-only", "impossible"]


@dataclass(frozen=True)
class Board:
    """A device and its camera. `whole_ms`: the model on it, alone; `rate_rps`: images per second."""

    name: str
    whole_ms: float
    rate_rps: float

    def view(self) -> DeviceView:
        """For the planner: a camera that ticks."""
        return DeviceView(
            slices_ms=(self.whole_ms / 4,) * 4,
            preprocess_ms=0.05 * self.whole_ms,
            rate_rps=self.rate_rps,
            burst=0.0,
            image_bytes={"jpeg": JPEG_BYTES},
        )


def boards() -> tuple[Board, ...]:
    """The two shipped profiles, one at two rates, and a quick board; all made up."""
    slow, fast = (
        sum(spread.mean_ms for spread in load_device_profile(name).slices_ms) for name in ("slow-board", "fast-board")
    )
    return (
        Board("slow-board", slow, 2.0),
        Board("fast-board", fast, 4.0),
        Board("fast-board", fast, 12.0),
        Board("quick board", 32.0, 40.0),
    )


@dataclass(frozen=True)
class Cell:
    """One device on one link beside one load of the server.

    Attributes:
        best: the lowest inference time; `enough`: within DEADLINE_MS, the least of the server's time. None: nothing is
            possible. server_only, device_only: beside them; refused where `refused` of them says why.
    """

    board: Board
    link: str
    load: float
    best: Estimate | None
    enough: Estimate | None
    server_only: Estimate
    device_only: Estimate

    @property
    def verdict(self) -> Verdict:
        """Of the lowest inference time."""
        return verdict_of(self.best)

    @property
    def saved_ms(self) -> float:
        """What a split saves over the better of the two others, where one of them is possible; else 0."""
        others = [one.total_ms for one in (self.server_only, self.device_only) if not one.refused]
        return min(others) - self.best.total_ms if self.best is not None and others else 0.0


def verdict_of(estimate: Estimate | None) -> Verdict:
    """What a choice is: cut 0 is no split, nor is the last one."""
    if estimate is None:
        return "impossible"
    if estimate.choice.cut == 0:
        return "server-only"
    return "device-only" if estimate.choice.cut == FACTS.num_slices else "split"


def server_view(bench: Bench, load: float, seed: int = 0) -> ServerView:
    """What the server would report at a load: the mean wait per entry by `continuous`, in virtual time.

    Args:
        load: offered by other cameras, as a share of the accelerator's bound.
    """
    costs = bench.costs
    execution_ms = {entry: costs.span_s(entry, costs.num_slices, 1) * 1e3 for entry in bench.entries}
    if not load:
        return ServerView(dict.fromkeys(bench.entries, 0.0), execution_ms)
    arrivals = Workload(bench.entries, 20_000, seed=seed).arrivals(load * bench.bound_rps)
    latency_ms = Simulation(Setup(costs, "continuous", max_batch=bench.max_batch)).run(arrivals).latency_s * 1e3
    entry_of = np.array([one.entry for one in arrivals])
    wait_ms = {e: max(float(latency_ms[entry_of == e].mean()) - execution_ms[e], 0.0) for e in bench.entries}
    return ServerView(wait_ms, execution_ms)


def cells() -> list[Cell]:
    """All of them, by board, load and link."""
    bench = Bench("edge-gpu")
    servers = {load: server_view(bench, load) for load in LOADS}
    return [cell(board, link, load, servers[load]) for board in boards() for load in LOADS for link in LINKS]


def cell(board: Board, link: str, load: float, server: ServerView) -> Cell:
    """The planner's choices for one."""
    preset = PRESETS[link]
    view = LinkView(preset.mbit_per_s / 8 * 1e6, 2 * (preset.delay_ms + preset.jitter_ms))
    fastest, enough = Goal(agreement=AGREEMENT), Goal(agreement=AGREEMENT, deadline_ms=DEADLINE_MS)
    all_of_them = estimate_all(FACTS, board.view(), view, server, fastest)
    by_choice = {one.choice: one for one in all_of_them}
    return Cell(
        board,
        link,
        load,
        choose(all_of_them, fastest),
        choose(all_of_them, enough),
        by_choice[Choice(0, "jpeg")],
        by_choice[Choice(FACTS.num_slices, "fp32")],
    )


def answer(found: Sequence[Cell]) -> Answer:
    """In words."""
    split = [one for one in found if one.verdict == "split"]
    relieved = [one for one in found if verdict_of(one.enough) == "split"]
    verdicts = Counter(one.verdict for one in found)
    sentence = (
        f"Seldom for speed alone: the planner splits in {len(split)} of {len(found)} cases, {_which(split)}. "
        f"Where {DEADLINE_MS:g} ms are good enough it splits in {len(relieved)}, which leaves the server "
        f"{_share_left(relieved):.0%} of the work there."
    )
    slow, fast = boards()[:2]
    return Answer(
        "splitting",
        QUESTION,
        sentence,
        (_table(found),),
        (
            "Emulated: nothing runs here, it is the planner's arithmetic. DeiT-S at 224 px in 4 slices; an activation "
            f"is {FACTS.encoded_bytes(Choice(1, 'int8')) / 1e3:.0f} kB as int8, a JPEG {JPEG_BYTES / 1e3:.0f} kB. Made "
            f"up: the boards (slow-board {slow.whole_ms:.0f} ms, fast-board {fast.whole_ms:.0f}, quick board 32 for "
            "the whole model) and the server (profile edge-gpu). Links are presets of a kind, not yours.",
            f"Do not split: in {verdicts['server-only']} cases the JPEG to the server is fastest, in "
            f"{verdicts['device-only']} the device alone; in {verdicts['impossible']} nothing keeps up. A ViT's "
            "activation has one size at every block, larger than a JPEG, so a split costs the link more.",
            f"Both sides may lose as much: codecs below a top-1 agreement of {AGREEMENT}, JPEG's, are not taken. "
            "Decoding a JPEG on the server is not counted.",
        ),
        "Planner arithmetic, emulated. Made-up boards and server, link presets.",
        {
            "model": "deit_small_patch16_224",
            "jpeg_bytes": JPEG_BYTES,
            "agreement": AGREEMENT,
            "deadline_ms": DEADLINE_MS,
            "cells": [_document(one) for one in found],
            "emulated": True,
        },
    )


def _which(split: Sequence[Cell]) -> str:
    """What the cases in which a split is fastest have in common."""
    loads = " or ".join(f"{load:.0%}" for load in sorted({one.load for one in split}))
    boards = ", all with a board that does not keep up alone" if all(one.device_only.refused for one in split) else ""
    return f"where the server's load is {loads} of its bound{boards}" if split else "never"


def _share_left(found: Sequence[Cell]) -> float:
    """Mean of execution on the server over server-only's."""
    shares = [one.enough.execution_ms / one.server_only.execution_ms for one in found if one.enough is not None]
    return sum(shares) / len(shares) if shares else 1.0


def short(estimate: Estimate | None) -> str:
    """A choice in a few letters: ``cut 2 int8 69``."""
    verdict = verdict_of(estimate)
    if estimate is None:
        return "none"
    if verdict == "split":
        return f"cut {estimate.choice.cut} {estimate.choice.codec} {estimate.total_ms:.0f}"
    return f"{'server' if verdict == 'server-only' else 'device'} {estimate.total_ms:.0f}"


def _table(found: Sequence[Cell]) -> Table:
    rows = []
    for at in range(0, len(found), len(LINKS)):
        row = found[at : at + len(LINKS)]
        board, alone = row[0].board, row[0].device_only
        device = "-" if alone.refused else f"{alone.total_ms:.0f}"
        cells = []
        for one in row:
            beside = "-" if one.server_only.refused else f"{one.server_only.total_ms:.0f}"
            cells.append(short(one.best) + ("" if one.verdict == "server-only" else f" ({beside})"))
        rows.append((f"{board.name}, {board.rate_rps:g}/s", f"{row[0].load:.0%}", device, *cells))
    header = ("board, images", "load", "alone", *LINKS)
    return Table(
        "fastest choice, ms (server-only by JPEG); load: the server's; alone: device-only; -: does not keep up",
        header,
        tuple(rows),
    )


def _document(one: Cell) -> dict[str, object]:
    def choice(estimate: Estimate | None) -> dict[str, object] | None:
        if estimate is None:
            return None
        return {
            "cut": estimate.choice.cut,
            "codec": estimate.choice.codec,
            "total_ms": round(estimate.total_ms, 1),
            "payload_bytes": estimate.payload_bytes,
            "refused": estimate.refused,
        }

    return {
        "board": one.board.name,
        "rate_rps": one.board.rate_rps,
        "link": one.link,
        "load": one.load,
        "verdict": one.verdict,
        "best": choice(one.best),
        "within_deadline": choice(one.enough),
        "server_only": choice(one.server_only),
        "device_only": choice(one.device_only),
    }
