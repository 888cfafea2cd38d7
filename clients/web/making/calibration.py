"""What a server says of calibration: indexes that are read, and damaged ones that are refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from clients.web.making.numbers import Json
from slicer.core.protocol.calibration_index import CalibratedCut, CalibrationIndex, Measured
from slicer.core.protocol.messages import ShardInfo
from slicer.errors import ShardError

_MANIFEST = "f00d" * 16

#: Where in the index -> what is put there.
_DAMAGED: tuple[tuple[tuple[str | int, ...], Any], ...] = (
    (("format",), 2),
    (("manifest",), "f00d"),
    (("manifest",), 7),
    (("images",), None),
    (("cuts",), None),
    (("cuts", 0), "one"),
    (("cuts", 1, "cut"), 1),
    (("cuts", 0, "cut"), 0),
    (("cuts", 0, "most_bytes"), -1),
    (("cuts", 0, "qualities"), []),
    (("cuts", 0, "qualities", "transform-990"), 256),
    (("cuts", 0, "qualities", "transform-990"), -1),
    (("cuts", 0, "qualities", "transform-990"), None),
    (("cuts", 0, "tables"), None),
    (("cuts", 0, "tables", "sha256"), "g" * 64),
    (("cuts", 0, "tables", "sha256"), "A" * 64),
    (("cuts", 0, "tables", "size_bytes"), -1),
    (("cuts", 0, "tables", "file"), "../tables"),
    (("measured",), 3),
    (("measured", 0, 2), -1.0),
    (("measured", 0, 2), None),
    (("measured", 0, 5), "most"),
    (("measured", 0, 0), None),
    (("measured", 0), [1, "int8", 1.0]),
)


def vectors() -> Json:
    """``read``: texts, with their cuts and what was measured; ``damaged``: texts that Python refuses."""
    return {"read": [_read(_index()), _read(_empty())], "damaged": list(_damaged())}


def _index() -> CalibrationIndex:
    sizes = {1: 4321, 2: 5_000_000_000}
    cuts = tuple(
        CalibratedCut(cut, ShardInfo(f"transform_{cut}.safetensors", f"{cut:064x}", size), {"transform-990": cut}, 900)
        for cut, size in sizes.items()
    )
    measured = (
        Measured(0, "jpeg-75", 812.5, 0.99, 0.98, 0.97),
        Measured(1, "transform-990", 400.0, 0.991, 0.98, 1.0),
        Measured(2, "int8", 0.0, 1.0, 1.0, 0.5),
    )
    return CalibrationIndex(_MANIFEST, 18, 6, cuts, measured)


def _empty() -> CalibrationIndex:
    return CalibrationIndex(_MANIFEST, 18, 6, (), ())


def _read(index: CalibrationIndex) -> Json:
    text = index.to_json()
    assert CalibrationIndex.from_json(text) == index
    cuts = [
        {
            "cut": one.cut,
            "sha256": one.tables.sha256,
            "size_bytes": one.tables.size_bytes,
            "qualities": [[name, step] for name, step in one.qualities.items()],
        }
        for one in index.cuts
    ]
    measured = [[one.cut, one.codec, one.payload_bytes, one.agreement] for one in index.measured]
    return {"manifest": index.manifest, "text": text, "cuts": cuts, "measured": measured}


def _damaged() -> Iterator[str]:
    texts = ["", "{", "[]", "null", "7"]
    for place, value in _DAMAGED:
        document = json.loads(_index().to_json())
        within = document
        for step in place[:-1]:
            within = within[step]
        within[place[-1]] = value
        texts.append(json.dumps(document))
    texts.append(_index().to_json().replace("812.5", "NaN"))
    for text in texts:
        try:
            CalibrationIndex.from_json(text)
        except ShardError:
            yield text
        else:
            raise AssertionError(f"{text} is not refused")
