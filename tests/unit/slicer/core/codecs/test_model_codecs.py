"""The codecs of one model, by cut: those with tables where it was calibrated, and clear words where it was not."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from slicer.core.codecs.model_codecs import ModelCodecs
from slicer.core.codecs.transform.tables import TransformTables
from slicer.core.protocol.calibration_index import CalibratedCut, CalibrationIndex
from slicer.core.protocol.messages import ShardInfo
from slicer.errors import CodecError, NotFiniteError, ShardError, StaleTablesError
from tests.unit.slicer.core.codecs.transform import made

NAME = "tokens behind a class token"
SHAPES = ((3, 8, 8), (17, 12), (17, 12), (10,))
ROWS = made.activations(NAME, 4, seed=1)


def codecs(tables: TransformTables | None = None, read: bytes | None = None, **qualities: int) -> ModelCodecs:
    """Of a model with tables at cut 1."""
    tables = tables or made.codec(NAME).tables
    data = tables.to_bytes()
    file = ShardInfo("transform_1.safetensors", hashlib.sha256(data).hexdigest(), len(data))
    names = qualities or {"transform_990": 1, "transform_995": 0}
    cut = CalibratedCut(1, file, {name.replace("_", "-"): at for name, at in names.items()}, 2000)
    index = CalibrationIndex("0" * 64, 40, 10, (cut,), ())
    return ModelCodecs(SHAPES, (0, 1, 1, 0), index, lambda asked: data if read is None else read)


def test_each_name_is_its_own_step_of_the_tables() -> None:
    mine, boundary = codecs(), made.codec(NAME)
    payloads = {name: mine.encode(name, ROWS[0], 1) for name in ("transform-990", "transform-995")}
    assert payloads == {"transform-990": boundary.encode(ROWS[0], 1), "transform-995": boundary.encode(ROWS[0], 0)}


def test_rows_come_back_in_order_near_what_was_sent() -> None:
    mine = codecs()
    payloads = [mine.encode("transform-995", row, 1) for row in ROWS]
    for payload in payloads:
        mine.check("transform-995", payload, 1)
    back = mine.decode("transform-995", payloads, 1)
    errors = np.abs(back - ROWS).mean(axis=(1, 2))
    assert (errors < 0.5 * np.abs(ROWS - ROWS[::-1]).mean()).all()


@pytest.mark.parametrize("codec", ["fp32", "fp16", "int8", "int4"])
def test_other_codecs_need_no_tables(codec: str) -> None:
    mine = codecs()
    payload = mine.encode(codec, ROWS[0], 2)
    mine.check(codec, payload, 2)
    np.testing.assert_allclose(mine.decode(codec, [payload], 2)[0], ROWS[0], atol=1.5)


def test_a_cut_without_tables_is_named_with_the_remedy() -> None:
    for ask in (lambda: codecs().encode("transform-995", ROWS[0], 2), lambda: codecs().prepare("transform-995", 2)):
        with pytest.raises(CodecError, match=r"transform-995 at cut 2: the model has tables at 1; calibrate it"):
            ask()
    with pytest.raises(CodecError, match="tables at no cut"):
        ModelCodecs(SHAPES).check("transform-995", b"", 1)


def test_a_quality_that_was_not_found_is_refused_with_those_that_are_there() -> None:
    with pytest.raises(CodecError, match="'transform-998' at cut 1; it has transform-990, transform-995"):
        codecs().encode("transform-998", ROWS[0], 1)


def test_a_payload_of_another_calibration_is_stale_before_it_is_decoded() -> None:
    from dataclasses import replace

    tables = made.codec(NAME).tables
    other = codecs(replace(tables, steps=tables.steps + np.uint8(1)))
    payload = other.encode("transform-995", ROWS[0], 1)
    with pytest.raises(StaleTablesError, match="calibrated again"):
        codecs().check("transform-995", payload, 1)


@pytest.mark.parametrize("payload", [b"", b"short", bytes(2001)])
def test_a_length_that_cannot_be_is_refused_before_tables_are_read(payload: bytes) -> None:
    mine = codecs(read=b"never read")
    with pytest.raises(CodecError, match=f"{len(payload)} bytes"):
        mine.check("transform-995", payload, 1)


def test_values_that_are_no_numbers_are_refused() -> None:
    broken = ROWS[0].copy()
    broken[3, 3] = np.nan
    with pytest.raises(NotFiniteError):
        codecs().encode("transform-995", broken, 1)


def test_tables_are_read_once_and_checked() -> None:
    reads = []
    mine = codecs()
    data = mine._read  # type: ignore[attr-defined]
    mine._read = lambda asked: (reads.append(asked.file), data(asked))[1]  # type: ignore[attr-defined, func-returns-value, index]
    mine.prepare("transform-995", 1)
    mine.encode("transform-990", ROWS[0], 1)
    assert reads == ["transform_1.safetensors"]
    with pytest.raises(ShardError, match="another sha256"):
        codecs(read=b"altered").prepare("transform-995", 1)
    with pytest.raises(ShardError, match="quality 200"):
        codecs(transform_995=200).prepare("transform-995", 1)


def test_tables_of_another_boundary_are_refused() -> None:
    with pytest.raises(ShardError, match=r"of activations \(16, 12\), the model has \(17, 12\)"):
        codecs(made.codec("tokens alone").tables).prepare("transform-995", 1)
