"""Codecs of activations: round trips within the documented bounds, exact sizes, and what is refused on either side."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from slicer.core.codecs import activations
from slicer.core.codecs.integer import Integer
from slicer.errors import CodecError

Array = npt.NDArray[np.float32]
SHAPES = hnp.array_shapes(min_dims=1, max_dims=4, max_side=9)
LIMITS = {"fp32": 3.4e38, "fp16": 65_000.0, "bf16": 3.38e38, "int8": 2.0**126, "int4": 2.0**126}
QUANTISED = ("int8", "int4")


def drawn(name: str) -> st.SearchStrategy[Array]:
    """All shapes, denormals, extremes, zeros and constants among them."""
    limit = float(np.float32(LIMITS[name]))
    values = st.floats(-limit, limit, width=32)
    return SHAPES.flatmap(
        lambda shape: (
            hnp.arrays(np.float32, shape, elements=values)
            | values.map(lambda one: np.full(shape, one, dtype=np.float32))
        )
    )


def round_trip(name: str, activation: Array) -> Array:
    out = np.empty(activation.shape, dtype=np.float32)
    activations.decode_into(name, activations.encode(name, activation), out)
    return out


@pytest.mark.parametrize("name", activations.CODECS)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_decoded_is_within_the_documented_bound_and_the_size_is_exact(name: str, data: st.DataObject) -> None:
    activation = data.draw(drawn(name))
    axis = data.draw(st.sampled_from([0, activation.ndim - 1, None]))

    payload = activations.encode(name, activation, axis)
    decoded = np.empty(activation.shape, dtype=np.float32)
    activations.decode_into(name, payload, decoded, axis)

    if axis is not None:
        assert len(payload) == activations.encoded_bytes(name, activation.shape, axis)
    error = np.abs(decoded.astype(np.float64) - activation.astype(np.float64))
    assert (error <= activations.error_bound(name, activation, axis)).all()


@pytest.mark.parametrize(("name", "levels"), [("int8", 127), ("int4", 7)])
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_scale_is_its_channels_peak_and_no_more_than_one_bf16_above(
    name: str, levels: int, data: st.DataObject
) -> None:
    activation = data.draw(drawn(name).filter(lambda one: one.ndim > 1))
    axis = data.draw(st.sampled_from([0, activation.ndim - 1]))
    others = tuple(other for other in range(activation.ndim) if other != axis)
    peak = np.abs(activation).max(axis=others, keepdims=True).astype(np.float64)

    scales = Integer(name).scales_of(activation, axis)

    assert (scales <= np.maximum(peak / levels * (1 + 2.0**-7), 2.0**-126)).all()
    assert (scales * (1 + 1e-6) >= peak / levels).all()


@pytest.mark.parametrize("name", activations.CODECS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_batch_decodes_to_the_bits_of_its_rows(name: str, data: st.DataObject) -> None:
    first = data.draw(drawn(name))
    rows = [first, -first, np.zeros_like(first)][: data.draw(st.integers(0, 3))]
    payloads = [activations.encode(name, row) for row in rows]

    batch = activations.decode_batch(name, payloads, first.shape)

    assert batch.shape == (len(rows), *first.shape) and batch.dtype == np.float32
    for row, decoded in zip(rows, batch, strict=True):
        np.testing.assert_array_equal(decoded, round_trip(name, row))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("name", activations.CODECS)
def test_any_float_and_any_memory_layout_is_encoded_as_its_float32_values(name: str, dtype: Any) -> None:
    plain = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float16)
    strided = np.zeros((12, 10), dtype=dtype)[::2, ::2]
    strided[...] = plain

    assert activations.encode(name, strided) == activations.encode(name, plain.astype(np.float32))


def test_decoding_fills_an_out_that_is_not_contiguous() -> None:
    activation = np.arange(12, dtype=np.float32).reshape(3, 4)
    for name in activations.CODECS:
        out = np.zeros((4, 3), dtype=np.float32).T
        activations.decode_into(name, activations.encode(name, activation), out)
        np.testing.assert_array_equal(out, round_trip(name, activation))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("shape", [(7,), (5, 4), (3, 4, 4)])
@pytest.mark.parametrize("name", activations.CODECS)
def test_what_is_not_finite_is_refused_by_the_encoder(name: str, shape: tuple[int, ...], bad: float) -> None:
    activation = np.ones(shape, dtype=np.float32)
    activation.flat[activation.size // 2] = bad

    with pytest.raises(CodecError, match="NaN or infinity"):
        activations.encode(name, activation)


@pytest.mark.parametrize(
    ("name", "value", "holds"),
    [("fp16", 65_520.0, 65_504.0), ("bf16", 3.4e38, 3.38e38), ("int8", 1e38, 8e37), ("int4", 1e38, 8e37)],
)
def test_what_the_narrower_type_cannot_hold_is_refused(name: str, value: float, holds: float) -> None:
    with pytest.raises(CodecError, match="use fp32"):
        activations.encode(name, np.full((2, 2), value, dtype=np.float32))
    assert np.isfinite(round_trip(name, np.full((2, 2), holds, dtype=np.float32))).all()
    with pytest.raises(CodecError):  # beyond float32 itself
        activations.encode(name, np.full((2, 2), 1e300))


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("fp32", struct.pack("<f", np.nan)),
        ("fp32", struct.pack("<f", -np.inf)),
        ("fp16", struct.pack("<e", np.inf)),
        ("bf16", b"\x80\x7f"),  # infinity
        ("bf16", b"\xc0\xff"),  # NaN
        ("int8", b"\x80\x7f"),
        ("int8", b"\xc0\x7f"),
        ("int8", b"\x00\x00"),  # a scale of 0
        ("int8", b"\x80\xbf"),  # of -1
        ("int8", b"\x00\x7e"),  # times 127 it would be infinite
        ("int4", b"\x80\x7f"),
        ("int4", b"\x00\x00"),
    ],
)
def test_what_is_not_finite_is_refused_by_the_decoders(name: str, number: bytes) -> None:
    """The first number of the payload: a value, or a channel's scale."""
    good = activations.encode(name, np.ones((4, 2), dtype=np.float32))
    bad = number + good[len(number) :]

    with pytest.raises(CodecError):
        activations.decode_into(name, bad, np.empty((4, 2), dtype=np.float32))
    with pytest.raises(CodecError):
        activations.decode_batch(name, [good, bad], (4, 2))


