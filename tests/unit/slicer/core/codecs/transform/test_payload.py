"""Activations by fitted tables: near what they were, small, and never taken for something else."""

from __future__ import annotations

import zlib
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slicer.calibration.fit import STEPS, fit
from slicer.core.codecs import activations
from slicer.core.codecs.transform.payload import BoundaryCodec
from slicer.core.codecs.transform.tables import TransformTables
from slicer.errors import CodecError, NotFiniteError, ShardError
from tests.unit.slicer.core.codecs.transform import made

QUALITIES = range(len(STEPS))
EVERY = pytest.mark.parametrize("name", made.LAYOUTS)


def back(codec: BoundaryCodec, payload: bytes) -> npt.NDArray[np.float32]:
    out = np.empty(codec.tables.shape, np.float32)
    codec.decode(payload, out)
    return out


@EVERY
def test_other_activations_of_the_kind_come_back_near_and_smaller_than_by_int8(name: str) -> None:
    codec = made.codec(name)
    for row in made.activations(name, 5, seed=7):
        payloads = [codec.encode(row, quality) for quality in QUALITIES]
        errors = [float(np.square(back(codec, p) - row).mean() / np.square(row).mean()) for p in payloads]
        assert errors[0] < 0.05
        assert errors == sorted(errors)
        sizes = [len(payload) for payload in payloads]
        assert sizes == sorted(sizes, reverse=True)
        assert sizes[-1] < activations.encoded_bytes("int8", row.shape) < codec.most_bytes


@EVERY
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), quality=st.sampled_from(QUALITIES), size=st.floats(0, 2000))
def test_integers_are_those_that_were_coded(name: str, seed: int, quality: int, size: float) -> None:
    codec = made.codec(name)
    row = (np.random.default_rng(seed).standard_normal(codec.tables.shape) * size).astype(np.float32)
    wanted = codec.quantised(row, quality)
    found, told = codec.integers(codec.encode(row, quality))
    assert told == quality
    assert np.array_equal(found, wanted[: len(found)])
    assert not wanted[len(found) :].any()


@EVERY
@pytest.mark.parametrize("value", [0.0, -3.5, 400.0])
def test_constants_come_back(name: str, value: float) -> None:
    codec = made.codec(name)
    row = np.full(codec.tables.shape, value, np.float32)
    assert np.abs(back(codec, codec.encode(row, 0)) - row).max() < 3


def test_what_is_not_finite_or_far_too_large_is_refused() -> None:
    codec = made.codec("a map")
    row = made.activations("a map", 1)[0]
    for bad in (np.nan, np.inf, -np.inf):
        with pytest.raises(NotFiniteError):
            codec.encode(np.where(row == row[0, 0, 0], np.float32(bad), row), 0)
    with pytest.raises(CodecError, match="use int8"):
        codec.encode(row * np.float32(1e8), 0)
    with pytest.raises(CodecError, match="use int8"):
        codec.encode(np.full(row.shape, 3e38, np.float32), 0)


def test_another_shape_or_quality_is_refused() -> None:
    codec = made.codec("a map")
    with pytest.raises(CodecError, match=r"\(3, 5, 12\); these tables are of activations \(5, 3, 12\)"):
        codec.encode(np.zeros((3, 5, 12), np.float32), 0)
    with pytest.raises(CodecError, match=f"quality {len(STEPS)}; these tables have 0 to"):
        codec.encode(np.zeros((5, 3, 12), np.float32), len(STEPS))


@EVERY
def test_a_payload_that_was_cut_off_or_altered_is_refused(name: str) -> None:
    codec = made.codec(name)
    payload = codec.encode(made.activations(name, 1)[0], 1)
    for end in range(0, len(payload), 7):
        with pytest.raises(CodecError):
            back(codec, payload[:end])
    for place in range(0, len(payload), 3):
        with pytest.raises(CodecError):
            back(codec, payload[:place] + bytes([payload[place] ^ 0x10]) + payload[place + 1 :])
    with pytest.raises(CodecError):
        back(codec, payload + b"\0")
    with pytest.raises(CodecError, match="at most"):
        back(codec, payload + bytes(codec.most_bytes))


@EVERY
@settings(max_examples=60, deadline=None)
@given(place=st.integers(0, 10**6), value=st.integers(0, 255), cut=st.integers(0, 3))
def test_a_forged_payload_with_a_right_checksum_is_decoded_or_refused(
    name: str, place: int, value: int, cut: int
) -> None:
    codec = made.codec(name)
    body = bytearray(codec.encode(made.activations(name, 1)[0], 1)[:-4])
    body[place % len(body)] = value
    forged = bytes(body[: len(body) - cut])
    forged += zlib.crc32(forged).to_bytes(4, "little")
    try:
        out = back(codec, forged)
    except CodecError:
        return
    assert np.isfinite(out).all()


def test_escapes_that_no_magnitude_asks_for_are_refused() -> None:
    codec = made.codec("a map")
    payload = codec.encode(made.activations("a map", 1)[0], 0)
    words = 2 * int.from_bytes(payload[12:16], "little")
    at = len(payload) - 4 - words
    escapes = int.from_bytes(payload[16:18], "little") + 1
    forged = payload[:16] + escapes.to_bytes(2, "little") + payload[18:at] + b"\0\0" + payload[at:-4]
    with pytest.raises(CodecError, match="escapes for"):
        back(codec, forged + zlib.crc32(forged).to_bytes(4, "little"))


def test_tables_of_another_calibration_are_named() -> None:
    name = "tokens behind a class token"
    other = BoundaryCodec(fit(made.activations(name, 40, seed=5), made.LAYOUTS[name][0]))
    payload = other.encode(made.activations(name, 1)[0], 0)
    with pytest.raises(CodecError, match=f"tables {other.tables.digest[:8]}, these are"):
        back(made.codec(name), payload)


@EVERY
def test_tables_go_by_a_file_and_equal_ones_give_equal_bytes(name: str) -> None:
    tables = made.codec(name).tables
    read = TransformTables.from_bytes(tables.to_bytes())
    assert read.digest == tables.digest == fit(made.activations(name, 40), made.LAYOUTS[name][0]).digest
    row = made.activations(name, 1)[0]
    assert BoundaryCodec(read).encode(row, 2) == made.codec(name).encode(row, 2)
    assert replace(tables, qualities=tables.qualities + np.uint16(1)).digest != tables.digest


def test_damaged_tables_are_refused() -> None:
    data = made.codec("a map").tables.to_bytes()
    for end in range(0, len(data), 101):
        with pytest.raises(ShardError, match="calibrate the model again"):
            TransformTables.from_bytes(data[:end])
    with pytest.raises(ShardError, match="format"):
        TransformTables.from_bytes(data.replace(b"headtail-transform-1", b"headtail-transform-9"))


def test_payloads_never_pass_what_is_told_of_them() -> None:
    codec = made.codec("tokens behind a class token")
    row = np.random.default_rng(0).standard_normal(codec.tables.shape).astype(np.float32) * 3000
    assert len(codec.encode(row, 0)) <= codec.most_bytes
