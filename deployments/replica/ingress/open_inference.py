"""The Open Inference Protocol over a server's requests: one for HTTP and gRPC, which only read and write.

A request's rows run together with those of everybody else; it is answered when its last one has ended, or refused when
one of them is. Nothing here waits for anything else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from deployments.ipc.hosted_model import HostedModel
from slicer.core.common.top_k import top_k
from slicer.core.protocol.messages import Answer, Refusal, Reply, Request
from slicer.core.protocol.oip import fast_path
from slicer.core.protocol.oip.http_body import MAX_REQUESTS
from slicer.core.protocol.oip.metadata import OfferedModel, model_config, model_metadata
from slicer.core.protocol.oip.requests import CLASS_MAP, image_file, rows_of
from slicer.core.protocol.oip.responses import (
    MOST_CLASSES,
    check_classes,
    check_outputs,
    check_size,
    response_of,
    softmax,
    version_of,
)
from slicer.core.protocol.oip.tensors import Buffer, InferRequest, InferResponse
from slicer.core.protocol.outputs import FEATURES, LOGITS
from slicer.errors import BadRequestError


class Server(Protocol):
    """What runs the rows; `RequestServer` is one."""

    @property
    def models(self) -> Mapping[str, HostedModel]:
        """What is served now, by name."""

    @property
    def emulated(self) -> tuple[str, ...]:
        """Names of emulated parts."""

    def absent(self, request_id: str, model: str) -> Refusal:
        """A model that is not served."""

    async def infer_parcel(self, requests: list[Request]) -> list[Answer]:
        """Every request answered for itself, in order."""

    async def check_health(self) -> None:
        """Raises if the replica cannot serve."""


class Refused(Exception):
    """A question that is answered with a refusal."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


#: Which request it is, its model, and the first of its rows and that after its last.
_Span = tuple[int, InferRequest, HostedModel, int, int]

#: Bytes of an answer that may be put together on the event loop; that of more takes milliseconds, and has a thread.
_ON_LOOP = 1 << 19
_FLOAT_BYTES = 4


def _respond(spans: Sequence[_Span], answers: Sequence[Answer], found: dict[int, InferResponse | Refusal]) -> None:
    for number, one, model, start, end in spans:
        found[number] = response_of(one, model, answers[start:end])


