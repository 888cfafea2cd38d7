"""The cases of `benchmarks/planner/planner.py`: devices x links x server loads, traces, and cases drawn at random.

Boards and models' times are made up (hypothetical); shapes are those of ViT-S/16 and Swin-T at 224 px; links are
`slicer.core.planning.link_presets`. What calibration is said to have found is made up, too, near what was measured of
ViT-S (docs/log, 2026-11-28-transform). Cases with `held_out` were not looked at while the planner was written.
"""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import dataclass, replace
from typing import Any

from slicer.core.planning.link_presets import PRESETS
from slicer.core.protocol.calibration_index import CalibrationIndex, Measured
from slicer.core.protocol.messages import ServedModel, ShardInfo
from slicer.core.shards.manifest import Manifest
from slicer.core.shards.spec import ModelSpec
from slicer.profiles.device_profile import Profile, Spread

#: Shapes at the cuts, and each slice's share of the whole model's time.
SHAPES: dict[str, tuple[tuple[int, ...], ...]] = {
    "vit_small_patch16_224": ((3, 224, 224), (197, 384), (197, 384), (197, 384), (1000,)),
    "swin_tiny_patch4_window7_224": ((3, 224, 224), (784, 192), (196, 384), (49, 768), (1000,)),
}
SHARES: dict[str, tuple[float, ...]] = {
    "vit_small_patch16_224": (0.25, 0.25, 0.25, 0.25),
    "swin_tiny_patch4_window7_224": (0.22, 0.18, 0.42, 0.18),
}

#: ms of the whole model, and images per second; hypothetical.
BOARDS: dict[str, tuple[float, float]] = {"slow": (240.0, 1.5), "medium": (100.0, 4.0), "fast": (32.0, 10.0)}

#: Codecs whose payloads are as long as the image makes them: bytes by the median image, and agreement, cut by cut.
CALIBRATED: dict[int, dict[str, tuple[float, float]]] = {
    0: {"jpeg-75": (9_500, 0.982), "jpeg-90": (17_000, 0.994), "webp-75": (7_000, 0.98), "webp-90": (12_500, 0.993)},
    1: {"transform-990": (6_100, 0.984), "transform-995": (8_400, 0.991), "transform-998": (12_800, 0.997)},
    2: {"transform-990": (4_600, 0.985), "transform-995": (6_300, 0.992), "transform-998": (9_700, 0.997)},
    3: {"transform-990": (3_500, 0.986), "transform-995": (4_900, 0.993), "transform-998": (7_800, 0.997)},
}

CODECS = ("fp32", "fp16", "int8", "rgb8", *sorted({codec for found in CALIBRATED.values() for codec in found}))

#: True ns per value; the planner begins with each codec's `encode_ns`, a little wrong, and learns.
ENCODE_NS = {"fp32": 0.7, "fp16": 2.0, "int8": 5.0, "rgb8": 0.0} | {
    codec: 90.0 if codec.startswith("transform") else 25.0 for codec in CODECS[4:]
}

#: Sizes of images are log-normal around their device's median; medians of devices around the calibration's.
SIZE_SPREAD, DEVICE_SPREAD = 0.4, 0.25


@dataclass(frozen=True)
class Case:
    """One device for `seconds` on one link beside other clients of one server.

    Attributes:
        whole_ms: the model on the device; `rate_rps`: images per second, periodic or poisson.
        link: arguments of `EmulatedLink`; its phases begin with the run.
        loads: (from second of the run, share of the server's bound that other clients offer).
        accelerator: a shipped cost profile.
        alone: the device may go on alone (``alone: tail``), whoever chooses its cut.
    """

    name: str
    kind: str
    model: str
    whole_ms: float
    rate_rps: float
    process: str
    link: dict[str, Any]
    loads: tuple[tuple[float, float], ...]
    seconds: float
    accelerator: str = "edge-gpu"
    held_out: bool = False
    shares: tuple[float, ...] = ()
    alone: bool = False

    @property
    def changes_s(self) -> tuple[float, ...]:
        """When link or load change, 0 included."""
        starts = {float(phase[0]) for phase in self.link.get("phases", ())} | {from_s for from_s, _ in self.loads}
        return tuple(sorted(starts | {0.0}))

    def board(self) -> Profile:
        """The true device."""
        shares = self.shares or SHARES[self.model]
        return Profile(
            name="board",
            hypothetical=True,
            preprocess_ms=Spread(mean=0.05 * self.whole_ms, std=0.003 * self.whole_ms),
            slices_ms=tuple(Spread(mean=self.whole_ms * s, std=0.08 * self.whole_ms * s) for s in shares),
        )

    def size_ratio(self) -> float:
        """Of the device's own images to those of the calibration, by the median."""
        return math.exp(random.Random(f"{self.name}/sizes").gauss(0.0, DEVICE_SPREAD))

    def arrivals(self) -> list[float]:
        """Intended captures, seconds of the run."""
        draw = random.Random(f"{self.name}/arrivals")
        if self.process == "periodic":
            phase = draw.random() / self.rate_rps
            return [phase + i / self.rate_rps for i in range(int(self.seconds * self.rate_rps))]
        found, now_s = [], 0.0
        while (now_s := now_s + draw.expovariate(self.rate_rps)) < self.seconds:
            found.append(now_s)
        return found


