"""A description of the HTTP way in, for people's tools: OpenAPI 3.1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from slicer.core.common.version import headtail_version
from slicer.core.protocol.oip.http_body import LENGTH_HEADER
from slicer.core.protocol.oip.requests import PARAMETERS
from slicer.core.protocol.oip.tensors import ITEM_BYTES

Json = dict[str, Any]


def openapi(token: bool) -> Json:
    """The document.

    Args:
        token: whether requests must bring one.
    """
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "HeadTail",
            "version": headtail_version(),
            "description": "Tails of split vision models. /predict takes an image; /v2 is the Open Inference Protocol.",
        },
        "servers": [{"url": "."}],
        "paths": _paths(),
        "components": {"schemas": _SCHEMAS, "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
        **({"security": [{"token": []}]} if token else {}),
    }


def _paths() -> Json:
    model, version = _in_path("model", "the model's name"), _in_path("version", "as its metadata says")
    paths: Json = {
        "/predict": {
            "post": _operation(
                "Classify one image",
                [
                    _in_query("model", "may be left out where there is only one", {"type": "string"}),
                    _in_query("top_k", "how many classes", {"type": "integer", "minimum": 1, "maximum": 2**31 - 1}),
                ],
                _schema("Prediction"),
                body={name: {"schema": {"type": "string", "format": "binary"}} for name in _IMAGES},
            )
        },
        "/v2": {"get": _operation("About the server", [], _schema("Server"))},
        "/v2/health/live": {"get": _health("Whether the process answers")},
        "/v2/health/ready": {"get": _health("Whether requests have a chance")},
        "/v2/models": {"get": _operation("All models", [], {"type": "array", "items": _schema("Listed")})},
        "/v2/parcel": {
            "post": _operation(
                "Several requests, each answered for itself",
                [_LENGTH],
                _schema("ParcelAnswer"),
                body={"application/json": {"schema": _schema("Parcel")}, _BYTES: {"schema": {}}},
            )
        },
        "/describe": {
            "get": _operation(
                "What a device needs to know to join", [_in_query("model", "its name", {"type": "string"}, True)], {}
            )
        },
        "/shard/{sha256}": {
            "get": _operation(
                "A piece of a shard",
                [
                    _in_path("sha256", "digest of the shard"),
                    _in_query("offset", "first byte", _WHOLE),
                    _in_query("length", "how many bytes", _WHOLE),
                ],
                {},
                answer=_BYTES,
            )
        },
        "/health": {"get": _health("Whether the replica can serve", _schema("Health"))},
    }
    for prefix, where in (("/v2/models/{model}", [model]), ("/v2/models/{model}/versions/{version}", [model, version])):
        paths[prefix] = {"get": _operation("Inputs, outputs and cuts of a model", where, _schema("Model"))}
        paths[f"{prefix}/config"] = {"get": _operation("The same in Triton's words", where, {"type": "object"})}
        ready = _operation("Whether requests for it have a chance", where, _schema("Ready"))
        ready["responses"]["404"] = {"description": "not here", "content": {"application/json": {"schema": {}}}}
        paths[f"{prefix}/ready"] = {"get": ready}
        paths[f"{prefix}/infer"] = {
            "post": _operation(
                f"Run rows through the tail of a model. Parameters: {'; '.join(map(': '.join, PARAMETERS.items()))}.",
                [*where, _LENGTH],
                _schema("InferResponse"),
                body={"application/json": {"schema": _schema("InferRequest")}, _BYTES: {"schema": {}}},
            )
        }
    return paths


_BYTES = "application/octet-stream"
_IMAGES = ("image/jpeg", "image/png", _BYTES)
_WHOLE: Json = {"type": "integer", "minimum": 0, "maximum": 10**15 - 1}
_LENGTH: Json = {
    "name": LENGTH_HEADER,
    "in": "header",
    "description": "bytes of JSON in the body, where tensors follow as bytes",
    "schema": {"type": "integer", "minimum": 0},
}


def _schema(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _in_path(name: str, what: str) -> Json:
    return {"name": name, "in": "path", "required": True, "description": what, "schema": {"type": "string"}}


def _in_query(name: str, what: str, schema: Json, required: bool = False) -> Json:
    return {"name": name, "in": "query", "required": required, "description": what, "schema": schema}


def _operation(
    summary: str, parameters: list[Json], schema: Json, *, body: Mapping[str, Json] | None = None, answer: str = ""
) -> Json:
    content = {answer or "application/json": {"schema": schema}}
    if body is not None and _BYTES in body and not answer and "application/json" in body:
        content[_BYTES] = {"schema": {}}
    found: Json = {
        "summary": summary,
        "parameters": parameters,
        "responses": {
            "200": {"description": "done", "content": content},
            "default": {
                "description": "refused: 400 and 415 the request is wrong, 401 the token, 404 there is no such thing, "
                "409 the head is stale, 413 too long, 503 try again later, 504 too late",
                "content": {"application/json": {"schema": _schema("Error")}},
            },
        },
    }
    if body is not None:
        found["requestBody"] = {"required": True, "content": dict(body)}
    return found


def _health(summary: str, schema: Json | None = None) -> Json:
    found = _operation(summary, [], schema or _schema("Live"))
    found["security"] = []
    return found


def _object(required: list[str], **properties: Json) -> Json:
    return {"type": "object", "required": required, "properties": properties}


_TEXT, _NUMBER, _INTEGER = {"type": "string"}, {"type": "number"}, {"type": "integer"}
_PARAMETERS: Json = {
    "type": "object",
    "additionalProperties": {"type": ["string", "number", "integer", "boolean"]},
}
_TENSOR = _object(
    ["name", "datatype", "shape"],
    name=_TEXT,
    datatype={"enum": [*ITEM_BYTES, "BYTES"]},
    shape={"type": "array", "items": {"type": "integer", "minimum": 0}, "maxItems": 8},
    data={"type": "array"},
    parameters=_PARAMETERS,
)
_OUTPUT = _object(["name"], name=_TEXT, parameters=_PARAMETERS)
_REQUEST: Json = {
    "id": _TEXT,
    "parameters": _PARAMETERS,
    "inputs": {"type": "array", "items": _schema("Tensor"), "minItems": 1, "maxItems": 1},
    "outputs": {"type": "array", "items": _schema("Output"), "maxItems": 16},
}
_CLASS = _object(["label", "score", "class"], label={"type": ["string", "null"]}, score=_NUMBER, **{"class": _INTEGER})

_SCHEMAS: Json = {
    "Tensor": _TENSOR,
    "Output": _OUTPUT,
    "InferRequest": _object(["inputs"], **_REQUEST),
    "InferResponse": _object(
        ["model_name", "outputs"],
        model_name=_TEXT,
        model_version=_TEXT,
        id=_TEXT,
        parameters=_PARAMETERS,
        outputs={"type": "array", "items": _schema("Tensor")},
    ),
    "Parcel": _object(
        ["requests"],
        requests={
            "type": "array",
            "minItems": 1,
            "maxItems": 1024,
            "items": _object(["model_name", "inputs"], model_name=_TEXT, model_version=_TEXT, **_REQUEST),
        },
    ),
    "ParcelAnswer": _object(
        ["responses"],
        responses={"type": "array", "items": {"anyOf": [_schema("InferResponse"), _schema("Error")]}},
    ),
    "Class": _CLASS,
    "Prediction": {
        **_CLASS,
        "required": [*_CLASS["required"], "top_k", "timings_ms"],
        "properties": {
            **_CLASS["properties"],
            "model": _TEXT,
            "top_k": {"type": "array", "items": _schema("Class")},
            "timings_ms": _object(["total"], admission=_NUMBER, queue=_NUMBER, execution=_NUMBER, total=_NUMBER),
        },
    },
    "Server": _object(
        ["name", "version", "extensions"], name=_TEXT, version=_TEXT, extensions={"type": "array", "items": _TEXT}
    ),
    "Model": _object(
        ["name", "inputs", "outputs"],
        name=_TEXT,
        versions={"type": "array", "items": _TEXT},
        platform=_TEXT,
        inputs={"type": "array"},
        outputs={"type": "array"},
        parameters={"type": "object"},
    ),
    "Listed": _object(["name", "state"], name=_TEXT, version=_TEXT, state=_TEXT, reason=_TEXT),
    "Ready": _object(["ready"], name=_TEXT, ready={"type": "boolean"}),
    "Live": _object(["live", "ready"], live={"type": "boolean"}, ready={"type": "boolean"}),
    "Health": _object(["status"], status=_TEXT),
    "Error": _object(["error"], error=_TEXT, code=_TEXT, server=_TEXT, id=_TEXT),
}
