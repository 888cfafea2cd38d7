"""Why a request is not answered, in the codes of HTTP and of gRPC."""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

from ..messages import RefusalCode

#: Refusal -> HTTP status, and the name of gRPC's status.
STATUS: Mapping[str, tuple[int, str]] = {
    "unknown_model": (404, "NOT_FOUND"),
    "stale": (409, "FAILED_PRECONDITION"),
    "bad_cut": (400, "INVALID_ARGUMENT"),
    "bad_codec": (400, "INVALID_ARGUMENT"),
    "bad_shape": (400, "INVALID_ARGUMENT"),
    "bad_request": (400, "INVALID_ARGUMENT"),
    "not_finite": (400, "INVALID_ARGUMENT"),
    "overloaded": (503, "RESOURCE_EXHAUSTED"),
    "too_late": (504, "DEADLINE_EXCEEDED"),
    "failed": (500, "INTERNAL"),
    "cancelled": (499, "CANCELLED"),
    "stopped": (503, "UNAVAILABLE"),
}

#: All codes, for whoever reads an answer.
CODES: frozenset[str] = frozenset(get_args(RefusalCode))


def http_status(code: str) -> int:
    """Of a refusal."""
    return STATUS[code][0]


def grpc_status(code: str) -> str:
    """Name in ``grpc.StatusCode`` of a refusal."""
    return STATUS[code][1]
