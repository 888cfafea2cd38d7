"""The device's part of a model: preprocessing, slices 0:cut and encoding, as one blocking computation per image.

Slices are held one by one, so that the cut can change: those that are missing are loaded while the others run on. What
runs them is no affair of a head's (`Slices`).

An emulated head computes the same, then sleeps until the time of its profile has passed; the device is busy meanwhile.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ..codecs import activations
from ..codecs.codec import Transform
from ..codecs.model_codecs import ModelCodecs
from ..codecs.registry import as_taken
from ..images.source import ImageSource, readable
from ..planning.cut_planner import Choice
from ..protocol.outputs import LOGITS, Output, Outputs
from ..settings import DeviceProfile
from .head_runtime import Computed
from .image_payload import image_payload

#: What an image becomes, (channels, height, width), float32.
Prepare = Callable[[Any], npt.NDArray[np.float32]]


class Slices(Protocol):
    """The first slices of a model, loaded, in whatever runs them. `run` and `trim` are called on one thread, `extend`
    beside them."""

    @property
    def loaded(self) -> int:
        """How many there are, from the first on."""

    def run(self, x: npt.NDArray[np.float32], start: int, end: int) -> tuple[npt.NDArray[np.float32], list[float]]:
        """Slices start:end of one image, without a batch dimension, and the ms that each took."""

    def extend(self, more: Sequence[Any]) -> None:
        """The slices after those that are loaded, as whoever loads them made them."""

    def trim(self, count: int) -> None:
        """Keep the first `count`, and give the memory of the others back to the system."""


class Head:
    """The first slices of one manifest, ready to run: at least those of the cut, all of them on a device that can go
    on alone. `compute`, `finish` and `trim` run on one thread, the device's own; `extend` may be called beside them.

    Args:
        prepare: preprocessing of an image file; with the methods of a `Transform`, if images are sent as they are.
        slices: slices 0, 1, ..., as many as are loaded.
        manifest, num_slices: what they are the beginning of; `slice_bytes`: of the shards of all slices.
        codecs: of the activations at the cuts.
        outputs: what the last slice gives, one behind another, the model's own result first; empty: that alone.
        profile: how long slices and preprocessing take, if they are emulated; None: they are not.
        seed: of the times drawn from it.
        sleep: waits so many seconds.
    """

    def __init__(
        self,
        prepare: Prepare,
        slices: Slices,
        *,
        manifest: str,
        num_slices: int,
        slice_bytes: Sequence[int] = (),
        codecs: ModelCodecs | None = None,
        outputs: Sequence[Output] = (),
        profile: DeviceProfile | None = None,
        seed: str = "",
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.manifest = manifest
        self.num_slices = num_slices
        self._slice_bytes = tuple(slice_bytes)
        self._codecs = codecs or ModelCodecs(())
        self._outputs = tuple(outputs)
        self._prepare = prepare
        self._slices = slices
        self._profile = profile
        self._rng = random.Random(seed)
        self._sleep = sleep

    @property
    def loaded(self) -> int:
        """How many slices there are, from the first on."""
        return self._slices.loaded

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what it gives at cut n."""
        return tuple(one.name for one in self._outputs) or (LOGITS,)

    @property
    def size_bytes(self) -> int:
        """Of the shards of the slices that are loaded."""
        return sum(self._slice_bytes[: self.loaded])

    def extend(self, more: Sequence[Any]) -> None:
        """The slices after those that are loaded."""
        self._slices.extend(more)

    def trim(self, count: int) -> None:
        """Keep the first `count` slices only, and give the memory of the others back to the system."""
        self._slices.trim(count)

    def prepare(self, choice: Choice) -> None:
        """Fetch what encoding by `choice` needs. Blocks; beside anything.

        Raises:
            CodecError: the model has no such codec at this cut. ShardError: its tables cannot be had.
        """
        if choice.cut < self.num_slices and choice.codec not in activations.IMAGE_CODECS:
            self._codecs.prepare(choice.codec, choice.cut)

    def reseed(self, seed: str) -> None:
        """Draw emulated times from here on as another head with this seed does."""
        self._rng.seed(seed)

    def compute(self, image: ImageSource, choice: Choice) -> Computed:
        """One image file to an encoded activation, or to logits at cut n. Blocks for as long as the device would.

        Raises:
            ImageError: the file cannot be read. CodecError: the activation holds NaN or infinity.
        """
        cut, whole = choice.cut, choice.cut == self.num_slices
        if cut == 0 and choice.codec in activations.IMAGE_CODECS:
            return self._as_image(image, choice.codec)
        began = time.perf_counter()
        pixels = self._prepare(readable(image))
        prepare_s = time.perf_counter() - began
        activation, slices_ms = self._run(pixels, 0, cut)
        prepare_ms, overrun = self._keep_time(began, self._prepare_ms(prepare_s * 1e3), slices_ms)
        head_done = time.perf_counter()
        head_ms = (head_done - began) * 1e3
        outputs: Outputs | None = None
        if whole:
            outputs = self._parts(activation)
            activation = outputs[self.outputs[0]]
            payload, encode_ms = b"", 0.0
        else:
            payload = self._codecs.encode(choice.codec, activation, cut)
            encode_ms = (time.perf_counter() - head_done) * 1e3
        return Computed(
            self.manifest,
            activation.shape,
            payload,
            activation if whole else None,
            head_ms,
            encode_ms,
            overrun,
            cut,
            choice.codec,
            prepare_ms,
            tuple(slices_ms),
            activation,
            outputs,
        )

    def finish(self, computed: Computed, image: ImageSource) -> Computed:
        """The slices that are left, here: the logits of a request that the server did not answer. All are loaded.

        `head_ms` and the slices' times are those of this part alone. Raises as `compute`.
        """
        began = time.perf_counter()
        activation, prepare_ms = computed.activation, 0.0
        if activation is None:
            activation = self._prepare(readable(image))
            prepare_ms = self._prepare_ms((time.perf_counter() - began) * 1e3)
        row, slices_ms = self._run(activation, computed.cut, self.num_slices)
        _, overrun = self._keep_time(began, prepare_ms, slices_ms, computed.cut)
        outputs = self._parts(row)
        logits = outputs[self.outputs[0]]
        head_ms = (time.perf_counter() - began) * 1e3
        cut = self.num_slices
        return Computed(self.manifest, logits.shape, b"", logits, head_ms, 0.0, overrun, cut, outputs=outputs)

    def rehearse(self) -> list[float]:
        """The ms that each loaded slice takes for a black image, after a warm-up; empty where its size is not known."""
        shape = getattr(self._prepare, "shape", None)
        if shape is None:
            return []
        black = np.zeros(shape, np.float32)
        self._run(black, 0, self.loaded)
        return self._run(black, 0, self.loaded)[1]

    def _as_image(self, image: ImageSource, name: str) -> Computed:
        began = time.perf_counter()
        prepare: Any = self._prepare
        assert isinstance(prepare, Transform), "images are sent by devices with a model's own preprocessing"
        payload, crop_ms = image_payload(name, image, prepare)
        spent_ms = (time.perf_counter() - began) * 1e3
        # A camera's own file costs it nothing; what a file of the model's size takes to write is encoding.
        encode_ms = 0.0 if as_taken(name) else spent_ms - crop_ms
        planned_ms = spent_ms if as_taken(name) else self._prepare_ms(crop_ms)
        prepare_ms, overrun = self._keep_time(began + encode_ms / 1e3, planned_ms, [])
        head_ms = (time.perf_counter() - began) * 1e3 - encode_ms
        return Computed(self.manifest, prepare.shape, payload, None, head_ms, encode_ms, overrun, 0, name, prepare_ms)

    def _parts(self, row: npt.NDArray[np.float32]) -> Outputs:
        """The outputs that a row holds, all finite, as the server has it of them. Raises CodecError."""
        activations.check_finite(row)
        return {one.name: one.of(row) for one in self._outputs} or {LOGITS: row}

    def _prepare_ms(self, spent_ms: float) -> float:
        """What preprocessing takes on the device: what it took here, or what is drawn."""
        spread = None if self._profile is None else self._profile.preprocess_ms
        return spent_ms if spread is None else spread.draw_ms(self._rng)

    def _keep_time(self, began: float, prepare_ms: float, slices_ms: list[float], start: int = 0) -> tuple[float, bool]:
        """Sleep until the emulated times have passed, which then stand in `slices_ms`; whether this host was late."""
        if self._profile is None or self._profile.kind != "emulated":
            return prepare_ms, False
        drawn = [spread.draw_ms(self._rng) for spread in self._profile.slices_ms[start : start + len(slices_ms)]]
        slices_ms[:] = drawn
        left_s = (prepare_ms + sum(drawn)) / 1e3 - (time.perf_counter() - began)
        if left_s > 0:
            self._sleep(left_s)
        return prepare_ms, left_s < 0

    def _run(self, x: npt.NDArray[np.float32], start: int, end: int) -> tuple[npt.NDArray[np.float32], list[float]]:
        """Slices start:end of one image, and the ms that each took."""
        if start == end:
            return x, []
        assert end <= self.loaded, f"slices {start}:{end} with {self.loaded} loaded"
        return self._slices.run(x, start, end)
