"""Why a command cannot join a Ray: one line, with what to do. Nothing here starts Ray."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from deployments.doctor import connection, running_rays
from deployments.doctor.running_rays import meant
from slicer.errors import ServerError

AT = "10.0.0.1:6379"
NO_TOKEN = "Failed to connect: Unauthenticated: InvalidAuthToken: Authentication token is missing or incorrect"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_a_cluster_with_tokens_says_which_step_is_missing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error = RuntimeError(NO_TOKEN)
    none = connection.diagnose(AT, NO_TOKEN, error)
    assert AT in none and "there is none here: copy ~/.ray/auth_token" in none and "RAY_AUTH_MODE=token" in none
    (home / ".ray").mkdir()
    (home / ".ray" / "auth_token").write_text("secret")
    unused = connection.diagnose(AT, NO_TOKEN, error)
    assert "not in use: export RAY_AUTH_MODE=token" in unused and "secret" not in unused
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert "another token than the one here" in connection.diagnose(AT, NO_TOKEN, error)


def test_another_version_names_both() -> None:
    said = (
        "Version mismatch: The cluster was started with:\n    Ray: 2.9.0\n    Python: 3.9.1\n"
        "This process on node 10.0.0.2 was started with:\n    Ray: 2.60.0\n    Python: 3.11.7\n"
    )
    line = connection.diagnose(AT, said, RuntimeError(said))
    assert "Ray 2.9.0, Python 3.9.1, this process Ray 2." in line and "use the same" in line and "\n" not in line


def test_something_else_that_listens_is_no_ray_and_the_line_has_no_noise() -> None:
    line = connection.diagnose(AT, "E0000 grpc noise\n" * 20, ConnectionError("timed out\nmore\n"))
    assert "no Ray that can be joined (timed out)" in line and "noise" not in line and "\n" not in line


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("foo", "address 'foo' is none: give HOST:6379, auto or local"),
        ("127.0.0.1:1", ":1: give the GCS address"),
    ],
)
def test_an_address_without_a_ray_is_refused_before_ray_is_asked(home: Path, address: str, says: str) -> None:
    with pytest.raises(ServerError, match=says):
        connection.connect(address)


def test_what_a_dead_ray_left_is_passed_over_or_refused(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from ray._private import services

    with socket.create_server(("127.0.0.1", 0)) as server:
        dead = f"127.0.0.1:{server.getsockname()[1]}"
    monkeypatch.setattr(services, "find_bootstrap_address", lambda _: dead)
    monkeypatch.setattr(services, "canonicalize_bootstrap_address", lambda _: dead)
    assert connection._settle(None, own=True) == (None, "local")
    assert "has ended, so a new one is started" in capsys.readouterr().err
    with pytest.raises(ServerError, match=f"{dead}, has ended: start one with `ray start --head`"):
        connection._settle(None, own=False)


def test_of_several_rays_none_is_taken_by_chance() -> None:
    mine, other, third = "h:1", "h:2", "h:3"
    rays = {mine: Path("/tmp/mine/ray"), other: Path("/tmp/ray"), third: Path("/tmp/ray")}
    assert meant(None, {other: Path("/tmp/ray")}, Path("/elsewhere")) == other
    assert meant(None, rays, Path("/tmp/mine/ray")) == mine
    assert meant(third, rays, Path("/tmp/mine/ray")) == third, "`ray start` started it"
    assert meant("h:9", {other: Path("/tmp/ray")}, Path("/tmp/ray")) == other, "the one that was started last has ended"
    assert meant("h:9", {}, Path("/tmp/ray")) == "h:9", "it has ended, which is said when it is asked"
    with pytest.raises(ServerError, match="several Rays run here: give --address, one of h:1, h:2, h:3"):
        meant(None, rays, Path("/tmp/ray"))
    with pytest.raises(ServerError, match="no Ray runs on this machine"):
        meant(None, {}, Path("/tmp/ray"))


def test_ray_is_told_the_one_that_is_meant_and_may_use_this_machines_token(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray
    from ray._private import services
    from ray._private.authentication import authentication_token_setup

    told: list[str] = []
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    token = "maybe_enable_token_auth_if_token_available"
    monkeypatch.setattr(authentication_token_setup, token, lambda warn_if_disabled: told.append("token"))
    monkeypatch.setattr(services, "find_bootstrap_address", lambda _: None)
    monkeypatch.setattr(services, "find_gcs_addresses", lambda: frozenset({"h:1", "h:2"}))
    monkeypatch.setattr(running_rays, "running_rays", lambda: {"h:1": Path("/a/ray"), "h:2": Path("/b/ray")})
    monkeypatch.setattr(connection.facts, "reachable", lambda _: True)
    monkeypatch.setattr(ray, "init", lambda address, **_: told.append(address))
    for folder, address in (("/a", "h:1"), ("/b", "h:2")):
        monkeypatch.setenv("RAY_TMPDIR", folder)
        connection.connect(None, own=False)
        connection.connect("auto")
        assert told == ["token", address] * 2
        told.clear()
    monkeypatch.setattr(services, "find_bootstrap_address", lambda _: "h:5")
    connection.connect("h:5")
    assert told == ["h:5"], "no token for an address that was given"
    monkeypatch.setenv("RAY_ADDRESS", "h:7")
    assert connection._settle("auto", own=True)[0] == "h:7"


@pytest.mark.parametrize("address", [None, "auto"])
def test_an_environment_that_says_auto_finds_none_or_the_one_that_is_meant(
    address: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray._private import services

    rays: dict[str, Path] = {}
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.setattr(services, "find_bootstrap_address", lambda _: None)
    monkeypatch.setattr(services, "find_gcs_addresses", lambda: frozenset(rays))
    monkeypatch.setattr(running_rays, "running_rays", lambda: rays)
    monkeypatch.setattr(connection.facts, "reachable", lambda _: True)
    with pytest.raises(ServerError, match="no Ray runs on this machine"):
        connection._settle(address, own=True)
    monkeypatch.setenv("RAY_TMPDIR", "/b")
    rays |= {"h:1": Path("/a/ray"), "h:2": Path("/b/ray")}
    assert connection._settle(address, own=True) == ("h:2", "auto")
