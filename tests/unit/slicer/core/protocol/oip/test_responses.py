"""Answers of rows to responses, of models of any output."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from slicer.core.common.top_k import top_k
from slicer.core.protocol.messages import Reply, Request, Timings
from slicer.core.protocol.oip.requests import infer_request
from slicer.core.protocol.oip.responses import check_outputs, reply_of, response_of
from slicer.core.protocol.oip.tensors import InferRequest, InferResponse, WantedOutput
from slicer.core.protocol.outputs import LOGITS, packed
from slicer.errors import BadRequestError


def model_of(*shape: int) -> Any:
    return SimpleNamespace(
        name="m", digest="d" * 64, shapes=[(3, 4, 4), shape], outputs=packed([(LOGITS, shape)]), labels=()
    )


@pytest.mark.parametrize("shape", [(10,), (1, 6, 6), (2, 3), (1,)])
@pytest.mark.parametrize("k", [None, 1, 4, 1000])
def test_a_device_gets_what_a_serve_handle_would_give_it_whatever_the_output_s_shape(
    shape: tuple[int, ...], k: int | None
) -> None:
    logits = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    model, request = model_of(*shape), Request("a", "m", "d" * 64, 0, "int8", (3, 4, 4), b"payload", top_k=k)
    infer = infer_request(request)
    check_outputs(infer, model)
    timings = Timings(1.0, 2.0, 3.0, 6.0, (4,))
    response = response_of(infer, model, [Reply("a", timings, (), logits.tobytes(), shape, "server")])
    assert isinstance(response, InferResponse)
    reply = reply_of(response, request)
    if k is None:
        assert reply.logits_shape == shape and reply.logits == logits.tobytes()
    else:
        assert reply.top_k == top_k(logits, k)


@pytest.mark.parametrize("count", [0, -1, 1.0, True, "3", 1 << 31])
@pytest.mark.parametrize(("output", "parameter"), [("logits", "classification"), ("top_k", "k")])
def test_a_number_of_classes_is_whole_and_at_least_1(output: str, parameter: str, count: Any) -> None:
    with pytest.raises(BadRequestError, match="at least 1"):
        check_outputs(InferRequest("m", [], [WantedOutput(output, {parameter: count})]), model_of(10))
