"""The Open Inference Protocol over a real engine: its answers are the unsliced model's, and bad input is refused."""

from __future__ import annotations

import base64
import io
import json
import urllib.error
import urllib.request
from typing import Any

import numpy as np
import pytest
from PIL import Image

from slicer.core.codecs import activations
from slicer.core.protocol.oip import http_body, http_writing
from slicer.core.protocol.oip.tensors import InferRequest, Tensor, WantedOutput, tensor_of_array
from tests.unit.deployments.replica.ingress.conftest import MODEL, Running


def call(
    url: str, body: bytes | None = None, headers: dict[str, str] | None = None, method: str | None = None
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of one HTTP exchange."""
    request = urllib.request.Request(url, body, headers or {}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, {name.lower(): value for name, value in answer.headers.items()}, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, {name.lower(): value for name, value in error.headers.items()}, error.read()


def get(url: str) -> Any:
    status, _, body = call(url)
    assert status == 200, body
    return json.loads(body)


def infer(running: Running, request: InferRequest) -> Any:
    """Its response, or (status, document) of a refusal."""
    body, length = http_writing.encode_request(request)
    version = f"/versions/{request.version}" if request.version else ""
    url = f"{running.url}/v2/models/{request.model}{version}/infer"
    status, headers, got = call(url, body, {http_body.LENGTH_HEADER: str(length)})
    if status != 200:
        return status, json.loads(got)
    return http_body.decode_response(got, headers.get(http_body.LENGTH_HEADER.lower()))


def asking(running: Running, tensor: Tensor, *outputs: WantedOutput, **parameters: Any) -> InferRequest:
    parameters.setdefault("manifest", running.digest)
    return InferRequest(MODEL, [tensor], outputs, "an id", "", parameters)


LOGITS = WantedOutput("logits", {"binary_data": True})


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("cut", range(4))
def test_at_every_cut_the_unsliced_model_s_answer(running: Running, cut: int, rows: int) -> None:
    tensor = tensor_of_array("ACTIVATION", running.activation(cut, rows))
    response = infer(running, asking(running, tensor, LOGITS, cut=cut))
    np.testing.assert_allclose(response.outputs[0].array(), running.logits(rows), rtol=0, atol=1e-5)
    assert response.id == "an id" and response.model == MODEL
    assert response.parameters["total_ms"] >= response.parameters["execution_ms"] > 0
    assert response.version == get(f"{running.url}/v2/models/{MODEL}")["versions"][0]


@pytest.mark.parametrize("codec", ["fp16", "bf16", "int8", "int4"])
def test_an_activation_by_every_codec(running: Running, codec: str) -> None:
    activation = running.activation(2)
    axis = json.loads(get(f"{running.url}/describe?model={MODEL}")["manifest_json"])["channel_axes"][2]
    payload = activations.encode(codec, activation[0], axis)
    datatype = {"fp16": "FP16", "bf16": "BF16"}.get(codec, "UINT8")
    shape = activation.shape if datatype != "UINT8" else (1, len(payload))
    response = infer(
        running, asking(running, Tensor("ACTIVATION", datatype, shape, payload), LOGITS, cut=2, codec=codec)
    )
    got = response.outputs[0].array()[0]
    assert got.argmax() == running.logits()[0].argmax()


def test_an_image_file_in_bytes_and_in_base64_and_as_pixels(running: Running, photo: Image.Image, png: bytes) -> None:
    want = running.logits_of(photo)
    file = infer(running, asking(running, Tensor("IMAGE", "BYTES", (2,), [png, png]), LOGITS))
    pixels = infer(running, asking(running, tensor_of_array("IMAGE", np.asarray(photo)[None]), LOGITS))
    document = {
        "inputs": [{"name": "IMAGE", "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(png).decode()]}],
        "outputs": [{"name": "logits"}],
    }
    status, _, body = call(f"{running.url}/v2/models/{MODEL}/infer", json.dumps(document).encode())
    assert status == 200
    for got in (file.outputs[0].array()[0], file.outputs[0].array()[1], pixels.outputs[0].array()[0]):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)
    np.testing.assert_allclose(json.loads(body)["outputs"][0]["data"], want, rtol=0, atol=1e-5)


def test_without_named_outputs_all_of_them(running: Running, png: bytes) -> None:
    response = infer(running, InferRequest(MODEL, [Tensor("IMAGE", "BYTES", (1,), [png])]))
    assert [output.name for output in response.outputs] == ["top_k", "logits"]


def test_the_classes_are_ordered_probabilities(running: Running, png: bytes) -> None:
    wanted = (WantedOutput("top_k", {"k": 10}), WantedOutput("logits", {"classification": 2}), LOGITS)
    request = InferRequest(MODEL, [Tensor("IMAGE", "BYTES", (1,), [png])], wanted)
    best, classes, logits = infer(running, request).outputs
    parts = [bytes(one).decode().split(":") for one in best.elements()]
    scores = [float(part[0]) for part in parts]
    assert scores == sorted(scores, reverse=True) and sum(scores) == pytest.approx(1.0, abs=1e-5)
    assert best.shape == (1, 10) and classes.shape == (1, 2)
    order = np.argsort(-logits.array()[0], kind="stable")
    assert [int(part[1]) for part in parts] == order.tolist()
    value, index = bytes(classes.elements()[0]).decode().split(":")[:2]
    assert (float(value), int(index)) == (pytest.approx(float(logits.array().max())), order[0])


def test_a_parcel_is_answered_each_for_itself(running: Running) -> None:
    rows = [
        asking(running, tensor_of_array("ACTIVATION", running.activation(cut)), LOGITS, cut=cut) for cut in (0, 3, 1)
    ]
    bad = asking(running, tensor_of_array("ACTIVATION", running.activation(0)), LOGITS, cut=9)
    unknown = InferRequest("none", rows[0].inputs)
    body, length = http_writing.encode_parcel([rows[0], bad, rows[1], unknown, rows[2]])
    status, headers, got = call(f"{running.url}/v2/parcel", body, {http_body.LENGTH_HEADER: str(length)})
    answers = http_body.decode_responses(got, headers.get(http_body.LENGTH_HEADER.lower()))
    assert status == 200
    assert [answer["code"] if isinstance(answer, dict) else "" for answer in answers] == [
        "", "bad_cut", "", "unknown_model", "",
    ]  # fmt: skip
    for answer in (answers[0], answers[2], answers[4]):
        np.testing.assert_allclose(answer.outputs[0].array(), running.logits(), rtol=0, atol=1e-5)  # type: ignore[union-attr]


def test_predict_takes_an_image_and_nothing_else(running: Running, photo: Image.Image, png: bytes) -> None:
    status, _, body = call(f"{running.url}/predict", png)
    answer = json.loads(body)
    logits = running.logits_of(photo)
    assert status == 200 and answer["class"] == int(logits.argmax()) == answer["top_k"][0]["class"]
    assert answer["score"] == pytest.approx(
        float(np.exp(logits - logits.max()).max() / np.exp(logits - logits.max()).sum()), abs=1e-5
    )
    assert len(answer["top_k"]) == 5 and answer["timings_ms"]["total"] > 0
    file = io.BytesIO()
    photo.save(file, "JPEG")
    assert call(f"{running.url}/predict?top_k=2&model={MODEL}", file.getvalue())[0] == 200


@pytest.mark.parametrize(
    ("body", "headers", "query", "status", "says"),
    [
        (b"", {}, "", 400, "--data-binary"),
        (b"GIF89a...", {}, "", 400, "neither"),
        (b"\xff\xd8\xffrubbish", {}, "", 400, "no jpeg image"),
        (b"x", {"Content-Type": "multipart/form-data; boundary=x"}, "", 415, "--data-binary"),
        (b"x", {"Content-Encoding": "gzip"}, "", 415, "gzip"),
        (b"x", {}, "?model=none", 404, "none"),
        (b"x", {}, "?top_k=0", 400, "top_k=0"),
        (b"x", {}, "?top_k=-1", 400, "whole number"),
    ],
)
def test_predict_says_what_is_wrong(
    running: Running, body: bytes, headers: dict[str, str], query: str, status: int, says: str
) -> None:
    got, _, answer = call(f"{running.url}/predict{query}", body, headers, "POST")
    assert got == status
    assert says in json.loads(answer)["error"]


def test_metadata_names_all_cuts_shapes_and_codecs(running: Running) -> None:
    metadata = get(f"{running.url}/v2/models/{MODEL}")
    image, activation = metadata["inputs"]
    assert image["name"] == "IMAGE" and image["datatype"] == "BYTES"
    assert activation["parameters"]["manifest"] == running.digest
    shapes = {one["cut"]: tuple(one["shape"]) for one in activation["parameters"]["cuts"]}
    assert shapes == {cut: running.activation(cut)[0].shape for cut in range(4)}
    assert {"fp32", "int8", "jpeg"} <= set(activation["parameters"]["codecs"])
    assert [output["name"] for output in metadata["outputs"]] == ["top_k", "logits"]
    assert get(f"{running.url}/v2/models/{MODEL}/versions/{metadata['versions'][0]}") == metadata
    assert get(f"{running.url}/v2/models/{MODEL}/config")["max_batch_size"] == 32
    assert get(f"{running.url}/v2")["name"] == "headtail"
    assert get(f"{running.url}/v2/models")[0]["name"] == MODEL
    assert get(f"{running.url}/v2/models/{MODEL}/ready") == {"name": MODEL, "ready": True}
    assert (
        get(f"{running.url}/v2/health/ready") == get(f"{running.url}/v2/health/live") == {"live": True, "ready": True}
    )


def test_what_is_not_there_is_said(running: Running) -> None:
    for path in (
        "/v2/models/none",
        "/v2/models/none/config",
        f"/v2/models/{MODEL}/versions/7",
        "/v2/nothing",
        "/v2/modelsx",
    ):
        status, _, body = call(running.url + path)
        assert status == 404 and len(json.loads(body)["error"]) > 20
    assert call(f"{running.url}/v2/models/none/ready")[0] == 404
    assert call(f"{running.url}/v2/models/{MODEL}/infer")[0] == 405


def test_wrong_requests_are_refused_with_the_value_and_the_remedy(running: Running, png: bytes) -> None:
    good = tensor_of_array("ACTIVATION", running.activation(1))
    image = Tensor("IMAGE", "BYTES", (1,), [png])
    nan = running.activation(1)
    nan[0, 0, 0] = np.nan
    at = {"cut": 1}
    cases: list[tuple[InferRequest, int, str]] = [
        (InferRequest(MODEL, []), 400, "give one"),
        (InferRequest(MODEL, [image], version="7"), 404, "'7'"),
        (InferRequest(MODEL, [image, image]), 400, "give one"),
        (InferRequest(MODEL, [Tensor("x", "BYTES", (1,), [png])]), 400, "ACTIVATION"),
        (InferRequest(MODEL, [good], parameters=at), 400, "manifest"),
        (asking(running, good, cut=1, manifest="0" * 64), 409, "reload"),
        (asking(running, tensor_of_array("ACTIVATION", np.zeros((1, 3, 3), np.float32)), cut=2), 400, "shape"),
        (asking(running, good, cut=-1), 400, "cut"),
        (asking(running, good, cut=1.0), 400, "cut"),
        (asking(running, good, cut=True), 400, "cut"),
        (asking(running, good, cut=7), 400, "cut 7"),
        (asking(running, good, cut=1, codec="int8"), 400, "UINT8"),
        (asking(running, good, cut=1, codec="none"), 400, "UINT8"),
        (asking(running, good, cut=1, cutt=1), 400, "cutt"),
        (asking(running, good, cut=1, timeout=-1), 400, "timeout"),
        (asking(running, good, cut=1, priority=99), 400, "priority"),
        (asking(running, good, cut=1, idempotency_key=1), 400, "idempotency_key"),
        (asking(running, good, WantedOutput("x"), cut=1), 400, "top_k, logits"),
        (
            asking(running, good, WantedOutput("top_k"), LOGITS, WantedOutput("top_k", {"k": 2}), cut=1),
            400,
            "each once",
        ),
        (asking(running, good, LOGITS, LOGITS, cut=1), 400, "each once"),
        (asking(running, good, WantedOutput("logits", {"classification": -1}), cut=1), 400, "classes"),
        (asking(running, good, WantedOutput("logits", {"x": 1}), cut=1), 400, "'x'"),
        (asking(running, tensor_of_array("ACTIVATION", nan), cut=1), 400, "NaN"),
        (asking(running, Tensor("ACTIVATION", "FP32", (), bytes(4)), cut=1), 400, "batch"),
        (asking(running, Tensor("ACTIVATION", "FP32", (0, 4), b""), cut=1), 400, "0 rows"),
        (asking(running, image, cut=1), 400, "ACTIVATION instead"),
        (asking(running, Tensor("IMAGE", "UINT8", (1, 4, 5), bytes(20))), 400, "5 channels"),
        (asking(running, Tensor("IMAGE", "UINT8", (1, 0, 4, 3), b"")), 400, "without a 0"),
        (asking(running, Tensor("IMAGE", "UINT8", (4,), bytes(4))), 400, "height"),
        (asking(running, Tensor("IMAGE", "FP32", (1, 4, 4, 3), bytes(192))), 400, "UINT8"),
        (asking(running, Tensor("IMAGE", "BYTES", (1,), [b"not an image"])), 400, "image"),
    ]
    for request, want, says in cases:
        got = infer(running, request)
        assert isinstance(got, tuple), (says, got)
        status, document = got
        assert status == want, (says, document)
        assert says in document["error"], (says, document)
        assert document["code"] and document.get("id", "an id") == "an id"
    assert not isinstance(infer(running, asking(running, good, cut=1)), tuple)


def test_a_deadline_that_has_passed(running: Running) -> None:
    tensor = tensor_of_array("ACTIVATION", running.activation(1))
    status, document = infer(running, asking(running, tensor, cut=1, timeout=1))
    assert (status, document["code"]) == (504, "too_late")


def test_the_busy_server_says_how_busy_it_is(running: Running) -> None:
    tensor = tensor_of_array("ACTIVATION", running.activation(1))
    for _ in range(3):
        response = infer(running, asking(running, tensor, LOGITS, cut=1, load=True))
    assert {entry[0] for entry in json.loads(response.parameters["load"])} <= set(range(4))
