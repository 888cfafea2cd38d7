"""Unit tests run in this process alone: no Ray is started and no other machine is reached."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Iterator
from typing import Any, NoReturn

import pytest
import ray
import ray.cluster_utils
import torch
from ray import serve

from tests.unit.replica_context import put_replica_context

torch.set_num_threads(1)

_real_connect = socket.socket.connect


def _no_ray(*_args: Any, **_kwargs: Any) -> NoReturn:
    raise AssertionError("a unit test tried to start Ray; move it to tests/cluster, or test the part that needs none")


def _local_connect(sock: socket.socket, address: Any) -> None:
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        host = str(address[0])
        local = host == "localhost"
        with contextlib.suppress(ValueError):
            local = local or ipaddress.ip_address(host).is_loopback
        if not local:
            raise AssertionError(f"a unit test tried to reach {host}; unit tests stay on this machine")
    _real_connect(sock, address)


@pytest.fixture(autouse=True)
def only_this_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forbids every way to a Ray of our own or somebody else's, and sockets to other machines."""
    # `f.remote()` without Ray starts one through ray.init as well (ray._private.auto_init_hook).
    monkeypatch.setattr(ray, "init", _no_ray)
    monkeypatch.setattr(ray._private.worker, "init", _no_ray)
    monkeypatch.setattr(ray.cluster_utils.Cluster, "__init__", _no_ray)
    for name in ("start", "run", "connect"):
        if hasattr(serve, name):
            monkeypatch.setattr(serve, name, _no_ray)
    monkeypatch.setattr(socket.socket, "connect", _local_connect)
    yield


@pytest.fixture
def replica_context(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if this process were a replica of Serve."""
    put_replica_context(monkeypatch)
    yield
