"""Device profiles: native (this host, as fast as it is), or emulated by absolute times per slice.

An emulated device really computes its head, so its activations are true, and then waits until the time that its profile
gives for those slices has passed. Times are absolute, not a factor: a factor would multiply this machine's contention.
They are drawn from the profile's spread by a seeded generator. What took longer on this host than was drawn is an
overrun, and is counted.

A profile file::

    name: small-board
    source: "measured on ..., date, command"      # or  hypothetical: true
    memory_budget_bytes: 512000000                # optional
    preprocess_ms: {mean: 2.0, std: 0.2}          # optional; without it preprocessing takes what it takes here
    slices_ms:                                    # one entry per slice of the model, batch 1
      - {mean: 12.0, std: 0.8}
      - {quantiles: {0.05: 11.0, 0.5: 12.0, 0.95: 15.5}}
    watts: 6.5                                    # optional: while it computes
    joules_per_mb: 1.2                            # optional: of what it sends

`headtail slice MODEL --profile FILE` measures one on the machine it runs on (`slicer.profiles.measure`).
"""

from __future__ import annotations

import itertools
import math
import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, model_validator

from slicer.common.validation import Strict, explain, nearest
from slicer.common.yaml_files import read_yaml
from slicer.core.common.error_text import shown
from slicer.errors import ConfigError

_SHIPPED = Path(__file__).parent / "shipped"


class Spread(Strict):
    """A duration in ms with its spread: `mean` and `std` (drawn log-normally, so never negative), or `quantiles`.

    Quantiles are drawn by linear interpolation between them, never outside of the lowest and the highest given.

    Attributes:
        mean: of the durations, in ms.
        std: their standard deviation, in ms.
        quantiles: ms by quantile, such as ``{0.05: 9.8, 0.5: 10.1, 0.95: 12.0}``; instead of mean and std.
    """

    mean: float | None = Field(default=None, gt=0)
    std: float | None = Field(default=None, ge=0)
    quantiles: dict[float, float] | None = None

    @model_validator(mode="after")
    def _one_form(self) -> Spread:
        if (self.quantiles is None) == (self.mean is None):
            raise ValueError("give mean and std, or quantiles, not both and not neither")
        if self.quantiles is None:
            if self.std is None:
                raise ValueError(f"mean {self.mean:g} has no std: a time without its spread is not a measurement")
            return self
        if self.std is not None:
            raise ValueError("std belongs to mean; quantiles hold their own spread")
        points = sorted(self.quantiles.items())
        if len(points) < 2 or any(not 0 <= q <= 1 or ms <= 0 for q, ms in points):
            raise ValueError(f"quantiles {self.quantiles}: at least two, between 0 and 1, of positive times")
        if any(b[1] < a[1] for a, b in itertools.pairwise(points)):
            raise ValueError(f"quantiles {self.quantiles}: a higher quantile cannot be a shorter time")
        return self

    @property
    def mean_ms(self) -> float:
        """Its expected value."""
        if self.mean is not None:
            return self.mean
        assert self.quantiles is not None, "checked on construction"
        inner = sorted(self.quantiles.items())
        points = [(0.0, inner[0][1]), *inner, (1.0, inner[-1][1])]
        return sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in itertools.pairwise(points))

    def draw_ms(self, rng: random.Random) -> float:
        """One duration; one or two numbers are taken from `rng`."""
        if self.quantiles is not None:
            return _interpolate(sorted(self.quantiles.items()), rng.random())
        assert self.mean is not None and self.std is not None, "checked on construction"
        # The log-normal law with this mean and standard deviation: positive, and skewed to the right as latencies are.
        variance = math.log1p((self.std / self.mean) ** 2)
        return rng.lognormvariate(math.log(self.mean) - variance / 2, math.sqrt(variance))


def _interpolate(points: Sequence[tuple[float, float]], quantile: float) -> float:
    low_q, low_ms = points[0]
    for high_q, high_ms in points:
        if quantile <= high_q:
            share = (quantile - low_q) / (high_q - low_q) if high_q > low_q else 1.0
            return low_ms + max(share, 0.0) * (high_ms - low_ms)
        low_q, low_ms = high_q, high_ms
    return low_ms


