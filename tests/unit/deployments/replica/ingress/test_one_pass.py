"""What our own devices send, read by the ingress in one pass: it answers to the byte what it answers without that."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest

from deployments.replica.ingress import open_inference
from deployments.replica.ingress.http_ingress import Ingress
from slicer.core.protocol.messages import Answer, Refusal, Reply, Request, Timings
from slicer.core.protocol.oip import fast_path, http_body, one_row
from slicer.core.protocol.oip.responses import MOST_CLASSES
from slicer.core.protocol.outputs import LOGITS, packed

GOOD = Request("a", "m", "d" * 64, 1, "fp32", (2, 3), bytes(range(24)), 2, 2.5, True, "k", 3)
WANTS_LOGITS = replace(GOOD, id="b", top_k=None)


class Server:
    """Answers with logits 0, 1, ... as many as the model has; at cut 3 with a refusal."""

    def __init__(self, classes: int = 5, most_bytes: int = 16 << 20) -> None:
        self.classes = classes
        self.seen: list[Request] = []
        model = SimpleNamespace(
            name="m",
            digest="d" * 64,
            shapes=((2, 3),) * 4,
            outputs=packed([(LOGITS, (classes,))]),
            labels=("tabby", "é"),
            config=SimpleNamespace(max_answer_bytes=most_bytes),
        )
        self.models = {"m": model}
        self.emulated = ()

    def absent(self, request_id: str, model: str) -> Refusal:
        return Refusal(request_id, "unknown_model", f"no model {model!r}", "s")

    async def infer_parcel(self, requests: list[Request]) -> list[Answer]:
        self.seen += requests
        logits = np.arange(self.classes, dtype="<f4").tobytes()
        timings = Timings(1.23456, 0.0, 3.0, 6.1, (4, 2))
        return [
            Refusal("of another sending", "overloaded", "the queue is full", "s")
            if one.cut == 3
            else Reply(one.id, timings, (), logits, (self.classes,), "s", ((0, 1.5, 2.0),) if one.wants_load else ())
            for one in requests
        ]


def answered(server: Server, several: Sequence[Request], path: str) -> list[dict[str, Any]]:
    """What the ingress sends for what our client writes."""
    alone = path.endswith("/infer")
    body, json_bytes = one_row.encode_request(several[0]) if alone else one_row.encode_parcel(several)
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    headers = [(http_body.LENGTH_HEADER.lower().encode(), b"%d" % json_bytes)]
    asyncio.run(
        Ingress(server)(  # type: ignore[arg-type]
            {"type": "http", "method": "POST", "path": path, "headers": headers}, receive, send
        )
    )
    return sent


def both_ways(several: Sequence[Request], path: str, **of_server: int) -> tuple[list[dict[str, Any]], bool]:
    """What is sent, and whether it was read in one pass; equal to what is sent without that, as are the rows."""
    server, slow = Server(**of_server), Server(**of_server)
    with (
        mock.patch.object(http_body, "decode_request", wraps=http_body.decode_request) as request,
        mock.patch.object(http_body, "decode_parcel", wraps=http_body.decode_parcel) as parcel,
    ):
        sent = answered(server, several, path)
    with (
        mock.patch.object(fast_path, "decode_request", return_value=None),
        mock.patch.object(fast_path, "decode_parcel", return_value=None),
    ):
        assert answered(slow, several, path) == sent
    assert slow.seen == server.seen
    return sent, not request.called and not parcel.called


ALONE, PARCEL = "/v2/models/m/infer", "/v2/parcel"


@pytest.mark.parametrize("request_", [GOOD, WANTS_LOGITS, replace(GOOD, cut=3), replace(WANTS_LOGITS, cut=3, id="")])
@pytest.mark.parametrize("path", [ALONE, PARCEL])
def test_a_device_s_request_is_read_in_one_pass(path: str, request_: Request) -> None:
    (start, _), in_one_pass = both_ways([request_], path)
    assert in_one_pass
    assert start["status"] == (503 if request_.cut == 3 and path == ALONE else 200)


def test_a_parcel_of_answers_and_refusals() -> None:
    several = [GOOD, replace(GOOD, cut=3), WANTS_LOGITS, replace(WANTS_LOGITS, cut=3), GOOD]
    assert both_ways(several, PARCEL)[1]


@pytest.mark.parametrize(
    ("odd", "path"),
    [
        (replace(GOOD, id="é"), ALONE),
        (replace(GOOD, model="none"), PARCEL),
        (GOOD, "/v2/models/none/infer"),
        (GOOD, "/v2/models/m/versions/" + "d" * 12 + "/infer"),
        (GOOD, "/v2/models/m/versions/2/infer"),
    ],
)
def test_what_is_odd_goes_the_general_way(odd: Request, path: str) -> None:
    assert not both_ways([odd, GOOD], path)[1]


def test_what_is_beyond_a_limit_goes_the_general_way_which_refuses_it() -> None:
    for most_bytes, fits in ((20, True), (19, False)):
        sent, in_one_pass = both_ways([WANTS_LOGITS], ALONE, most_bytes=most_bytes)
        assert (in_one_pass, sent[0]["status"]) == ((True, 200) if fits else (False, 400))
    half = replace(GOOD, top_k=MOST_CLASSES // 2)
    for extra, fits in ([], True), ([GOOD], False):
        sent, in_one_pass = both_ways([half, half, *extra], PARCEL, classes=MOST_CLASSES)
        assert in_one_pass is fits and (b"classes as text" in sent[1]["body"]) is not fits


def test_an_answer_that_needs_a_thread_goes_the_general_way() -> None:
    most = open_inference._ON_LOOP // 4
    for classes, fits in ((most, True), (most + 1, False)):
        assert both_ways([WANTS_LOGITS], ALONE, classes=classes)[1] is fits
