"""An application's way to a server, for asyncio."""

from __future__ import annotations

import asyncio
import itertools
import math
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, overload

import numpy as np
import numpy.typing as npt
from PIL import Image

from ..codecs import activations
from ..errors import BadRequestError, ConfigError, CutError, RefusedError, ServerError
from ..protocol.endpoints import DESCRIBE, SHARD
from ..protocol.messages import RETRYABLE, Answer, Refusal, Request, ServedModel
from ..protocol.oip.requests import ACTIVATION, TENSOR_CODECS, TOP_K
from ..protocol.oip.tensors import InferRequest, InferResponse, Parameter, Tensor, WantedOutput, names
from ..protocol.outputs import LOGITS
from ..shards.manifest import Manifest
from .connection import ComeAgain, Connection, Unreachable
from .images import As, ImageLike, image_tensor
from .prediction import Prediction, predictions_of
from .retries import patiently

#: How long a call may take, all attempts together, where nobody says.
TIMEOUT_S = 30.0

#: How long a server may take to say that it is ready.
READY_S = 5.0

Floats = npt.NDArray[np.floating[Any]]
Logits = npt.NDArray[np.float32]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Described:
    """What the server says of a model, and what its manifest does."""

    served: ServedModel
    manifest: Manifest


class AsyncClient:
    """Asks one server. Made anywhere, used on one event loop; any number of calls may overlap.

    A call is tried again, after a pause, when the server is overloaded or restarts, or the connection breaks, until
    `timeout_s` has passed. All sendings of one request carry one idempotency key, so that the server runs it once.
    What another attempt would not change is raised at once; so is an address where nobody has ever answered.

    Args:
        url: of the application, such as ``http://10.0.0.7:8000/headtail``.
        token: what the server wants as bearer token; default: the environment's HEADTAIL_TOKEN.
        timeout_s: how long a call may take, all attempts together, where the call does not say.

    Raises:
        ConfigError: url, token or timeout_s cannot be used.

    All calls raise:
        RefusedError: with a `code`, such as ``overloaded``, ``bad_cut``, or ``too_late`` where no answer came in time.
        ServerError: the server cannot be reached, or another one is there.
    """

    def __init__(self, url: str, token: str | None = None, *, timeout_s: float = TIMEOUT_S) -> None:
        self._connection = Connection(url, token)
        self._timeout_s = _checked_timeout(timeout_s)
        self._keys = map(f"{secrets.token_hex(8)}-{{}}".format, itertools.count())
        self._described: dict[str, _Described] = {}
        self._only = ""

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections; calling it again is harmless."""
        await self._connection.close()

    async def predict(
        self,
        image: ImageLike,
        *,
        model: str | None = None,
        top_k: int = 5,
        send_as: As = "pixels",
        timeout_s: float | None = None,
    ) -> Prediction:
        """The classes of one image.

        Args:
            image: the path of a file; a file's bytes; an image of Pillow; or uint8 [H, W, C] or [H, W]. JPEG and PNG
                files are sent as they are.
            model: may be left out where the server has only one.
            top_k: how many classes, at least 1.
            send_as: how what is no JPEG or PNG file travels: ``pixels``, or ``png``, which is smaller and takes time.
            timeout_s: all attempts together.

        Raises:
            ImageError: the image cannot be read.
        """
        (prediction,) = await self.predict_many([image], model=model, top_k=top_k, send_as=send_as, timeout_s=timeout_s)
        return prediction

    async def predict_many(
        self,
        images: Sequence[ImageLike],
        *,
        model: str | None = None,
        top_k: int = 5,
        send_as: As = "pixels",
        timeout_s: float | None = None,
    ) -> list[Prediction]:
        """The classes of several images, in their order; they travel in one body, and are answered together.

        The server batches them with each other and with everybody's. Arguments as of `predict`; at most 1024 images.
        One that is refused for good ends the call; of those that are tried again only these are sent again.
        """
        if isinstance(images, (str, bytes, Path, Image.Image, np.ndarray)):
            raise BadRequestError(f"predict_many of one {type(images).__name__}; give a list of images, or use predict")
        until = _Until(timeout_s, self._timeout_s)
        wanted = [WantedOutput(TOP_K, {"k": _checked_count(top_k)})]
        tensors = await asyncio.to_thread(lambda: [image_tensor(image, send_as) for image in images])
        if not tensors:
            return []
        name = await self._name(model, until)
        responses = await self._infer([InferRequest(name, [tensor], wanted) for tensor in tensors], until)
        return self._read(lambda: [predictions_of(response)[0] for response in responses])

    @overload
    async def infer(
        self,
        activation: Floats,
        *,
        cut: int,
        model: str | None = None,
        codec: str = "fp32",
        top_k: None = None,
        manifest: str | None = None,
        timeout_s: float | None = None,
    ) -> Logits: ...

    @overload
    async def infer(
        self,
        activation: Floats,
        *,
        cut: int,
        model: str | None = None,
        codec: str = "fp32",
        top_k: int,
        manifest: str | None = None,
        timeout_s: float | None = None,
    ) -> Prediction | list[Prediction]: ...

    async def infer(
        self,
        activation: Floats,
        *,
        cut: int,
        model: str | None = None,
        codec: str = "fp32",
        top_k: int | None = None,
        manifest: str | None = None,
        timeout_s: float | None = None,
    ) -> Logits | Prediction | list[Prediction]:
        """What the server makes of an activation at a cut, whose head ran here.

        Args:
            activation: of one image, shaped as the model has it at this cut, or of B of them, [B, ...].
            cut: how many slices have run; 0: it is the model's input.
            codec: how it travels: fp32, fp16, bf16, int8 or int4.
            top_k: classes instead of logits.
            manifest: digest of what the head was loaded from (`ServedModel.manifest`); default: what the server serves.
            model, timeout_s: as of `predict`.

        Returns:
            Logits [classes], or [B, classes]; with `top_k` a prediction, or a list of B.

        Raises:
            CutError: the server takes nothing at this cut. BadRequestError: the shape is another.
            CodecError: it is not finite, or beyond what the codec holds; the codec is unknown.
            RefusedError: of code ``stale``: the server has other weights by now. Load the head of `describe` again.
        """
        until = _Until(timeout_s, self._timeout_s)
        name = await self._name(model, until)
        output = WantedOutput(LOGITS, {"binary_data": True, "datatype": "FP32"})
        if top_k is not None:
            output = WantedOutput(TOP_K, {"k": _checked_count(top_k)})
        request, single = await self._of_activation(name, activation, cut, codec, manifest, output, until)
        (response,) = await self._infer([request], until)
        if top_k is not None:
            found = self._read(lambda: predictions_of(response))
            return found[0] if single else found
        logits = self._read(lambda: _logits(response, request.inputs[0].shape[0]))
        return logits[0] if single else logits

    async def output(
        self,
        name: str,
        given: ImageLike | Floats,
        *,
        cut: int | None = None,
        model: str | None = None,
        codec: str = "fp32",
        datatype: Literal["FP32", "FP16"] | None = None,
        send_as: As = "pixels",
        timeout_s: float | None = None,
    ) -> npt.NDArray[Any]:
        """One whole output of the model, of one image, or of an activation whose head ran here.

        Args:
            name: ``logits``; ``features``, the pooled embedding, or ``tokens``, where the server's model has them
                (``outputs:`` of its configuration); ``class_map``, the best class at each place of a dense output.
            given: an image, as of `predict`; with `cut` an activation, as of `infer`.
            cut, codec: of the activation.
            datatype: how numbers travel; None: as the model's metadata says, FP16 for large outputs.
            model, send_as, timeout_s: as of `predict`.

        Returns:
            float32 or float16 in the output's shape, [B, ...] of B activations; a class map uint8 or uint16.

        Raises:
            BadRequestError: `name` is ``top_k``.
            RefusedError: of code ``bad_request``: the model has no such output, or its answer is too large.
        """
        if name == TOP_K:
            raise BadRequestError(f"output {TOP_K} is text and not an array; use predict, or infer(..., top_k=5)")
        until = _Until(timeout_s, self._timeout_s)
        asked = await self._name(model, until)
        wanted: dict[str, Parameter] = {"binary_data": True}
        if datatype is not None:
            wanted["datatype"] = datatype
        output, single = WantedOutput(name, wanted), True
        if cut is None:
            tensor = await asyncio.to_thread(image_tensor, given, send_as)  # type: ignore[arg-type]
            request = InferRequest(asked, [tensor], [output])
        else:
            request, single = await self._of_activation(asked, given, cut, codec, None, output, until)  # type: ignore[arg-type]
        (response,) = await self._infer([request], until)
        if [one.name for one in response.outputs] != [name]:
            raise ServerError(f"{self._connection.url} answered with other outputs than {name}")
        found = self._read(response.outputs[0].array)
        return found[0] if single else found

    async def describe(self, model: str | None = None, *, timeout_s: float | None = None) -> ServedModel:
        """What the server says of a model now: digest of its weights, cuts, codecs. Raises ModelError: it has none."""
        until = _Until(timeout_s, self._timeout_s)
        return (await self._describe(await self._name(model, until), until)).served

    async def models(self, *, timeout_s: float | None = None) -> list[str]:
        """Names of the models that the server has now."""
        return await self._models(_Until(timeout_s, self._timeout_s))

    async def ready(self) -> bool:
        """Whether a request would have a chance now. Asks once; a server that says nothing for 5 s is not ready.

        Raises:
            ServerError: something else than a HeadTail server answers there.
        """
        try:
            status, _ = await asyncio.wait_for(self._connection.get("/v2/health/ready"), min(self._timeout_s, READY_S))
        except (ComeAgain, Unreachable, asyncio.TimeoutError):
            return False
        return status == 200

    async def shard(self, sha256: str, offset: int, length: int, *, timeout_s: float | None = None) -> bytes:
        """Up to `length` bytes of a slice's file (`describe`, its manifest), fewer at its end; at most 4 MiB at once.

        Raises:
            ShardError: the server has no such file.
        """
        return await self._again(
            lambda left_s: self._connection.ask(SHARD, sha256, offset, length), _Until(timeout_s, self._timeout_s)
        )

    async def infer_requests(self, requests: Sequence[Request]) -> list[Answer]:
        """Rows of devices in one body, each answered or refused for itself; sent once (`Connection.infer_requests`)."""
        return await self._connection.infer_requests(requests)

    async def _of_activation(
        self,
        model: str,
        activation: Floats,
        cut: int,
        codec: str,
        manifest: str | None,
        output: WantedOutput,
        until: _Until,
    ) -> tuple[InferRequest, bool]:
        """A request for one output of activations, and whether it was one without a batch dimension."""
        known = self._described.get(model) or await self._describe(model, until)
        rows, single = _rows_of(activation, cut, known)
        tensor = _encoded(codec, rows, known.manifest.channel_axes[cut])
        parameters: dict[str, Parameter] = {"cut": cut, "codec": codec, "manifest": manifest or known.served.manifest}
        return InferRequest(model, [tensor], [output], parameters=parameters), single

    async def _infer(self, requests: Sequence[InferRequest], until: _Until) -> list[InferResponse]:
        """The responses, in order; those that are refused for the moment are sent again under the same key."""
        keys = [next(self._keys) for _ in requests]
        found: dict[int, InferResponse] = {}

        async def attempt(left_s: float) -> None:
            parameters: dict[str, Parameter] = {"timeout": max(int(left_s * 1e6), 1)}
            waiting = [number for number in range(len(requests)) if number not in found]
            asked = [
                replace(
                    requests[number],
                    parameters={**requests[number].parameters, **parameters, "idempotency_key": keys[number]},
                )
                for number in waiting
            ]
            refused: list[RefusedError] = []
            for number, answer in zip(waiting, await self._connection.infer(asked), strict=True):
                if isinstance(answer, Refusal):
                    where = f"number {number} of {len(requests)}: " if len(requests) > 1 else ""
                    refused.append(self._error(answer, where, requests[number].model))
                else:
                    found[number] = answer
            if refused:
                raise next((error for error in refused if error.code not in RETRYABLE), refused[0])

        await self._again(attempt, until)
        return [found[number] for number in range(len(requests))]

    def _error(self, refusal: Refusal, where: str, model: str) -> RefusedError:
        """What is known of the model is forgotten where the refusal says that it no longer holds."""
        message = where + refusal.message
        if refusal.code in ("stale", "unknown_model", "bad_cut", "bad_shape"):
            self._described.pop(model, None)
            self._only = ""
        if refusal.code == "stale":
            message += "; the client has forgotten its description: load the head of describe() and compute again"
        return RefusedError(refusal.code, message, refusal.server)

    async def _describe(self, model: str, until: _Until) -> _Described:
        served = await self._again(lambda left_s: self._connection.ask(DESCRIBE, model), until)
        try:
            known = _Described(served, Manifest.from_json(served.manifest_json))
        except ValueError as error:
            raise ServerError(f"{self._connection.url} is no HeadTail server of this release: {error}") from error
        self._described[model] = known
        return known

    async def _models(self, until: _Until) -> list[str]:
        async def ask(left_s: float) -> list[str]:
            status, found = await self._connection.get("/v2/models")
            if status == 200 and isinstance(found, list):
                return [str(one["name"]) for one in found if isinstance(one, dict) and "name" in one]
            said = found.get("error") if isinstance(found, dict) else found
            raise ServerError(f"{self._connection.url} answered {status}: {str(said)[:200]}")

        return await self._again(ask, until)

    async def _name(self, model: str | None, until: _Until) -> str:
        """The model's name; where none is given, that of the only one."""
        if model is not None:
            return model
        if not self._only:
            there = await self._models(until)
            if len(there) != 1:
                what = f"has several models; give model=, one of {names(there)}" if there else "has no model now"
                raise BadRequestError(f"{self._connection.url} {what}")
            self._only = there[0]
        return self._only

    async def _again(self, attempt: Callable[[float], Awaitable[T]], until: _Until) -> T:
        return await patiently(
            attempt,
            within_s=until.within_s,
            until_s=until.moment_s,
            again=self._worth_another,
            who=self._connection.url,
        )

    def _worth_another(self, error: ServerError) -> bool:
        if isinstance(error, RefusedError):
            return error.code in RETRYABLE
        return isinstance(error, ComeAgain) or (isinstance(error, Unreachable) and self._connection.answered)

    def _read(self, read: Callable[[], T]) -> T:
        try:
            return read()
        except BadRequestError as error:
            raise ServerError(f"{self._connection.url} is no HeadTail server of this release: {error}") from error


