"""Whether an application offers HTTP, and where: every case that `settle` tells apart."""

from __future__ import annotations

import socket
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from deployments.config import HttpAddress, ServerConfig, parse_config
from deployments.placing import http_endpoint
from deployments.placing.http_endpoint import (
    Running,
    free_port,
    make_private,
    own_files,
    own_ports,
    private_folder,
    settle,
)
from deployments.placing.placement import Node
from slicer.common.ray_serve_env import OWN_FILES, OWN_PORTS
from slicer.errors import ConfigError, ServerError

ONE = [Node("a", "10.0.0.1", {})]
TWO = [*ONE, Node("b", "10.0.0.2", {})]
SAME_HOST = [*ONE, Node("b", "10.0.0.1", {})]


def config(**http: object) -> ServerConfig:
    return parse_config({"http": http, "token": ""})


def taken(port: int) -> int:
    return 41000


def as_asked(port: int) -> int:
    return port


def test_by_default_one_node_offers_it_to_itself_with_a_token_of_its_own() -> None:
    settled = settle(config(), ONE, None, as_asked)
    assert settled.http == HttpAddress("127.0.0.1", 8000, grpc_port=9000)
    assert len(settled.config.token) >= 32
    assert settle(config(), ONE, None, as_asked).config.token != settled.config.token


def test_by_default_several_hosts_offer_it_on_all_interfaces_since_haproxy_binds_the_same_everywhere() -> None:
    assert settle(config(), TWO, None, as_asked).http == HttpAddress("0.0.0.0", 8000, grpc_port=9000)


def test_by_default_a_taken_port_is_left_alone() -> None:
    assert settle(config(), ONE, None, taken).http == HttpAddress("127.0.0.1", 41000, grpc_port=41000)
    asked = settle(config(port=9000), ONE, None, as_asked).http
    assert asked == HttpAddress("127.0.0.1", 9000, grpc_port=9001)  # this one was asked for


def test_by_default_it_is_off_where_it_cannot_work() -> None:
    assert settle(config(), SAME_HOST, None, as_asked).http is None  # one port, two nodes
    assert settle(config(), ONE, Running(), as_asked).http is None  # Serve runs without
    assert settle(config(), ONE, Running("0.0.0.0", 8000), as_asked).http is None  # Serve's own proxy
    assert settle(config(port=9000), ONE, Running("10.0.0.1", 8000, haproxy=True), as_asked).http is None


def test_an_application_that_comes_later_takes_what_is_there() -> None:
    for asked in ({}, {"enabled": True}, {"enabled": True, "port": 8123}):
        settled = settle(config(**asked), TWO, Running("0.0.0.0", 8123, haproxy=True), as_asked)
        assert settled.http == HttpAddress("0.0.0.0", 8123)


def test_what_is_asked_for_is_given_or_refused() -> None:
    settled = settle(config(enabled=True, host="0.0.0.0"), SAME_HOST, None, taken)
    assert (settled.http, settled.config.token) == (HttpAddress("0.0.0.0", 8000, grpc_port=41000), "")
    assert settle(config(enabled=False), ONE, None, as_asked).http is None
    with pytest.raises(ServerError, match=r"already runs with HTTP at 10\.0\.0\.1:8123, not at any address:9000"):
        settle(config(enabled=True, port=9000), ONE, Running("10.0.0.1", 8123, haproxy=True), as_asked)
    with pytest.raises(ServerError, match="none of this kind"):
        settle(config(enabled=True), ONE, Running("10.0.0.1", 8000), as_asked)


def test_an_address_that_rays_haproxy_cannot_serve_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"host '10\.0\.0\.9': Ray's HAProxy could not reach the replicas there"):
        config(host="10.0.0.9")


def test_a_given_token_is_kept() -> None:
    assert settle(parse_config({"token": "mine"}), ONE, None, as_asked).config.token == "mine"


def test_haproxys_own_ports_move_where_they_are_taken_and_the_operators_word_counts() -> None:
    stats, metrics, fallback, grpc_fallback = OWN_PORTS
    assert own_ports({}, as_asked) == {stats: "8404", metrics: "9101", fallback: "8500", grpc_fallback: "9500"}
    assert own_ports({stats: "8405"}, taken) == {
        stats: "8405",
        **dict.fromkeys((metrics, fallback, grpc_fallback), "41000"),
    }