def served(model: str) -> ServedModel:
    """What the server says of a model of SHAPES."""
    shapes = SHAPES[model]
    shards = tuple(ShardInfo(f"slice_{i}.safetensors", f"{i:064x}", 22_000_000) for i in range(1, 5))
    axes = (0, *(max(len(shape) - 1, 0) for shape in shapes[1:]))
    names, dtypes, programs = ("a", "b", "c"), ("float32",) * 5, ("0" * 64,) * 4
    manifest = Manifest(ModelSpec(model), "torch", "timm", names, shapes, dtypes, shards, programs, axes)
    measured = tuple(
        Measured(cut, codec, size, int(codec[-3:]) / 1000 if cut else agreement, 0.9, agreement)
        for cut, found in CALIBRATED.items()
        for codec, (size, agreement) in found.items()
    )
    index = CalibrationIndex(manifest.digest, 300, 100, (), measured)
    described = ServedModel(model, manifest.digest, manifest.to_json(), 4, (0, 1, 2, 3), "continuous", CODECS)
    return replace(described, calibration_json=index.to_json())


def grid(
    seconds: float = 60.0, boards: tuple[str, ...] = tuple(BOARDS), loads: tuple[float, ...] = (0.0, 0.6, 0.9)
) -> list[Case]:
    """Every board on every link at every load; models and arrival processes take turns."""
    found = []
    for index, (board, link, load) in enumerate(itertools.product(boards, PRESETS, loads)):
        model = list(SHAPES)[(index + index // len(loads)) % 2]
        whole_ms, rate = BOARDS[board]
        process = ("periodic", "poisson")[(index // 2) % 2]
        name = f"{board} {link} load {load:g} {model.split('_')[0]} {process}"
        found.append(Case(name, "grid", model, whole_ms, rate, process, {"preset": link}, ((0.0, load),), seconds))
    return found


def drawn(seed: int, held_out: bool, seconds: float = 60.0) -> Case:
    """Everything drawn: board, its slices' shares, link, load."""
    draw = random.Random(f"drawn/{seed}")
    model, whole_ms = draw.choice(list(SHAPES)), math.exp(draw.uniform(math.log(25), math.log(400)))
    shares = [share * draw.uniform(0.6, 1.4) for share in SHARES[model]]
    link = {
        "mbit_per_s": round(math.exp(draw.uniform(math.log(0.5), math.log(200))), 2),
        "delay_ms": round(math.exp(draw.uniform(0.0, math.log(80))), 1),
        "jitter_ms": round(draw.uniform(0.0, 8.0), 1),
        "loss": draw.choice([0.0, 0.0, 0.01]),
    }
    rate = round(draw.uniform(0.1, 0.6) * 1e3 / whole_ms, 2)
    load = draw.choice([0.0, 0.3, 0.5, 0.7, 0.85])
    process = draw.choice(["periodic", "poisson"])
    return Case(
        f"drawn {seed}",
        "drawn",
        model,
        whole_ms,
        rate,
        process,
        link,
        ((0.0, load),),
        seconds,
        draw.choice(["edge-gpu", "cpu-like"]),
        held_out,
        tuple(share / sum(shares) for share in shares),
    )


def named_traces() -> list[Case]:
    """Changes one would draw by hand."""
    vit, swin = SHAPES
    tunnel = {"preset": "lte", "phases": ((0.0, 12.0), (40.0, 0.2), (70.0, 12.0))}
    walk = {"preset": "wifi", "phases": ((0.0, 39.0), (30.0, 6.0), (55.0, 1.0), (80.0, 39.0))}
    gap = {"preset": "5g", "phases": ((0.0, 50.0), (40.0, 0.0), (45.0, 50.0), (80.0, 5.0))}
    calm, rush = ((0.0, 0.2),), ((0.0, 0.2), (40.0, 1.05), (60.0, 0.3), (90.0, 0.9))
    return [
        Case("tunnel", "trace", vit, 100.0, 4.0, "periodic", tunnel, calm, 120.0),
        Case("walking out of wifi", "trace", swin, 100.0, 4.0, "poisson", walk, calm, 120.0),
        Case("a link that is cut for 5 s", "trace", vit, 100.0, 4.0, "periodic", gap, calm, 120.0, alone=True),
        Case("rush on the server", "trace", swin, 60.0, 6.0, "periodic", {"preset": "wifi"}, rush, 120.0),
        Case("rush on the server, slow link", "trace", vit, 100.0, 4.0, "poisson", {"preset": "lte"}, rush, 120.0),
    ]


def drawn_trace(seed: int, held_out: bool, seconds: float = 120.0) -> Case:
    """A link whose rate, and a server whose load, change at moments of their own."""
    draw = random.Random(f"trace/{seed}")
    model, whole_ms = draw.choice(list(SHAPES)), math.exp(draw.uniform(math.log(30), math.log(250)))
    rate = round(draw.uniform(0.15, 0.5) * 1e3 / whole_ms, 2)
    phases, loads, now_s = list[tuple[float, float]](), list[tuple[float, float]](), 0.0
    while now_s < seconds - 10:
        phases.append((round(now_s, 1), round(math.exp(draw.uniform(math.log(0.4), math.log(60))), 2)))
        now_s += draw.uniform(15.0, 40.0)
    now_s = 0.0
    while now_s < seconds - 10:
        loads.append((round(now_s, 1), draw.choice([0.0, 0.3, 0.6, 0.8, 0.95])))
        now_s += draw.uniform(25.0, 60.0)
    link = {
        "mbit_per_s": 60.0,
        "delay_ms": round(math.exp(draw.uniform(0.0, math.log(50))), 1),
        "jitter_ms": round(draw.uniform(0.0, 5.0), 1),
        "phases": tuple(phases),
    }
    process = draw.choice(["periodic", "poisson"])
    return Case(
        f"trace {seed}", "trace", model, whole_ms, rate, process, link, tuple(loads), seconds, held_out=held_out
    )
