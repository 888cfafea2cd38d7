"""Run ONNX bytes with onnxruntime on one thread of the CPU, and compare with torch."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch

from slicer.onnx.graph import Reason
from slicer.slicing.sliced_model import SlicedModel
from slicer.slicing.verification import example_rows

Array = npt.NDArray[np.float32]

#: Batch sizes that every slice is run with.
BATCHES = (1, 3, 8)


class Session:
    """One file, loaded. Not for several threads.

    Raises:
        Reason: onnxruntime does not take it.
    """

    def __init__(self, data: bytes) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4  # what is wrong comes as an exception
        try:
            self._session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's classes have no common base
            raise Reason(f"onnxruntime does not load it: {_line(error)}") from error
        (self.input,) = (value.name for value in self._session.get_inputs())
        (self.output,) = (value.name for value in self._session.get_outputs())

    def run(self, rows: Array) -> Array:
        """The output for `rows`. Raises Reason where the graph does not take so many."""
        try:
            (result,) = self._session.run([self.output], {self.input: rows})
        except Exception as error:
            raise Reason(f"it does not take a batch of {len(rows)}: {_line(error)}") from error
        found: Array = result
        return found


def examples(sliced: SlicedModel) -> list[list[Array]]:
    """What torch makes of `BATCHES` of inputs of unlike kinds: at every cut, from 0 to n, one array for each batch."""
    kinds = example_rows(sliced.input_shape)
    generator = torch.Generator().manual_seed(2)
    image = kinds["camera"] / 64 - 2  # normalised, as a head gets it
    rows = [kinds["noise"], image, kinds["blank"]]
    rows += [torch.randn(sliced.input_shape, generator=generator) for _ in range(max(BATCHES) - len(rows))]
    crossings = [[torch.stack(rows[:batch]) for batch in BATCHES]]
    with torch.no_grad():
        for index in range(sliced.num_slices):
            span = sliced.span(index, index + 1)
            crossings.append([span(x) for x in crossings[-1]])
    return [[x.numpy() for x in cut] for cut in crossings]


class Chain:
    """What slices make of the examples, one file after another, beside what torch makes of them."""

    def __init__(self, references: list[list[Array]]) -> None:
        self._references, self._reached = references, references[0]

    def step(self, index: int, data: bytes) -> tuple[float, float]:
        """Run the file of slice `index`, counted from 0, the next one: how far it is from torch when it gets torch's
        input, and when it gets what the files before it made. Raises Reason."""
        session = Session(data)
        given, wanted = self._references[index], self._references[index + 1]
        alone = [difference(want, session.run(rows)) for want, rows in zip(wanted, given, strict=True)]
        self._reached = [session.run(rows) for rows in self._reached]
        after = [difference(want, rows) for want, rows in zip(wanted, self._reached, strict=True)]
        return max(alone), max(after)


def difference(reference: Array, found: Array) -> float:
    """The largest absolute difference, as a part of the reference's largest absolute value; infinite for another shape
    or dtype, and where a result is not finite."""
    if found.shape != reference.shape or found.dtype != reference.dtype or not np.isfinite(found).all():
        return math.inf
    scale = max(float(np.abs(reference).max(initial=0.0)), float(np.finfo(np.float32).tiny))
    return float(np.abs(found - reference).max(initial=0.0)) / scale


def _line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:300]