@pytest.mark.parametrize("name", QUANTISED)
@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_bytes_of_the_right_length_are_refused_or_decode_to_finite_values(name: str, data: st.DataObject) -> None:
    shape = data.draw(SHAPES)
    size = activations.encoded_bytes(name, shape)
    payload = data.draw(st.binary(min_size=size, max_size=size))
    out = np.empty(shape, dtype=np.float32)
    try:
        activations.decode_into(name, payload, out)
    except CodecError:
        return
    assert np.isfinite(out).all()


@pytest.mark.parametrize("name", activations.CODECS)
def test_a_payload_of_another_length_is_refused_with_both_lengths(name: str) -> None:
    payload = activations.encode(name, np.ones((3, 5), dtype=np.float32))
    for wrong in (b"", payload[:-1], payload + b"\0", payload * 2):
        for decode in (
            lambda wrong=wrong: activations.decode_into(name, wrong, np.empty((3, 5), dtype=np.float32)),
            lambda wrong=wrong: activations.decode_batch(name, [payload, wrong], (3, 5)),
        ):
            with pytest.raises(CodecError, match=rf"{len(wrong)} bytes.*{len(payload)}"):
                decode()


@pytest.mark.parametrize("shape", [(0, 4), (-3, -5), (2.0, 4), ("9", 4), (None,)])
@pytest.mark.parametrize("name", activations.CODECS)
def test_a_shape_that_is_none_is_refused(name: str, shape: tuple[Any, ...]) -> None:
    with pytest.raises(CodecError, match="whole number"):
        activations.check_payload(name, shape, b"")


def test_a_shape_beyond_all_memory_is_refused_by_the_length_before_anything_is_allocated() -> None:
    for name in activations.CODECS:
        with pytest.raises(CodecError, match="4 bytes"):
            activations.check_payload(name, (2**40, 2**40), b"1234")
        with pytest.raises(CodecError, match="4 bytes"):
            activations.decode_batch(name, [b"1234"], (2**40, 2**40))


def test_an_unknown_codec_and_an_empty_activation_are_refused() -> None:
    with pytest.raises(CodecError, match=r"'int3'.*int8"):
        activations.encode("int3", np.ones(3))
    with pytest.raises(CodecError, match="whole number"):
        activations.encode("int8", np.ones((0, 3), dtype=np.float32))


