"""What calibration found of a model: which codecs it has at which cut, how many bytes they take and what they lose.

::

    DIR/calibration.json                canonical JSON; written last, so a folder with an index is complete
    DIR/transform_1.safetensors         the tables of the codec `transform` at cut 1 (`codecs.transform.tables`), ...

It names its model by the manifest's digest and is no part of it: a model that is calibrated again keeps its manifest,
and devices keep their slices. Plain dataclasses and json: no torch, no pydantic.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import ShardError
from .messages import ShardInfo
from .told_files import DAMAGED, check_file, digest_of

FILE = "calibration.json"

_FORMAT = 1


@dataclass(frozen=True)
class CalibratedCut:
    """The tables of one cut.

    Attributes:
        cut: 1 to n - 1. tables: their file.
        qualities: codec's name -> which of the tables' steps it is.
        most_bytes: no payload is longer.
    """

    cut: int
    tables: ShardInfo
    qualities: Mapping[str, int]
    most_bytes: int


@dataclass(frozen=True)
class Measured:
    """What one codec does at one cut, on images that the tables were not fitted on.

    Attributes:
        payload_bytes: the median.
        fidelity, fidelity_p10: cosine of the model's answer to the exact one: median, and 10th percentile.
        agreement: of a classifier the share of images whose first class stays; of others the median fidelity.
    """

    cut: int
    codec: str
    payload_bytes: float
    fidelity: float
    fidelity_p10: float
    agreement: float


@dataclass(frozen=True)
class CalibrationIndex:
    """Immutable, comparable by content.

    Attributes:
        manifest: digest of the manifest whose activations these are.
        images, held_out: how many photos the tables were fitted on, and how many others everything was measured on.
        cuts: those with tables; measured: every codec that was tried.
    """

    manifest: str
    images: int
    held_out: int
    cuts: tuple[CalibratedCut, ...]
    measured: tuple[Measured, ...]

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no spaces, ASCII; equal indexes give equal text.

        What was measured stands in rows, since a description carries all of it, which devices also ask for to learn how
        long a small message takes.
        """
        document = {
            "format": _FORMAT,
            **dataclasses.asdict(self),
            "measured": list(map(dataclasses.astuple, self.measured)),
        }
        return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)

    @cached_property
    def by_cut(self) -> Mapping[int, CalibratedCut]:
        """`cuts` by their numbers."""
        return {one.cut: one for one in self.cuts}

    @cached_property
    def codecs(self) -> tuple[str, ...]:
        """Names of the codecs that have tables at some cut."""
        return tuple(sorted({name for one in self.cuts for name in one.qualities}))

    @classmethod
    def from_json(cls, text: str | bytes, source: str = FILE) -> CalibrationIndex:
        """The index in `text`; `source` says in errors where it came from.

        Raises:
            ShardError: it is no index, of another version, or contradicts itself.
        """
        try:
            return _parse(json.loads(text))
        except DAMAGED as error:
            raise ShardError(
                f"{source} is no valid index of a calibration ({error}); calibrate again: headtail slice MODEL "
                "--export DIR --calibrate IMAGES"
            ) from error


def load_calibration(directory: str | Path) -> CalibrationIndex | None:
    """Read ``directory/calibration.json``; the tables are not looked at. None: there is none.

    Raises:
        ShardError: it is damaged.
    """
    path = Path(directory) / FILE
    if not path.is_file():
        return None
    return CalibrationIndex.from_json(path.read_bytes(), str(path))


def _parse(document: Any) -> CalibrationIndex:
    if document.get("format") != _FORMAT:
        raise ValueError(f"it is not of format {_FORMAT}")
    index = CalibrationIndex(
        manifest=digest_of(document["manifest"]),
        images=int(document["images"]),
        held_out=int(document["held_out"]),
        cuts=tuple(_cut(entry) for entry in document["cuts"]),
        measured=tuple(_measured(entry) for entry in document["measured"]),
    )
    if len(index.by_cut) != len(index.cuts):
        raise ValueError("it must name each cut once")
    return index


def _cut(entry: Any) -> CalibratedCut:
    told = entry["tables"]
    tables = ShardInfo(str(told["file"]), digest_of(told["sha256"]), int(told["size_bytes"]))
    check_file(tables.file, tables.size_bytes)
    qualities = {str(name): int(step) for name, step in entry["qualities"].items()}
    found = CalibratedCut(int(entry["cut"]), tables, qualities, int(entry["most_bytes"]))
    if found.cut < 1 or found.most_bytes < 0 or not all(0 <= step < 256 for step in qualities.values()):
        raise ValueError(f"cut {found.cut} has a bad number, size or quality")
    return found


def _measured(entry: Any) -> Measured:
    cut, codec, *told = entry
    numbers = [float(one) for one in told]
    if len(numbers) != 4 or not all(map(math.isfinite, numbers)) or numbers[0] < 0:
        raise ValueError(f"what was measured of {codec!r} must be four numbers")
    return Measured(int(cut), str(codec), *numbers)
