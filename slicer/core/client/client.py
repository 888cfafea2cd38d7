"""An application's way to a server, for code without asyncio."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, overload

import numpy.typing as npt

from ..common.loop_thread import LoopThread
from ..protocol.messages import Answer, Request, ServedModel
from .async_client import TIMEOUT_S, AsyncClient, Floats, Logits
from .images import As, ImageLike
from .prediction import Prediction


class Client:
    """`AsyncClient` with calls that block; its event loop runs in a thread of its own.

    Thread-safe: any number of threads may call at once, and their requests overlap. Every call takes the arguments of
    the method of `AsyncClient` of its name, and raises the same. A forked process makes its own: the thread stays with
    the parent, so calls of one that was used before the fork raise ServerError.

    >>> from headtail import Client
    >>> with Client(url) as client:  # http://host:8000/headtail
    ...     prediction = client.predict(photo, top_k=3)
    ...     logits = client.infer(activation, cut=2)
    >>> prediction.label, prediction.score > 0.9, len(prediction.top_k), logits.shape
    ('digit: 8', True, 3, (10,))
    """

    def __init__(self, url: str, token: str | None = None, *, timeout_s: float = TIMEOUT_S) -> None:
        self._client = AsyncClient(url, token, timeout_s=timeout_s)
        self._thread = LoopThread("client", self._client.close)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections and end the thread; calling it again is harmless. Calls that wait raise ServerError."""
        self._thread.close()

    def predict(
        self,
        image: ImageLike,
        *,
        model: str | None = None,
        top_k: int = 5,
        send_as: As = "pixels",
        timeout_s: float | None = None,
    ) -> Prediction:
        """The classes of one image: the path or bytes of a file, an image of Pillow, or uint8 [H, W, C] or [H, W]."""
        return self._thread.run(
            lambda: self._client.predict(image, model=model, top_k=top_k, send_as=send_as, timeout_s=timeout_s)
        )

    def predict_many(
        self,
        images: Sequence[ImageLike],
        *,
        model: str | None = None,
        top_k: int = 5,
        send_as: As = "pixels",
        timeout_s: float | None = None,
    ) -> list[Prediction]:
        """The classes of several images, in their order; they travel in one body, and are answered together."""
        return self._thread.run(
            lambda: self._client.predict_many(images, model=model, top_k=top_k, send_as=send_as, timeout_s=timeout_s)
        )

    @overload
    def infer(
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
    def infer(
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

    def infer(
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
        """Logits [classes] of an activation at a cut, or [B, classes] of B of them; with `top_k` predictions."""
        arguments: Any = {"cut": cut, "model": model, "codec": codec, "top_k": top_k}
        answer: Logits | Prediction | list[Prediction] = self._thread.run(
            lambda: self._client.infer(activation, **arguments, manifest=manifest, timeout_s=timeout_s)
        )
        return answer

    def output(
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
        """One whole output, such as ``features``, of an image, or with `cut` an activation (`AsyncClient.output`)."""
        arguments: Any = {"cut": cut, "model": model, "codec": codec, "datatype": datatype, "send_as": send_as}
        return self._thread.run(lambda: self._client.output(name, given, **arguments, timeout_s=timeout_s))

    def describe(self, model: str | None = None, *, timeout_s: float | None = None) -> ServedModel:
        """What the server says of a model now: digest of its weights, cuts, codecs."""
        return self._thread.run(lambda: self._client.describe(model, timeout_s=timeout_s))

    def models(self, *, timeout_s: float | None = None) -> list[str]:
        """Names of the models that the server has now."""
        return self._thread.run(lambda: self._client.models(timeout_s=timeout_s))

    def ready(self) -> bool:
        """Whether a request would have a chance now; asks once."""
        return self._thread.run(self._client.ready)

    def shard(self, sha256: str, offset: int, length: int, *, timeout_s: float | None = None) -> bytes:
        """Up to `length` bytes of a slice's file, fewer at its end; at most 4 MiB at once."""
        return self._thread.run(lambda: self._client.shard(sha256, offset, length, timeout_s=timeout_s))

    def infer_requests(self, requests: Sequence[Request]) -> list[Answer]:
        """Rows of devices in one body, each answered or refused for itself; sent once."""
        return self._thread.run(lambda: self._client.infer_requests(requests))
