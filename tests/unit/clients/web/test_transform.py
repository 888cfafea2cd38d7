"""What the JavaScript client codes by fitted tables, Python decodes: the integers are those of Python's own encoder.

The vectors show it byte for byte, for small tables and no coefficient near a half. Here tables are fitted or large, and
coefficients lie anywhere.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from slicer.core.codecs.transform import rans
from slicer.core.codecs.transform.linear import cosines
from slicer.core.codecs.transform.payload import BoundaryCodec
from slicer.core.codecs.transform.tables import CLASSES, MAGNITUDES, PATTERNS, TransformTables
from tests.unit.clients.web.nodejs import node
from tests.unit.slicer.core.codecs.transform import made

Array = npt.NDArray[np.float32]

#: Reads tables and [activation, quality] pairs, prints payloads.
ENCODE = """
import { readFileSync } from "node:fs";
import { BoundaryCodec } from "./transform/payload.js";
import { readTables } from "./transform/tables.js";
const bytes = (text) => Uint8Array.from(Buffer.from(text, "base64"));
const { file, sha256, shape, wanted } = JSON.parse(readFileSync(0, "utf8"));
const codec = new BoundaryCodec(await readTables(bytes(file), sha256));
const floats = (text) => new Float32Array(bytes(text).buffer);
const payloads = wanted.map(([values, quality]) => codec.encode({ values: floats(values), shape }, quality));
console.log(JSON.stringify(payloads.map((payload) => Buffer.from(payload).toString("base64"))));
"""

#: So near to a half, in parts of the largest coefficient, sums of float32 in another order may round the other way.
NEAR = 1e-5


def javascript(codec: BoundaryCodec, wanted: Sequence[tuple[Array, int]]) -> list[bytes]:
    tables = codec.tables
    given = {
        "file": base64.b64encode(tables.to_bytes()).decode(),
        "sha256": tables.digest,
        "shape": list(tables.shape),
        "wanted": [(base64.b64encode(row.tobytes()).decode(), quality) for row, quality in wanted],
    }
    printed = node("--input-type=module", "--eval", ENCODE, given=json.dumps(given))
    return [base64.b64decode(payload) for payload in json.loads(printed)]


def check(codec: BoundaryCodec, activation: Array, quality: int, payload: bytes) -> None:
    """Python reads the payload; integers are its own, but for those next to a half, which may be one off."""
    exact = codec.in_steps(activation, quality).astype(np.float64)
    own = np.rint(exact).astype(np.int32)
    coded, told = codec.integers(payload)
    found = np.zeros_like(own)
    found[: len(coded)] = coded
    assert told == quality
    other = found != own
    assert np.abs(found - own).max() <= 1
    assert (np.abs(exact - np.floor(exact) - 0.5)[other] < NEAR * max(np.abs(exact).max(), 1)).all()
    assert payload == codec.packed(found, quality)
    codec.decode(payload, np.empty_like(activation))


@pytest.mark.parametrize("name", made.LAYOUTS)
def test_python_decodes_what_javascript_coded_by_fitted_tables(name: str) -> None:
    codec = made.codec(name)
    rows = [row * np.float32(size) for size in (1, 20, 1e-4) for row in made.activations(name, 4, seed=11)]
    wanted = [(row, quality) for row in rows for quality in range(len(codec.tables.steps))]
    for (row, quality), payload in zip(wanted, javascript(codec, wanted), strict=True):
        check(codec, row, quality, payload)


def test_python_decodes_what_javascript_coded_in_all_lanes_and_half_way_between_integers() -> None:
    codec = BoundaryCodec(large())
    rng = np.random.default_rng(3)
    any_values = rng.standard_normal(codec.tables.shape).astype(np.float32) * 9
    wanted = [(any_values, 0), (halves(codec, rng), 0)]
    payloads = javascript(codec, wanted)
    assert [payload[2] for payload in payloads] == [7, 7]  # 128 lanes
    for (row, quality), payload in zip(wanted, payloads, strict=True):
        check(codec, row, quality, payload)


def large() -> TransformTables:
    """Of 17 x 16 places behind two tokens, 120 channels that a rotation mixes."""
    rng = np.random.default_rng(1)
    grid, prefix, channels = (17, 16), 2, 120
    tokens = prefix + grid[0] * grid[1]
    analysis, of_prefix = (np.linalg.qr(rng.standard_normal((channels, channels)))[0].astype(np.float16) for _ in "ab")
    return TransformTables(
        grid=grid,
        prefix=prefix,
        layout="tokens",
        mean=rng.standard_normal((tokens, channels)).astype(np.float16),
        analysis=analysis,
        synthesis=np.linalg.inv(analysis.astype(np.float64)).astype(np.float32),
        prefix_analysis=of_prefix,
        prefix_synthesis=np.linalg.inv(of_prefix.astype(np.float64)).astype(np.float32),
        levels=rng.integers(110, 150, tokens * channels).astype(np.uint8),
        steps=np.array([128], np.uint8),
        qualities=np.array([9950], np.uint16),
        patterns=rans.fitted(rng.random((CLASSES, PATTERNS)) ** 4).astype(np.uint16),
        magnitudes=rans.fitted(rng.random((CLASSES, MAGNITUDES)) ** 4).astype(np.uint16),
        gains=np.ones(CLASSES, np.float32),
    )


def halves(codec: BoundaryCodec, rng: np.random.Generator) -> Array:
    """An activation whose coefficients all lie half way between two integers, as nearly as float32 can have it."""
    tables = codec.tables
    wanted = rng.integers(-20, 20, tables.levels.size) + 0.5
    places, channels = tables.grid[0] * tables.grid[1], tables.analysis.shape[0]
    rows, columns = (cosines(size).astype(np.float64) for size in tables.grid)
    patches = rows.T @ wanted[tables.prefix * channels :].reshape(channels, *tables.grid) @ columns
    behind = patches.reshape(channels, places).T @ np.linalg.inv(tables.analysis.astype(np.float64)).T
    prefix = wanted[: tables.prefix * channels].reshape(tables.prefix, channels)
    before = prefix @ np.linalg.inv(tables.prefix_analysis.astype(np.float64)).T
    return (np.concatenate([before, behind]) + tables.mean).astype(np.float32)