class _Until:
    """When a call's time is over; made when it begins."""

    def __init__(self, timeout_s: float | None, default_s: float) -> None:
        self.within_s = default_s if timeout_s is None else _checked_timeout(timeout_s)
        self.moment_s = asyncio.get_running_loop().time() + self.within_s


def _checked_timeout(timeout_s: float) -> float:
    if not isinstance(timeout_s, (int, float)) or not 0 < timeout_s < math.inf:
        raise ConfigError(f"timeout_s={timeout_s!r}; it must be a number of seconds, above 0")
    return float(timeout_s)


def _checked_count(top_k: int) -> int:
    if type(top_k) is not int or not 1 <= top_k < 1 << 31:
        raise BadRequestError(f"top_k={top_k!r}; it must be a whole number, at least 1")
    return top_k


def _rows_of(activation: Floats, cut: int, known: _Described) -> tuple[Floats, bool]:
    """Activations [B, ...], and whether it was one without that dimension."""
    served = known.served
    if cut not in served.entries:
        raise CutError(f"cut {cut!r}: model {served.name!r} takes activations at {names(served.entries)}")
    want, given = known.manifest.shapes[cut], np.asarray(activation)
    if given.dtype.kind != "f":
        raise BadRequestError(f"an activation of dtype {given.dtype}; give floats")
    single = given.shape == want
    if not single and (given.shape[1:] != want or not len(given)):
        raise BadRequestError(
            f"an activation of shape {list(given.shape)} at cut {cut} of model {served.name!r}; one has {list(want)}, "
            f"several have {['B', *want]}"
        )
    return (given[np.newaxis] if single else given), single


def _encoded(codec: str, rows: Floats, axis: int) -> Tensor:
    """The input ACTIVATION; payloads of one codec and shape are of one length."""
    payloads = [activations.encode(codec, row, axis) for row in rows]
    datatype = TENSOR_CODECS.get(codec, "UINT8")
    shape = (len(rows), len(payloads[0])) if datatype == "UINT8" else rows.shape
    return Tensor(ACTIVATION, datatype, shape, b"".join(payloads))


def _logits(response: InferResponse, rows: int) -> Logits:
    if len(response.outputs) != 1 or response.outputs[0].name != LOGITS or response.outputs[0].shape[:1] != (rows,):
        raise BadRequestError(f"the answer has other outputs than {rows} rows of {LOGITS}")
    return np.array(response.outputs[0].array(), np.float32)
