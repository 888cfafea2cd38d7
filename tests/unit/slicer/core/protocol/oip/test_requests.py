"""Requests to rows: how many there may be, and what it costs to refuse more."""

from __future__ import annotations

import base64
import tracemalloc
from types import SimpleNamespace
from typing import Any

import pytest

from slicer.core.protocol.oip.requests import ACTIVATION, IMAGE, image_file, rows_of
from slicer.core.protocol.oip.tensors import InferRequest, Tensor
from slicer.core.protocol.outputs import LOGITS, packed
from slicer.errors import BadRequestError

MODEL: Any = SimpleNamespace(
    name="m", digest="d" * 64, shapes=[(3, 4, 4), (10,)], outputs=packed([(LOGITS, (10,))]), labels=()
)

MANY = 200_000

TOO_MANY = {
    "rows of no bytes": Tensor(ACTIVATION, "FP32", (MANY, 0), b""),
    "rows of one number": Tensor(ACTIVATION, "FP32", (MANY,), memoryview(bytes(4 * MANY))),
    "payloads of no bytes": Tensor(ACTIVATION, "UINT8", (MANY, 0), b""),
    "images of one pixel": Tensor(IMAGE, "UINT8", (MANY, 1, 1, 1), memoryview(bytes(MANY))),
    "files": Tensor(IMAGE, "BYTES", (65536,), [b"\x89PNG"] * 65536),
}


@pytest.mark.parametrize("tensor", TOO_MANY.values(), ids=TOO_MANY)
def test_too_many_rows_are_refused_before_any_is_made(tensor: Tensor) -> None:
    """A shape of [2147483647, 0] comes in a body of 200 bytes."""
    tracemalloc.start()
    try:
        with pytest.raises(BadRequestError, match=f"{tensor.shape[0]} rows"):
            rows_of(InferRequest("m", [tensor]), MODEL)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20


@pytest.mark.parametrize("data", [b"AAAA" * 500_000, b"\0" * 2_000_000], ids=["base64", "no base64"])
def test_what_is_no_image_is_told_by_its_beginning(data: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(BadRequestError, match="image"):
            image_file(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1 << 16


@pytest.mark.parametrize("size", range(8))
@pytest.mark.parametrize(("begin", "codec"), [(b"\xff\xd8\xff", "jpeg"), (b"\x89PNG", "png")])
def test_an_image_in_base64_of_any_length(begin: bytes, codec: str, size: int) -> None:
    image = begin + bytes(size)
    assert image_file(base64.b64encode(image)) == (codec, image)
