"""The guards of the unit tests do guard."""

from __future__ import annotations

import socket

import pytest
import ray
import torch
from ray import serve
from ray.cluster_utils import Cluster


def test_ray_cannot_be_started() -> None:
    with pytest.raises(AssertionError, match="tried to start Ray"):
        ray.init()
    with pytest.raises(AssertionError, match="tried to start Ray"):
        Cluster(initialize_head=True)
    with pytest.raises(AssertionError, match="tried to start Ray"):
        serve.start()


def test_a_remote_call_does_not_start_ray_by_itself() -> None:
    with pytest.raises(AssertionError, match="tried to start Ray"):
        ray.remote(lambda: 1).remote()


def test_other_machines_cannot_be_reached() -> None:
    with socket.socket() as sock, pytest.raises(AssertionError, match=r"192\.0\.2\.1"):  # TEST-NET, RFC 5737
        sock.connect(("192.0.2.1", 80))


def test_this_machine_can_be_reached() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        assert client.getpeername() == server.getsockname()


def test_torch_uses_one_thread() -> None:
    assert torch.get_num_threads() == 1