class Profile(Strict):
    """What a device is: `kind` native or emulated, and for an emulated one its times and their source.

    Attributes:
        name: stands in every result.
        kind: ``native`` or ``emulated``.
        model: the one model that the times were taken of; None: any with as many slices.
        source: where the times come from; exactly one of `source` and `hypothetical` for an emulated device.
        hypothetical: the times are made up.
        memory_budget_bytes: what head and largest activation may take together; None: no limit. May be native, too.
        preprocess_ms: time for decoding and preprocessing an image; None: what it takes on this host.
        slices_ms: per slice, batch 1; as many as the model has slices.
        batches_ms: the same for other batch sizes, where they were measured.
        slice_bytes: weights of each slice, as measured.
        activation_bytes: activations (fp32) at the cuts 0 to n, as measured.
        peak_memory_bytes: of the process that measured the times, the whole model loaded.
        watts: drawn while it computes, above idling; None: not known.
        joules_per_mb: to send 10^6 bytes; None: not known.
    """

    name: str = Field(min_length=1)
    kind: str = "emulated"
    model: str | None = None
    source: str = ""
    hypothetical: bool = False
    memory_budget_bytes: int | None = Field(default=None, gt=0)
    preprocess_ms: Spread | None = None
    slices_ms: tuple[Spread, ...] = ()
    batches_ms: dict[int, tuple[Spread, ...]] = Field(default_factory=dict)
    slice_bytes: tuple[int, ...] = ()
    activation_bytes: tuple[int, ...] = ()
    peak_memory_bytes: int | None = Field(default=None, gt=0)
    watts: float | None = Field(default=None, gt=0)
    joules_per_mb: float | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _no_contradiction(self) -> Profile:
        if self.kind not in ("native", "emulated"):
            raise ValueError(f"kind {self.kind!r}: a profile is native or emulated")
        if self.kind == "native":
            if self.slices_ms or self.preprocess_ms or self.hypothetical:
                raise ValueError(f"profile {self.name!r} is native, so it takes the time it takes; remove its times")
            return self
        if not self.slices_ms:
            raise ValueError(f"profile {self.name!r} is emulated, but has no slices_ms; give one time per slice")
        wrong = next((batch for batch, times in self.batches_ms.items() if len(times) != len(self.slices_ms)), None)
        if wrong is not None:
            raise ValueError(f"profile {self.name!r}: batches_ms {wrong} has another number of slices than slices_ms")
        if bool(self.source) == self.hypothetical:
            raise ValueError(f"profile {self.name!r}: say where the times come from (source), or `hypothetical: true`")
        return self

    @property
    def emulated(self) -> tuple[str, ...]:
        """Names of the emulated parts, for every result that they touch; empty for a native device."""
        if self.kind == "native":
            return ()
        return (f"emulated device {self.name}{' (hypothetical)' if self.hypothetical else ''}",)

    def check_model(self, model: str, num_slices: int, architecture: str = "") -> None:
        """Raise ConfigError unless the times fit a model of that name with so many slices.

        Args:
            architecture: what the server's file calls `model`; the times may name the model so, too, since
                ``headtail slice`` does.
        """
        if self.kind == "native":
            return
        if self.model is not None and self.model not in (model, architecture):
            raise ConfigError(
                f"profile {self.name!r} holds times of {self.model!r}, not of {model!r}; measure that model with "
                "headtail slice --profile, or use another profile"
            )
        if len(self.slices_ms) != num_slices:
            raise ConfigError(
                f"profile {self.name!r} has times for {len(self.slices_ms)} slices, but {model!r} has {num_slices}; "
                "use a profile made for this cut of the model"
            )

    def draw_ms(self, cut: int, rng: random.Random) -> float:
        """Time of slices 0:cut of one image, in ms, preprocessing left out. 0 for a native device."""
        return sum(spread.draw_ms(rng) for spread in self.slices_ms[:cut])


#: This host as it is.
NATIVE = Profile(name="native", kind="native")


def parse_profile(data: Any, where: str) -> Profile:
    """Check a mapping; `where` says in the error what was read.

    Raises:
        ConfigError: naming every wrong key.
    """
    if not isinstance(data, dict):
        raise ConfigError(f"{where}: a profile is a mapping of keys, got {type(data).__name__}")
    try:
        return Profile(**data)
    except (ValidationError, TypeError) as error:
        raise ConfigError(explain(error, where, Profile)) from None


def load_device_profile(name: str, beside: Path | None = None) -> Profile:
    """``native``, the name of a shipped profile, or a path to a YAML file (relative ones first to `beside`).

    Raises:
        ConfigError: there is no such profile, or it contradicts itself.
    """
    if name == "native":
        return NATIVE
    shipped = sorted(path.stem for path in _SHIPPED.glob("*.yaml"))
    candidates = [_SHIPPED / f"{name}.yaml"] if name in shipped else [(beside or Path()) / name, Path(name)]
    path = next((candidate for candidate in candidates if os.path.lexists(candidate)), None)
    if path is None:
        raise ConfigError(
            f"no profile {shown(repr(name))}{nearest(name, ['native', *shipped])}; there are native, "
            f"{', '.join(shipped)}, or give a path to a YAML file"
        )
    return parse_profile(read_yaml(path), str(path))
