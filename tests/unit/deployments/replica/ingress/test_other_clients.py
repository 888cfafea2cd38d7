"""Clients that others wrote, unmodified, over HTTP: Triton's and KServe's."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.unit.deployments.replica.ingress.conftest import MODEL, PREFIX, Running

triton = pytest.importorskip("tritonclient.http")
from tritonclient.utils import InferenceServerException  # noqa: E402


@pytest.fixture
def client(running: Running) -> Iterator[Any]:
    """Triton's."""
    with triton.InferenceServerClient(running.address + PREFIX) as one:
        yield one


def triton_input(name: str, array: np.ndarray[Any, Any], datatype: str, *, binary: bool) -> Any:
    one = triton.InferInput(name, list(array.shape), datatype)
    one.set_data_from_numpy(array, binary_data=binary)
    return one


def test_triton_asks_what_is_there(client: Any, running: Running) -> None:
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready(MODEL) and not client.is_model_ready("none")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    metadata = client.get_model_metadata(MODEL)
    assert metadata["inputs"][1]["parameters"]["manifest"] == running.digest
    assert client.is_model_ready(MODEL, metadata["versions"][0])
    assert client.get_model_config(MODEL)["input"][0]["name"] == "IMAGE"
    assert client.get_model_repository_index()[0]["name"] == MODEL


@pytest.mark.parametrize("out_binary", [False, True])
@pytest.mark.parametrize("in_binary", [False, True])
@pytest.mark.parametrize("cut", range(4))
def test_triton_gets_the_unsliced_model_s_answer(
    client: Any, running: Running, cut: int, in_binary: bool, out_binary: bool
) -> None:
    result = client.infer(
        MODEL,
        [triton_input("ACTIVATION", running.activation(cut, 2), "FP32", binary=in_binary)],
        outputs=[triton.InferRequestedOutput("logits", binary_data=out_binary)],
        parameters={"cut": cut, "manifest": running.digest},
        request_id="1",
    )
    np.testing.assert_allclose(result.as_numpy("logits"), running.logits(2), rtol=0, atol=1e-5)
    assert result.get_response()["id"] == "1"
    assert result.get_response()["parameters"]["execution_ms"] > 0


def test_triton_sends_an_image_file_and_gets_classes(
    client: Any, running: Running, photo: Image.Image, png: bytes
) -> None:
    image = triton_input("IMAGE", np.array([png], dtype=np.object_), "BYTES", binary=True)
    result = client.infer(MODEL, [image], outputs=[triton.InferRequestedOutput("logits", class_count=3)])
    want = running.logits_of(photo)
    classes = [text.decode().split(":")[:2] for text in result.as_numpy("logits").reshape(-1)]
    assert [int(index) for _, index in classes] == np.argsort(-want, kind="stable")[:3].tolist()
    assert [float(value) for value, _ in classes] == pytest.approx(sorted(want, reverse=True)[:3], abs=1e-5)
    everything = client.infer(MODEL, [image])  # asks for all outputs, as bytes
    np.testing.assert_allclose(everything.as_numpy("logits")[0], want, rtol=0, atol=1e-5)
    assert everything.as_numpy("top_k").shape == (1, 5)


def test_triton_raises_its_own_error_with_our_reason(client: Any, running: Running) -> None:
    one = triton_input("ACTIVATION", running.activation(1), "FP32", binary=True)
    with pytest.raises(InferenceServerException, match="there is digits_vit"):
        client.infer("none", [one])
    with pytest.raises(InferenceServerException, match="without parameter manifest"):
        client.infer(MODEL, [one], parameters={"cut": 1})
    with pytest.raises(InferenceServerException, match="is served"):
        client.infer(MODEL, [one], model_version="7")
    with pytest.raises(InferenceServerException, match="deadline"):
        client.infer(MODEL, [one], parameters={"cut": 1, "manifest": running.digest}, timeout=1)
    with pytest.raises(InferenceServerException, match="content-encoding"):
        client.infer(MODEL, [one], request_compression_algorithm="gzip")


def test_triton_asks_side_by_side(running: Running) -> None:
    with triton.InferenceServerClient(running.address + PREFIX, concurrency=4) as one:
        asked = [
            one.async_infer(
                MODEL,
                [triton_input("ACTIVATION", running.activation(cut), "FP32", binary=True)],
                outputs=[triton.InferRequestedOutput("logits")],
                parameters={"cut": cut, "manifest": running.digest},
            )
            for cut in (0, 1, 2, 3) * 3
        ]
        for answer in asked:
            np.testing.assert_allclose(answer.get_result().as_numpy("logits"), running.logits(), rtol=0, atol=1e-5)


#: KServe's messages and Triton's have the same names, so that one process can hold one of them only.
KSERVE = """
import asyncio, sys
import kserve
import numpy as np
from kserve.inference_client import RESTConfig
from kserve.protocol.infer_type import RequestedOutput

url, model, file = sys.argv[1:]
there = np.load(file)


async def ask():
    client = kserve.InferenceRESTClient(RESTConfig(protocol="v2", timeout=30))
    assert await client.is_server_live(url) and await client.is_server_ready(url)
    assert await client.is_model_ready(url, model)
    for cut in range(4):
        rows = there[f"cut{cut}"]
        tensor = kserve.InferInput("ACTIVATION", list(rows.shape), "FP32")
        tensor.set_data_from_numpy(rows, binary_data=cut % 2 == 0)
        request = kserve.InferRequest(
            model_name=model,
            infer_inputs=[tensor],
            request_outputs=[RequestedOutput("logits", parameters={"binary_data": cut < 2})],
            parameters={"cut": cut, "manifest": str(there["digest"])},
        )
        answer = await client.infer(url, request, model_name=model)
        np.testing.assert_allclose(answer.outputs[0].as_numpy(), there["logits"], rtol=0, atol=1e-5)
    image = kserve.InferInput("IMAGE", [1], "BYTES")
    image.set_data_from_numpy(np.array([there["png"].tobytes()], dtype=np.object_))
    answer = await client.infer(url, kserve.InferRequest(model, [image]), model_name=model)
    got = {output.name: output.as_numpy() for output in answer.outputs}
    np.testing.assert_allclose(got["logits"][0], there["photo"], rtol=0, atol=1e-5)
    try:
        await client.infer(url, kserve.InferRequest(model, [image], parameters={"cut": 3}), model_name=model)
    except Exception as error:
        assert type(error).__module__.split(".")[0] in ("httpx", "kserve") and "400" in str(error), error
    else:
        raise AssertionError("a wrong request was answered")
    await client.close()


asyncio.run(ask())
print("all of it")
"""


def test_kserve_s_client(running: Running, photo: Image.Image, png: bytes, tmp_path: Path) -> None:
    if find_spec("kserve") is None:  # looked for, not imported: see KSERVE
        pytest.skip("kserve is not installed")
    cuts = {f"cut{cut}": running.activation(cut) for cut in range(4)}
    file = tmp_path / "there.npz"
    seen = np.frombuffer(png, np.uint8)
    np.savez(file, logits=running.logits(), photo=running.logits_of(photo), png=seen, digest=running.digest, **cuts)  # type: ignore[arg-type]
    call = [sys.executable, "-c", KSERVE, running.url, MODEL, str(file)]
    done = subprocess.run(call, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip().endswith("all of it"), done.stderr[-3000:]