def test_haproxys_files_lie_where_no_other_user_gets_and_a_sockets_path_is_not_too_long(tmp_path: Path) -> None:
    folder = private_folder()
    assert folder != private_folder()
    files = own_files({"RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": "/mine/cfg"}, folder)
    assert files.keys() == OWN_FILES.keys() and files.pop("RAY_SERVE_HAPROXY_CONFIG_FILE_LOC") == "/mine/cfg"
    assert all(path == folder or path.startswith(f"{folder}/") for path in files.values())
    node_id = "/" + "f" * 56
    assert max(len(path) + len(node_id) for path in files.values()) <= 97  # HAProxy's limit for a socket

    make_private(str(tmp_path / "a"))
    make_private(str(tmp_path / "a"))
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o700


def test_a_port_is_free_until_somebody_listens_there() -> None:
    with socket.socket() as listener:
        listener.bind(("", 0))
        listener.listen()
        port = listener.getsockname()[1]
        assert free_port(port) != port
    assert free_port(port) == port


def test_http_that_is_asked_for_without_an_address_is_at_serves_own() -> None:
    http = http_endpoint.as_asked(config(enabled=True)).http
    assert http is not None
    assert http.of("cameras", "10.0.0.1") == "http://127.0.0.1:8000/cameras"


def grpc_config(http: dict[str, object] | None = None, **grpc: object) -> ServerConfig:
    return parse_config({"http": http or {}, "grpc": grpc, "token": ""})


def test_grpc_is_where_http_is() -> None:
    there = Running("0.0.0.0", 8123, haproxy=True, grpc_port=9123)
    assert settle(config(), TWO, there, as_asked).http == HttpAddress("0.0.0.0", 8123, grpc_port=9123)
    assert settle(grpc_config(port=9123), TWO, there, as_asked).http == HttpAddress("0.0.0.0", 8123, grpc_port=9123)
    assert settle(grpc_config(port=9999), TWO, there, as_asked).http == HttpAddress("0.0.0.0", 8123)
    without = settle(grpc_config(), TWO, Running("0.0.0.0", 8123, haproxy=True), as_asked)
    assert without.http == HttpAddress("0.0.0.0", 8123)
    assert settle(grpc_config({"enabled": False}), ONE, None, as_asked).http is None


def test_grpc_that_is_not_wanted_is_not_there() -> None:
    running = Running("127.0.0.1", 8000, haproxy=True, grpc_port=9000)
    for there in (None, running):
        assert settle(grpc_config(enabled=False), ONE, there, as_asked).http == HttpAddress("127.0.0.1", 8000)


def test_grpc_that_is_asked_for_is_given_or_refused() -> None:
    for asked in ({"enabled": True}, {"port": 9000}, {"enabled": True, "port": 9000}):
        http = settle(grpc_config({"port": 8000}, **asked), ONE, None, taken).http
        assert http == HttpAddress("127.0.0.1", 8000, grpc_port=9000)
    running = Running("127.0.0.1", 8000, haproxy=True)
    with pytest.raises(ServerError, match="Serve already runs with no gRPC, not at port 9000"):
        settle(grpc_config(enabled=True), ONE, running, as_asked)
    with pytest.raises(ServerError, match="Serve already runs with gRPC at port 9123, not at port 9999"):
        settle(grpc_config(enabled=True, port=9999), ONE, replace(running, grpc_port=9123), as_asked)
    with pytest.raises(ServerError, match="but HTTP is not possible here"):
        settle(grpc_config(enabled=True), SAME_HOST, None, as_asked)
    with pytest.raises(ConfigError, match="gRPC comes with HTTP"):
        grpc_config({"enabled": False}, enabled=True)
    with pytest.raises(ConfigError, match=r"http\.port and grpc\.port are both 8123"):
        grpc_config({"port": 8123}, port=8123)


def test_where_grpc_is_reached() -> None:
    assert HttpAddress("0.0.0.0", 8000, grpc_port=9000).grpc_of("10.0.0.1") == "10.0.0.1:9000"
    assert HttpAddress("::1", 8000, grpc_port=9000).grpc_of("10.0.0.1") == "[::1]:9000"
    assert HttpAddress("127.0.0.1", 8000).grpc_of("10.0.0.1") == ""
    assert [HttpAddress(host, 1).local for host in ("127.0.0.1", "::1", "0.0.0.0")] == [True, True, False]


def test_a_configuration_that_says_itself_where_grpc_is() -> None:
    asked = grpc_config({"enabled": True}, enabled=True)
    assert http_endpoint.as_asked(asked).http == HttpAddress("127.0.0.1", 8000, grpc_port=9000)
    assert http_endpoint.as_asked(config(enabled=True)).http == HttpAddress("127.0.0.1", 8000)