class OpenInference:
    """Of one replica. All methods run on its event loop."""

    def __init__(self, server: Server) -> None:
        self._server = server

    async def infer(self, asked: Sequence[InferRequest | Refusal]) -> list[InferResponse | Refusal]:
        """Each answered or refused for itself, in order, all when the last row has ended; a refusal stays one."""
        models = self._server.models
        found: dict[int, InferResponse | Refusal] = {}
        rows: list[Request] = []
        spans: list[_Span] = []
        large, classes = False, 0
        for number, one in enumerate(asked):
            if isinstance(one, Refusal):
                found[number] = one
                continue
            model = models.get(one.model)
            if model is None:
                found[number] = self._server.absent(one.id, one.model)
                continue
            if not _is_served(model, one.version):
                found[number] = _other_version(one.id, model, one.version)
                continue
            try:
                outputs = check_outputs(one, model)
                of_one = rows_of(one, model, outputs=outputs, limit=MAX_REQUESTS - len(rows))
                classes += check_classes(one, model, len(of_one), MOST_CLASSES - classes)
                large = large or check_size(one, model, len(of_one), model.config.max_answer_bytes) > _ON_LOOP
            except BadRequestError as error:
                found[number] = Refusal(one.id, "bad_request", str(error))
                continue
            spans.append((number, one, model, len(rows), len(rows) + len(of_one)))
            rows += of_one
        answers = await self._server.infer_parcel(rows) if rows else []
        if large:
            await asyncio.to_thread(_respond, spans, answers, found)
        else:
            _respond(spans, answers, found)
        return [found[number] for number in range(len(asked))]

    def own_row(self, body: Buffer, json_bytes: str | None, model: str) -> fast_path.Row[HostedModel] | None:
        """Of a body that our own devices wrote (`fast_path.decode_request`). None: it is for `infer`."""
        hosted = self._server.models.get(model)
        row = None if hosted is None else fast_path.decode_request(body, json_bytes, hosted)
        return row if row is not None and _can_be_answered([row]) else None

    def own_rows(self, body: Buffer, json_bytes: str | None) -> list[fast_path.Row[HostedModel]] | None:
        """As `own_row`, of a parcel."""
        rows = fast_path.decode_parcel(body, json_bytes, self._server.models)
        return rows if rows is not None and _can_be_answered(rows) else None

    async def predict(self, image: Buffer, *, model: str = "", count: int = 5) -> dict[str, Any]:
        """The shortest way: one image file to its classes, as JSON values.

        Args:
            image: a JPEG or PNG file.
            model: may be empty where there is only one.
            count: of classes.

        Raises:
            Refused: as any request.
        """
        hosted = self._model(model or self._only())
        own = hosted.outputs[0].shape
        if len(own) != 1:
            raise self._bad(
                f"model {hosted.name!r} answers {list(own)}, not classes; ask by /v2 for {CLASS_MAP} or {LOGITS}"
            )
        if not hosted.classifies:
            has = any(output.name == FEATURES for output in hosted.outputs)
            raise self._bad(
                f"model {hosted.name!r} answers an embedding of {own[0]} numbers, which has no top_k classes: POST the "
                f"image to /v2/models/{hosted.name}/infer and ask for output {FEATURES if has else LOGITS}"
                + ("" if has else f" (outputs: [{FEATURES}] in the server's file gives it as {FEATURES})")
            )
        try:
            codec, payload = image_file(image)
        except BadRequestError as error:
            raise self._bad(str(error)) from None
        request = Request("", hosted.name, hosted.digest, 0, codec, hosted.shapes[0], payload)
        (answer,) = await self._server.infer_parcel([request])
        if isinstance(answer, Refusal):
            raise Refused(answer)
        return prediction(answer, hosted.name, hosted.labels, count)

    def live(self) -> bool:
        """The process answers."""
        return True

    async def ready(self) -> bool:
        """Requests have a chance."""
        try:
            await self._server.check_health()
        except Exception:  # whatever it is, this replica cannot serve
            return False
        return bool(self._server.models)

    def model_ready(self, name: str, version: str = "") -> bool:
        """Whether requests for it have a chance."""
        model = self._server.models.get(name)
        return model is not None and _is_served(model, version)

    def metadata(self, name: str, version: str = "") -> dict[str, Any]:
        """Raises Refused: there is no such model."""
        return model_metadata(self._offered(name, version))

    def config(self, name: str, version: str = "") -> dict[str, Any]:
        """Raises Refused: there is no such model."""
        return model_config(self._offered(name, version))

    def index(self) -> list[dict[str, Any]]:
        """All models, as Triton's repository index has them."""
        return [
            {"name": model.name, "version": version_of(model.digest), "state": "READY", "reason": ""}
            for model in self._server.models.values()
        ]

    def _offered(self, name: str, version: str) -> OfferedModel:
        model = self._model(name)
        if not _is_served(model, version):
            raise Refused(_other_version("", model, version))
        return OfferedModel(
            model.describe(self._server.emulated),
            model.shapes,
            model.outputs,
            model.takes_images,
            len(model.labels),
            model.config.max_batch,
        )

    def _model(self, name: str) -> HostedModel:
        model = self._server.models.get(name)
        if model is None:
            raise Refused(self._server.absent("", name))
        return model

    def _only(self) -> str:
        """The one model's name; empty: there is none now."""
        models = list(self._server.models)
        if len(models) > 1:
            raise self._bad(f"there are several models; add ?model=NAME, one of {', '.join(models)}")
        return models[0] if models else ""

    def _bad(self, message: str) -> Refused:
        return Refused(Refusal("", "bad_request", message))


def _can_be_answered(rows: Sequence[fast_path.Row[HostedModel]]) -> bool:
    """Whether all answers keep within the limits of `check_classes` and `check_size`, and none needs a thread."""
    classes = 0
    for row in rows:
        size = row.model.outputs[0].size
        if row.top_k:
            classes += min(row.top_k, size)
        elif size * _FLOAT_BYTES > min(row.model.config.max_answer_bytes, _ON_LOOP):
            return False
    return classes <= MOST_CLASSES


def _is_served(model: HostedModel, version: str) -> bool:
    """Whether it is the one that is here; empty: any will do."""
    return version in ("", version_of(model.digest))


def _other_version(request_id: str, model: HostedModel, version: str) -> Refusal:
    message = f"version {version[:80]!r} of model {model.name!r}; {version_of(model.digest)!r} is served"
    return Refusal(request_id, "unknown_model", message)


def prediction(reply: Reply, model: str, labels: Sequence[str], count: int) -> dict[str, Any]:
    """A reply with all logits as `OpenInference.predict` says it; ``label`` is None where classes have no names.

    Raises:
        Refused: the model answered with what is no number.
    """
    scores = softmax(np.frombuffer(reply.logits, "<f4"))
    if not np.isfinite(scores).all():
        raise Refused(Refusal("", "failed", f"model {model!r} answered with NaN or infinity", reply.server))
    best = [
        {"label": labels[index] if index < len(labels) else None, "score": score, "class": index}
        for index, score in top_k(scores, count)
    ]
    timings = reply.timings
    return {
        **best[0],
        "top_k": best,
        "model": model,
        "timings_ms": {
            "admission": timings.admission_ms,
            "queue": timings.queue_ms,
            "execution": timings.execution_ms,
            "total": timings.total_ms,
        },
    }
