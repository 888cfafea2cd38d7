"""How long calls take: each of many, as they are made; or one, again and again."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch


@dataclass
class Times:
    """Of calls of one kind."""

    taken_s: list[float] = field(default_factory=list)

    def of(self, call: Callable[..., Any], *args: Any) -> Any:
        """Make a call, and give what it gives."""
        began_s = time.perf_counter()
        answer = call(*args)
        self.taken_s.append(time.perf_counter() - began_s)
        return answer

    @property
    def ms(self) -> float:
        """The median."""
        return float(np.median(self.taken_s)) * 1e3


@dataclass(frozen=True)
class Clock:
    """Times one call.

    Attributes:
        threads: of torch, while it is timed; else it has its own number.
        repeats: after one call to warm up.
    """

    threads: int = 1
    repeats: int = 10

    def ms(self, call: Callable[[], object]) -> float:
        """The median."""
        times, others = Times(), torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            call()
            for _ in range(self.repeats):
                times.of(call)
        finally:
            torch.set_num_threads(others)
        return times.ms
