"""The emulated accelerator: takes the time that a profile says, and computes nothing, or the true answers on the side.

Chosen by ``executor: emulated`` with ``executor_options: {profile: launch-bound}``; everything else of the server is
the real thing. Every result of it carries the word, through `Executor.emulated`.

`chain` is a model without weights worth mentioning, for servers that are measured and not asked::

    models: [{name: chain, model: "deployments.executors.emulated:chain", kwargs: {units: 12, img_size: 8, in_chans:
        1}}]
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TextIO

import numpy as np
import torch
from torch import Tensor, nn

from deployments.costs.cost_model import CostModel
from deployments.costs.profile_files import load_cost_profile
from deployments.executors.base import Executor, Floats, ReceivedBatch, Sliced
from deployments.executors.torch_executor import TorchExecutor
from deployments.scheduling.scheduler import Resident, Row, Step
from slicer.common.thread_timing import sleep_exactly
from slicer.errors import ConfigError

#: A step that took longer than planned by more than this share, and by more than the milliseconds, is an overrun.
OVERRUN_SHARE = 0.05
OVERRUN_MS = 0.1


@dataclass(frozen=True)
class Punctuality:
    """How well the emulated times were kept: steps, those that took too long, seconds planned and taken."""

    steps: int = 0
    overruns: int = 0
    planned_s: float = 0.0
    taken_s: float = 0.0
    worst_s: float = 0.0


@dataclass(frozen=True, slots=True)
class _Running:
    """A launched step, and when the emulated accelerator works on it."""

    step: Step
    began_s: float
    planned_s: float
    ended_s: float


class EmulatedExecutor(Executor):
    """Runs a step for as long as the profile's t_j(b) says, on this host's clock.

    Like a GPU it takes a step while another one runs (`launch`, `wait`), and then what the host does late delays no
    step that is enqueued already.

    The time is slept, except for the last stretch, which is spun so that the step ends when it should; a step is never
    shorter than planned. Steps that took too long, because the host was busy, are counted (`punctuality`).

    Args:
        device, threads: of the torch executor that computes true answers; unused with answers "none".
        profile: a shipped profile's name, or a file. Its slices are spread evenly over those of each model.
        seed: of the draws.
        spread: draw durations from the table's spread (lognormal, as the simulator does); else they are the means. A
            table without a spread gives the means in both cases.
        answers: ``none``: a row's answer is ``[first value it came with, its entry, slices it has passed]``.
            ``true``: torch computes the logits within the step's time, and overruns where the host is too slow.
        burn_launch_ms: per slice of the profile, so much of the time is spent computing on the host instead of
            sleeping, as a real accelerator's kernel launches are.
        spin_ms: length of the last stretch.
        record: a file. Each row adds the line ``row ARRIVAL ENTRY``, each step the line ``step BEGAN PLANNED TAKEN
            START END ROWS``. Times are seconds on the engine's clock, START and END slices of the model. None: none.
        clock, sleep: seconds; for tests.

    Raises:
        ConfigError: the profile cannot be read, or a value is out of range.
    """

    def __init__(
        self,
        device: str = "cpu",
        threads: int | None = None,
        *,
        profile: str,
        seed: int = 0,
        spread: bool = True,
        answers: Literal["none", "true"] = "none",
        burn_launch_ms: float = 0.0,
        spin_ms: float = 0.3,
        record: str | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if answers not in ("none", "true"):
            raise ConfigError(f"answers {answers!r} of the emulated executor: known are none and true")
        if not (burn_launch_ms >= 0 and spin_ms >= 0):
            raise ConfigError(f"burn_launch_ms {burn_launch_ms}, spin_ms {spin_ms}: milliseconds, 0 or more")
        self._profile = load_cost_profile(profile)
        self._random = random.Random(seed)
        self._spread = spread
        self._torch: Executor | None = TorchExecutor(device, threads) if answers == "true" else None
        self._burn_launch_s, self._spin_s = burn_launch_ms / 1e3, spin_ms / 1e3
        self._record: TextIO | None = Path(record).open("a", encoding="ascii") if record else None  # noqa: SIM115
        self._clock, self._sleep = clock, sleep
        self._costs: dict[str, CostModel] = {}
        self._rows: dict[int, tuple[float, int]] = {}  # key -> (first value, slices passed)
        self._free_s = 0.0  # when the emulated accelerator has done all that was launched
        self.punctuality = Punctuality()
        self.name = "emulated"
        kind = "hypothetical" if self._profile.source.hypothetical else "measured"
        self.emulated = f"accelerator: {self._profile.name or profile}, {kind} profile"

    def load(self, model: str, sliced: Sliced, residents: Mapping[str, Resident]) -> None:
        """Lay the profile's slices over the model's.

        Raises:
            ConfigError: the model's slices do not divide the profile's evenly.
        """
        slices, blocks = sliced.num_slices, self._profile.num_slices
        if blocks % slices:
            raise ConfigError(
                f"profile {self._profile.name!r} has {blocks} slices, model {model!r} {slices}: they must divide evenly"
            )
        self._costs[model] = self._profile.regroup(range(0, blocks + 1, blocks // slices))
        if self._torch is not None:
            self._torch.load(model, sliced, residents)

    def put(self, model: str, rows: Sequence[Row], batch: ReceivedBatch) -> None:
        """Take new rows in; this costs no emulated time."""
        if self._torch is not None:
            self._torch.put(model, rows, batch)
        firsts = batch.reshape(len(rows), -1)[:, 0].tolist()
        self._rows.update((row.key, (first, row.entry)) for row, first in zip(rows, firsts, strict=True))
        if self._record is not None:
            self._record.writelines(f"row {row.arrival_s!r} {row.entry}\n" for row in rows)
            self._record.flush()

    def run(self, step: Step) -> float:
        """Take the step's time, host and accelerator one after the other; returns the seconds that it took.

        Raises:
            RuntimeError: a row is not at the step's start: a mistake of the strategy.
        """
        began_s = self._clock()
        planned_s = self._host_part(step, began_s)
        self._wait_until(began_s + planned_s)
        taken_s = self._clock() - began_s
        self._note(step, began_s, planned_s, taken_s)
        return taken_s

    def flush(self) -> None:
        """Rows are moved when they are put."""

    def launch(self, step: Step) -> _Running:
        """Enqueue a step: it begins when those before it have ended, whatever the host does meanwhile.

        Raises:
            RuntimeError: a row is not at the step's start: a mistake of the strategy.
        """
        now_s = self._clock()
        planned_s = self._host_part(step, now_s)
        began_s = max(now_s, self._free_s)
        # What the host still did when the accelerator could have ended is an overrun: true answers that took too long.
        self._free_s = max(began_s + planned_s, self._clock())
        return _Running(step, began_s, planned_s, self._free_s)

    def wait(self, ticket: _Running) -> float:
        """Sleep until a launched step has ended; returns how long the accelerator worked on it."""
        self._wait_until(ticket.ended_s)
        taken_s = ticket.ended_s - ticket.began_s
        self._note(ticket.step, ticket.began_s, ticket.planned_s, taken_s)
        return taken_s

    def _host_part(self, step: Step, began_s: float) -> float:
        """What the host does for a step; returns how long the accelerator works on it."""
        astray = next((row for row in step.rows if self._rows[row.key][1] != step.start), None)
        if astray is not None:
            passed = self._rows[astray.key][1]
            raise RuntimeError(f"row {astray.key} has passed {passed} slices and cannot run {step.start}:{step.end}")
        planned_s = self._planned_s(step)
        if self._torch is not None:
            self._torch.run(step)
        blocks = (step.end - step.start) * self._profile.num_slices // self._costs[step.model].num_slices
        self._burn(min(began_s + self._burn_launch_s * blocks, began_s + planned_s))
        self._rows.update((row.key, (self._rows[row.key][0], step.end)) for row in step.rows)
        return planned_s

    def take(self, rows: Sequence[Row]) -> Floats:
        """The rows' answers; the rows are forgotten."""
        if self._torch is None:
            answers = np.array([(self._rows[r.key][0], r.entry, self._rows[r.key][1]) for r in rows], np.float32)
        else:
            answers = self._torch.take(rows)
        for row in rows:
            self._rows.pop(row.key, None)
        return answers

    def drop(self, row: Row) -> None:
        """Forget a row."""
        self._rows.pop(row.key, None)
        if self._torch is not None:
            self._torch.drop(row)

    def memory(self) -> dict[str, int]:
        """Bytes on the host; an emulated accelerator has no memory of its own."""
        if self._torch is not None:
            return self._torch.memory()
        return {"weights": 0, "activations": 0, "process": 0}

    def _planned_s(self, step: Step) -> float:
        costs, rows = self._costs[step.model], len(step.rows)
        mean_s = costs.span_s(step.start, step.end, rows)
        relative = costs.spread(step.start, step.end, rows) if self._spread else 0.0
        if not relative:
            return mean_s
        sigma = math.sqrt(math.log1p(relative**2))
        return mean_s * math.exp(self._random.gauss(-sigma * sigma / 2, sigma))

    def _burn(self, until_s: float) -> None:
        while self._burn_launch_s and self._clock() < until_s:
            pass

    def _wait_until(self, until_s: float) -> None:
        sleep_exactly()
        left_s = until_s - self._clock() - self._spin_s
        if left_s > 0:
            self._sleep(left_s)
        while self._clock() < until_s:
            self._sleep(0.0)  # lets the replica's event loop have the interpreter, unlike an empty loop

    def _note(self, step: Step, began_s: float, planned_s: float, taken_s: float) -> None:
        over_s, was = taken_s - planned_s, self.punctuality
        self.punctuality = Punctuality(
            steps=was.steps + 1,
            overruns=was.overruns + (over_s > max(OVERRUN_SHARE * planned_s, OVERRUN_MS / 1e3)),
            planned_s=was.planned_s + planned_s,
            taken_s=was.taken_s + taken_s,
            worst_s=max(was.worst_s, over_s),
        )
        if self._record is not None:
            self._record.write(f"step {began_s!r} {planned_s!r} {taken_s!r} {step.start} {step.end} {len(step.rows)}\n")
            self._record.flush()


class Chain(nn.Module):
    """(B, in_chans, img_size, img_size) -> the same: linear units one after another, close to the identity."""

    def __init__(self, units: int, img_size: int, in_chans: int) -> None:
        super().__init__()
        self.input_shape = (in_chans, img_size, img_size)
        self.units = nn.ModuleList(nn.Linear(img_size, img_size) for _ in range(units))
        with torch.no_grad():
            for unit in self.units:
                unit.weight.mul_(0.01).add_(torch.eye(img_size))  # type: ignore[operator]

    def forward(self, x: Tensor) -> Tensor:
        """All units."""
        for unit in self.units:
            x = unit(x)
        return x


def chain(units: int = 12, img_size: int = 8, in_chans: int = 1) -> Chain:
    """A tiny model that can be cut after each of its units, all alike; its activations have the input's shape.

    Raises:
        ValueError: a size is below 1.
    """
    if min(units, img_size, in_chans) < 1:
        raise ValueError(f"units {units}, img_size {img_size}, in_chans {in_chans}: each must be 1 or more")
    return Chain(units, img_size, in_chans)
