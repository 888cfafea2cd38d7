"""Measure a model's slices on this machine, as a device profile: what the planner reckons with, and what an emulated
device of this kind takes.

Slices are timed one by one, in turn, on random activations, after a warm-up: with several models of CPU clocks and
neighbours, turns spread a disturbance over all slices instead of over one.
"""

from __future__ import annotations

import io
import platform
import resource
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

from slicer.errors import ConfigError
from slicer.models.images import Preprocess
from slicer.profiles.device_profile import Profile, Spread
from slicer.slicing.slice_model import SlicedModel

#: What is written of a distribution.
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)

_WARM_UP = 3

#: The 95 % quantile over the median of a time that is called unsteady.
_WIDE = 1.5


def measure_profile(
    sliced: SlicedModel,
    *,
    name: str,
    model: str,
    batches: Sequence[int] = (1,),
    repeats: int = 30,
    clock: Callable[[], float] = time.perf_counter,
    progress: Callable[[str], object] = lambda line: None,
) -> Profile:
    """Time every slice at every batch size, preprocessing of a 640x480 JPEG, and what they take of memory. Blocks.

    Args:
        name: of the profile; model: the name by which servers know the model.
        batches: sizes; 1 must be among them.
        repeats: timed runs of each.
        progress: is told how far it is, a line before each part.

    Raises:
        ConfigError: 1 is not among the batches, one of them is below 1, or there are fewer than 5 repeats.
    """
    if 1 not in batches or min(batches) < 1 or repeats < 5:
        raise ConfigError(
            f"batches {list(batches)}, {repeats} repeats: batch 1 must be among them, and at least 5 repeats"
        )
    sizes = sorted(set(batches))
    times_ms = {}
    for done, batch in enumerate(sizes, 1):
        progress(f"{done} of {len(sizes) + 1}: {sliced.num_slices} slices at batch {batch}, {repeats} runs of each")
        times_ms[batch] = _slices_ms(sliced, batch, repeats, clock)
    progress(f"{len(sizes) + 1} of {len(sizes) + 1}: preprocessing")
    shapes = [sliced.shape_at(cut) for cut in range(sliced.num_slices + 1)]
    return Profile(
        name=name,
        model=model,
        source=_source(repeats),
        preprocess_ms=_spread(_preprocess_ms(sliced, repeats, clock)),
        slices_ms=tuple(_spread(values) for values in times_ms[1]),
        batches_ms={b: tuple(_spread(values) for values in t) for b, t in times_ms.items() if b > 1},
        slice_bytes=tuple(part.weight_bytes for part in sliced.slices),
        activation_bytes=tuple(4 * int(np.prod(shape)) for shape in shapes),
        peak_memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    )


def to_yaml(profile: Profile) -> str:
    """The file's text; `slicer.profiles.device_profile.load_device_profile` reads it."""
    document = _plain(profile.model_dump(mode="json", exclude_defaults=True))
    text: str = yaml.safe_dump(document, sort_keys=False, default_flow_style=None, width=120)
    return text


def _plain(value: Any) -> Any:
    """JSON knows texts as keys only: quantiles and batch sizes become numbers again."""
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return {yaml.safe_load(key): _plain(one) for key, one in value.items()}
    return value


def _slices_ms(sliced: SlicedModel, batch: int, repeats: int, clock: Callable[[], float]) -> list[list[float]]:
    """Per slice its times."""
    generator = torch.Generator().manual_seed(0)
    spans = [sliced.span(index, index + 1) for index in range(sliced.num_slices)]
    dtypes = [next(iter(span.parameters()), torch.empty(0)).dtype for span in spans]
    inputs = [
        torch.randn((batch, *sliced.shape_at(index)), generator=generator).to(dtype)
        for index, dtype in enumerate(dtypes)
    ]
    times: list[list[float]] = [[] for _ in spans]
    with torch.inference_mode():
        for turn in range(_WARM_UP + repeats):
            for span, x, found in zip(spans, inputs, times, strict=True):
                began = clock()
                span(x)
                if turn >= _WARM_UP:
                    found.append((clock() - began) * 1e3)
    return times


def _preprocess_ms(sliced: SlicedModel, repeats: int, clock: Callable[[], float]) -> list[float]:
    prepare = Preprocess(sliced.spec if sliced.spec is not None else sliced.module)
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    Image.fromarray(pixels).resize((640, 480)).save(file, "JPEG", quality=90)
    times = []
    for turn in range(_WARM_UP + repeats):
        began = clock()
        prepare(Image.open(io.BytesIO(file.getvalue())))
        if turn >= _WARM_UP:
            times.append((clock() - began) * 1e3)
    return times


def _spread(values_ms: Sequence[float]) -> Spread:
    quantiles = np.quantile(np.maximum(values_ms, 1e-6), QUANTILES)
    return Spread(quantiles={q: float(f"{value:.4g}") for q, value in zip(QUANTILES, quantiles, strict=True)})


def _source(repeats: int) -> str:
    date = datetime.now(timezone.utc).strftime("%Y-%m-%d")
    return (
        f"measured {date} on {cpu_name()}, {torch.get_num_threads()} torch thread(s), torch {torch.__version__}, "
        f"{repeats} runs of each, by headtail slice --profile"
    )


def cpu_name(path: Path = Path("/proc/cpuinfo")) -> str:
    """The processor as the kernel names it, or the machine type."""
    found: dict[str, str] = {}
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            key, _, value = (part.strip() for part in line.partition(":"))
            found.setdefault(key.lower(), value)
    except OSError:
        pass
    names = (found.get(key, "") for key in ("model name", "model", "hardware"))  # "model" is a number on x86
    return next((name for name in names if name and not name.isdecimal()), platform.machine())


def unsteady(profile: Profile) -> str:
    """What a person should know of the times: empty if they are steady, at batch 1."""
    wide = [
        f"S{index}"
        for index, spread in enumerate(profile.slices_ms, 1)
        if spread.quantiles is not None and spread.quantiles[0.95] > _WIDE * spread.quantiles[0.5]
    ]
    if not wide:
        return ""
    return (
        f"{', '.join(wide)}: one run in twenty takes more than {_WIDE:g} times the median; if something else ran on "
        "this machine, measure again without it"
    )
