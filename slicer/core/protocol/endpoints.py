"""The questions that a device asks beside its requests, each declared once.

The HTTP ingress makes its routes of `ENDPOINTS`, both transports make their calls of one. An endpoint is a `GET`, so it
may be asked again: its arguments travel in the path and the query, its answer is the body. Requests for inference are
no endpoint: they go by the Open Inference Protocol (`protocol.oip`), by a way of their own.

To add one: declare it here and append it to `ENDPOINTS`, write the method of this name of
`deployments.replica.tail_server.TailServer`, and that of `network.server.Server`, which only asks.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from ..errors import HeadTailError, ModelError, ShardError
from . import packet
from .messages import ServedModel

T = TypeVar("T")

JSON = "application/json"
BINARY = "application/octet-stream"


@dataclass(frozen=True, eq=False)
class Endpoint(Generic[T]):
    """One question, and how it and its answer travel.

    Attributes:
        name: of the method on both sides, and the first word of the path.
        arguments: in the method's order: name and type. A text that is missing is empty, a number 0; numbers are whole
            and not negative.
        answer: the type of the answer. The server's method may return a `Refusal` instead.
        encode, decode: the answer as a body and back. `decode` raises ValueError for what is no such body.
        content_type: of that body.
        refused: what the device's user reads before the reason, when the server refuses; may name arguments in braces.
        error: what the client raises then.
        raises: what else the server's method may raise for bad arguments, and the HTTP status of it. 404 counts as a
            refusal.
        in_path: the argument that is the rest of the path; empty: all are in the query.
        payload_bytes: what an answer weighs on an emulated link, beside its envelope.
    """

    name: str
    arguments: Mapping[str, type[str] | type[int]]
    answer: type[T]
    encode: Callable[[T], bytes]
    decode: Callable[[bytes], T]
    content_type: str
    refused: str
    error: type[HeadTailError]
    payload_bytes: Callable[[T], int]
    raises: Mapping[type[Exception], int] = field(default_factory=dict)
    in_path: str = ""

    @property
    def route(self) -> str:
        """For people: ``/shard/<sha256>``."""
        return f"/{self.name}/<{self.in_path}>" if self.in_path else f"/{self.name}"

    def url(self, arguments: tuple[str | int, ...]) -> tuple[str, dict[str, str]]:
        """Path and query of the question."""
        query = {name: str(value) for name, value in zip(self.arguments, arguments, strict=True)}
        return (f"/{self.name}/{query.pop(self.in_path)}" if self.in_path else f"/{self.name}"), query

    def method_of(self, side: Any) -> Any:
        """The method of this name: of a server, of a client, or of a Serve handle."""
        return getattr(side, self.name)

    def refusal(self, arguments: tuple[str | int, ...], by: str, why: str) -> HeadTailError:
        """The client's error for a refusal."""
        return self.error(f"{by} {self.refused.format(**dict(zip(self.arguments, arguments, strict=True)))}: {why}")


DESCRIBE = Endpoint(
    name="describe",
    arguments={"model": str},
    answer=ServedModel,
    encode=lambda served: json.dumps(packet.encode_model(served)).encode(),
    decode=lambda body: packet.decode_model(json.loads(body)),
    content_type=JSON,
    refused="serves no such model",
    error=ModelError,
    payload_bytes=lambda served: (
        len(served.manifest_json)
        + sum(map(len, served.labels))
        + len(served.preprocessing_json)
        + len(served.onnx)
        + len(served.calibration_json)
    ),
)

SHARD = Endpoint(
    name="shard",
    arguments={"sha256": str, "offset": int, "length": int},
    in_path="sha256",
    answer=bytes,
    encode=bytes,
    decode=bytes,
    content_type=BINARY,
    refused="gave no shard {sha256:.12}",
    error=ShardError,
    raises={KeyError: 404, ValueError: 400},
    payload_bytes=len,
)

#: All of them. The ingress looks here for the first word of a path.
ENDPOINTS: list[Endpoint[Any]] = [DESCRIBE, SHARD]
