"""The table of Serve's settings is what the processes get."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from actors.network.serve_transport import DEVICE_ENV
from deployments.config import parse_config
from slicer.common.ray_serve_env import OWN_FILES, OWN_PORTS, SETTINGS, environment
from tests.paths import ROOT


def test_every_setting_has_a_place_and_a_reason_and_one_line() -> None:
    assert all(setting.where and setting.why for setting in SETTINGS)
    assert len({setting.name for setting in SETTINGS}) == len(SETTINGS)


def test_each_process_gets_its_own_and_http_only_where_it_is_enabled() -> None:
    assert set(environment("device")) <= set(DEVICE_ENV)
    assert "RAY_SERVE_ENABLE_HA_PROXY" not in environment("replica")
    for where in ("controller", "replica"):
        assert environment(where, http=True)["RAY_SERVE_ENABLE_HA_PROXY"] == "1"
    assert environment("controller") == {}


def test_what_the_operator_set_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH", "1")
    assert environment("replica")["RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH"] == "1"


def test_the_settings_exist_in_the_installed_ray() -> None:
    constants = pytest.importorskip("ray.serve._private.constants")
    text = Path(constants.__file__).read_text(encoding="utf-8")
    names = [*(setting.name for setting in SETTINGS), *OWN_PORTS, *OWN_FILES]
    assert [name for name in names if f'"{name}"' not in text] == []


def test_no_other_module_sets_one() -> None:
    files = [path for package in ("slicer", "actors", "deployments") for path in (ROOT / package).rglob("*.py")]
    setting = re.compile(r'"RAY_SERVE_[A-Z_]+"')
    assert [path.name for path in files if setting.search(path.read_text(encoding="utf-8"))] == ["ray_serve_env.py"]


def test_the_token_comes_from_the_environment_and_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADTAIL_TOKEN", "secret")
    config = parse_config({})
    assert config.token == "secret" and "secret" not in repr(config)