def test_the_layout_on_the_wire_is_little_endian_scales_then_values() -> None:
    """Two channels with peaks 127 and 254: the scales 1 and 2 are bf16 0x3f80 and 0x4000."""
    activation = np.array([[127, -254], [-1, 2], [0, 100]], dtype=np.float32)
    assert activations.encode("int8", activation) == bytes.fromhex("803f 0040 7f81 ff01 0032")

    small = np.array([[7, -14, 1]], dtype=np.float32)  # scales 1, 2 and the next bf16 above 1/7: 0x3e13
    assert activations.encode("int4", small) == bytes.fromhex("803f 0040 133e 1f 0f")

    assert activations.encode("bf16", np.array([1.0, -2.0], dtype=np.float32)) == bytes.fromhex("803f 00c0")


@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ((197, 768), 1),  # ViT
        ((768, 197), 0),  # the same, transposed
        ((14, 14, 384), 2),  # Swin
        ((64, 56, 56), 0),  # after a convolution
        ((64, 14, 28), 0),  # the same, not square
        ((32, 32, 32), 0),  # of which no shape tells anything
        ((14, 28, 384), 2),
        ((4, 16, 49, 96), 3),
    ],
)
@pytest.mark.parametrize("name", QUANTISED)
def test_channels_run_along_the_axis_that_the_manifest_says(name: str, shape: tuple[int, ...], axis: int) -> None:
    """A channel a hundred times larger than the rest does not touch them, whatever the shape looks like."""
    assert activations.encoded_bytes("int8", shape, axis) == np.prod(shape) + 2 * shape[axis]
    assert activations.encoded_bytes("int4", shape, axis) == (np.prod(shape) + 1) // 2 + 2 * shape[axis]
    activation = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    loud = activation.copy()
    channel = (3,) if axis == 0 else (..., 3)
    loud[channel] *= 100
    others = np.ones(shape, dtype=bool)
    others[channel] = False

    def decoded(x: Any) -> Any:
        payload = activations.encode(name, x, axis)
        out = np.empty(shape, np.float32)
        activations.decode_into(name, payload, out, axis)
        (row,) = activations.decode_batch(name, [payload], shape, axis=axis)
        np.testing.assert_array_equal(row, out)
        assert (np.abs(out - x) <= activations.error_bound(name, x, axis)).all()
        return out

    np.testing.assert_array_equal(decoded(loud)[others], decoded(activation)[others])


@pytest.mark.parametrize("shape", [(64, 20, 20), (64, 20, 21), (20, 21, 64), (64, 7, 49)])
def test_without_a_manifest_the_axis_is_measured_and_the_length_tells_it(shape: tuple[int, ...]) -> None:
    axis = 0 if shape[0] == 64 else 2
    scale = np.exp(np.random.default_rng(0).standard_normal(64) * 2).reshape([-1, 1, 1] if axis == 0 else [1, 1, -1])
    activation = (np.random.default_rng(1).standard_normal(shape) * scale).astype(np.float32)
    for name in QUANTISED:
        assert activations.encode(name, activation) == activations.encode(name, activation, axis)
        decoded = activations.decode_batch(name, [activations.encode(name, activation)], shape)[0]
        np.testing.assert_array_equal(
            decoded, activations.decode_batch(name, [activations.encode(name, activation, axis)], shape, axis=axis)[0]
        )
        both = [activations.encode(name, activation, 0), activations.encode(name, activation, 2)]
        for row, told in zip(activations.decode_batch(name, both, shape), (0, 2), strict=True):
            assert (np.abs(row - activation) <= activations.error_bound(name, activation, told)).all()


def test_channels_along_a_middle_axis_are_refused() -> None:
    with pytest.raises(CodecError, match=r"axis 1 of shape .* the first axis or the last"):
        activations.encode("int8", np.ones((2, 3, 4), np.float32), 1)


def test_a_vector_goes_as_bf16_for_it_has_no_values_to_share_a_scale() -> None:
    pooled = np.random.default_rng(2).normal(size=96).astype(np.float32)
    for name in QUANTISED:
        assert activations.encode(name, pooled) == activations.encode("bf16", pooled)


def test_bf16_rounds_as_torch_does() -> None:
    values = np.random.default_rng(3).normal(size=(64, 64)).astype(np.float32)
    values[0] = np.float32(1) + np.arange(64, dtype=np.float32) * np.float32(2.0**-9)  # ties among them
    np.testing.assert_array_equal(round_trip("bf16", values), torch.from_numpy(values).bfloat16().float().numpy())
