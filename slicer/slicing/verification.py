"""Run a model whole and in slices, and refuse it unless its slices are the model and each row is its own.

Inputs of unlike kinds stand in one batch, as rows of strangers do on a server. Nothing that a model does by its input's
content can differ between inputs once `Watch` has seen it run, so a few runs say much:

* whole and slices, bit for bit, on a row alone and on a batch;
* a row beside other rows than before, at the same place of a batch of the same size: bit for bit as before, also beside
  a row of NaN, which hardly any arithmetic that mixes rows can hide;
* a row alone and the same row in a batch, which other kernels compute: up to rounding.

Where the last two fail, float64 decides whether it is rounding.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch

from slicer.errors import NotSliceable
from slicer.models.outputs import own_forward
from slicer.slicing.sliced_model import SlicedModel
from slicer.tracing.data_watch import DataUse, Watch, data_use
from slicer.tracing.module_state import changed, fingerprint, kept_values
from slicer.tracing.tensors import named_tensors

Verify = bool | Literal["quick"]

#: Between a row alone and in a batch, so much is only rounding, in units of the dtype's eps; above, float64 decides.
_ROUNDING = 64
#: Relative difference between a row alone and in a batch that is allowed where float64 cannot decide.
_UNDECIDED = {torch.float32: 1e-4, torch.float16: 0.1, torch.bfloat16: 0.5}


def example_rows(shape: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """One input of each kind, float32: blank, noise, and one like a camera's image.

    The last has the statistics of natural images, values from 0 to 255, and areas that are all dark or saturated.
    """
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(shape, generator=generator)
    natural = _natural(torch.randn(shape, generator=generator))
    return {"blank": torch.zeros(shape), "camera": (natural * 383 - 64).clamp(0, 255), "noise": noise}


def _natural(noise: torch.Tensor) -> torch.Tensor:
    """Noise with the amplitude spectrum of natural images, 1/f, from 0 to 1."""
    axes = tuple(range(max(noise.ndim - 2, 0), noise.ndim))
    square = torch.zeros(())
    for axis in axes:
        frequency = torch.fft.fftfreq(noise.shape[axis])
        square = square.unsqueeze(-1) + frequency**2
    spectrum = torch.fft.fftn(noise, dim=axes) / square.clamp(min=1.0 / noise.numel() ** 2).sqrt()
    image: torch.Tensor = torch.fft.ifftn(spectrum, dim=axes).real
    return (image - image.min()) / (image.max() - image.min()).clamp(min=1e-6)


def verify(sliced: SlicedModel, quick: bool = False) -> None:
    """Refuse `sliced` unless it is exact and its rows are independent; `quick` looks at one image beside a row of NaN.

    Raises:
        NotSliceable: says what differs, and by how much.
    """
    device = next((tensor.device for tensor in named_tensors(sliced.module).values()), torch.device("cpu"))
    rows = {kind: row.to(device, sliced.input_dtype) for kind, row in example_rows(sliced.input_shape).items()}
    with torch.no_grad():
        runs = _Runs(sliced)
        if len(sliced.outputs) > 1:
            runs.check_own_result(rows["noise"][None])
        if quick:
            runs.check_beside_nan(rows)
        else:
            runs.check(rows)


class _Runs:
    """The runs of one verification, in turn: state that one leaves behind shows in the next."""

    def __init__(self, sliced: SlicedModel) -> None:
        self.sliced = sliced
        self.name = type(sliced.module).__name__
        self.watch = Watch(sliced.module)
        self.spans = [sliced.span(index, index + 1) for index in range(sliced.num_slices)]

    def check_own_result(self, x: torch.Tensor) -> None:
        """With further outputs the model's own result must stay what it is without them."""
        own = own_forward(self.sliced.module, x)
        if not _equal(own.flatten(1), self.whole(x)[:, : self.sliced.outputs[0].size]):
            raise NotSliceable(
                f"{self.name} cannot give further outputs: its forward_head(forward_features(x)) is another result "
                "than its forward(x); leave outputs out"
            )

    def check_beside_nan(self, rows: Mapping[str, torch.Tensor]) -> None:
        batch = torch.stack([rows["noise"], torch.full_like(rows["noise"], math.nan)])
        together = self.whole(batch)
        self.must_equal(together, self.in_slices(batch)[-1])
        if not together[0].isfinite().all():
            self.check(rows)

    def check(self, rows: Mapping[str, torch.Tensor]) -> None:
        # `camera` has the same place beside other rows; `blank` has another place, first and last.
        alone = rows["noise"][None]
        first = torch.stack([rows["blank"], rows["camera"], rows["noise"]])
        second = torch.stack([torch.full_like(alone[0], math.nan), rows["camera"], rows["blank"]])

        beside_nan = self.whole(second)
        before = fingerprint(self.sliced.module)
        result = self.whole(alone)
        self.must_keep_nothing(alone, before)
        one = self.in_slices(alone)
        self.must_equal(result, one[-1])
        parts = self.in_slices(first)
        together = parts[-1]
        moved = _difference(beside_nan[2:], together[:1])
        difference = max(_difference(part[2:], single) for part, single in zip(parts, one, strict=True))
        rounding = min(_ROUNDING * torch.finfo(self.sliced.input_dtype).eps, 0.1)
        if not _equal(beside_nan[1:2], together[1:2]):
            self.must_equal(self.whole(first), together)
        elif max(moved, difference) <= rounding:
            return
        second[0] = -100 * rows["noise"]  # some kernels (FFT of real numbers) let NaN out, and only NaN
        self.must_be_rounding(max(rounding, difference), first, second, alone)

    def whole(self, x: torch.Tensor) -> torch.Tensor:
        """The module's own result for `x`; NotSliceable if it reads data or keeps it."""
        module = self.sliced.module
        try:
            result = self.watch.run(x)
        except DataUse as error:
            raise NotSliceable(data_use(module, str(error))) from error
        except Exception as error:
            raise NotSliceable(
                f"{self.name} cannot be sliced: it fails on {len(x)} images with {type(error).__name__}: {error}"
            ) from error
        for path, value in kept_values(module):
            if isinstance(value, torch.Tensor) and self.watch.is_data(value):
                raise NotSliceable(
                    data_use(self.sliced.module, f"its {path} keeps what depends on the content of an input")
                )
        expected = (len(x), *self.sliced.shape_at(self.sliced.num_slices))
        if not isinstance(result, torch.Tensor) or tuple(result.shape) != expected:
            said = tuple(result.shape) if isinstance(result, torch.Tensor) else type(result).__name__
            raise NotSliceable(f"{self.name} cannot be sliced: for {len(x)} images it returns {said}, not {expected}")
        return result

    def in_slices(self, x: torch.Tensor) -> list[torch.Tensor]:
        """`x` and what leaves each slice."""
        crossings = [x]
        try:
            for span in self.spans:
                crossings.append(span(crossings[-1]))
        except Exception as error:
            raise NotSliceable(
                f"{self.name} cannot be sliced: its slices failed on {len(x)} images with "
                f"{type(error).__name__}: {error}"
            ) from error
        return crossings

    def must_equal(self, whole: torch.Tensor, parts: torch.Tensor) -> None:
        if not _equal(whole, parts):
            raise NotSliceable(
                f"{self.name} cannot be sliced: its slices, run one after another, give another result than the model; "
                "does its forward draw random numbers or keep state?"
            )

    def must_keep_nothing(self, x: torch.Tensor, before: dict[str, Any]) -> None:
        """Whatever a call for a new batch size changed, the next call for that size must leave as it is."""
        after = fingerprint(self.sliced.module)
        if changed(before, after):
            self.whole(x)
            if again := changed(after, fingerprint(self.sliced.module)):
                raise NotSliceable(data_use(self.sliced.module, f"every call changes its {again[0]}"))

    def must_be_rounding(self, difference: float, *batches: torch.Tensor) -> None:
        """Raise NotSliceable if rows of `batches`, those of `check` but finite, differ by more than rounding.

        `difference` is between a row alone and in a batch, relative to its size, in the model's own dtype.
        """
        own = lowest = self.sliced.input_dtype
        try:
            found, lowest = self.difference_in_float64(*batches)
        except Exception:  # memory, operators without float64, modules that cannot be copied
            found = self.difference_of(self.in_slices, *batches)
        if torch.finfo(lowest).eps < torch.finfo(own).eps:
            limit = 1e3 * difference * torch.finfo(lowest).eps / torch.finfo(own).eps
        else:
            limit = _UNDECIDED.get(lowest, 1e-4)
        if not found <= limit:
            raise NotSliceable(
                f"{self.name} cannot be sliced: its rows depend on the rest of their batch (the result for one image "
                f"differs by {found:.2g} of its size when other images share its batch). The server batches images of "
                "strangers; use layers that treat each row by itself (BatchNorm with running statistics, LayerNorm, "
                "norms over dim=1 and up)"
            )

    def difference_of(self, run: Callable[[torch.Tensor], Sequence[torch.Tensor]], *batches: torch.Tensor) -> float:
        """How far the rows differ that `batches`, those of `check`, share, in all that `run` gives for them."""
        worst = 0.0
        for first, second, alone in zip(*(run(batch) for batch in batches), strict=True):
            pairs = [(first[1:2], second[1:2]), (first[:1], second[2:]), (first[2:], alone)]
            worst = max(worst, *(_difference(a, b) for a, b in pairs))
        return worst

    def difference_in_float64(self, *batches: torch.Tensor) -> tuple[float, torch.dtype]:
        """The same in copies of the slices in float64, one by one, and the lowest precision that is left in them."""
        values = [batch.double() for batch in batches]
        worst, dtypes = 0.0, {torch.float64}
        for span in self.spans:
            double = copy.deepcopy(span).double()
            watches = [Watch(double) for _ in values]
            values = [watch.run(value) for watch, value in zip(watches, values, strict=True)]
            worst = max(worst, self.difference_of(lambda value: [value], *values))
            dtypes = dtypes.union(*(watch.dtypes for watch in watches))
        return worst, max(dtypes, key=lambda dtype: torch.finfo(dtype).eps)


def _equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=0.0, atol=0.0, equal_nan=True)


def _difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """Of rows, the largest difference relative to the row's largest value; infinite if only one of them is finite."""
    a, b = a.double(), b.double()
    if not torch.equal(a.isfinite(), b.isfinite()):
        return math.inf
    a, b = a.nan_to_num(0.0, 0.0, 0.0).flatten(1), b.nan_to_num(0.0, 0.0, 0.0).flatten(1)
    size = torch.maximum(a.abs(), b.abs()).amax(1).clamp(min=torch.finfo(torch.float32).tiny)
    return float(((a - b).abs().amax(1) / size).max())
