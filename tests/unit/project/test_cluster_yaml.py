"""cluster.yaml and cluster-onprem.yaml: what Ray's own checks say, and what we promise of them. No Ray is started."""

from __future__ import annotations

import copy
import os
import select
import shlex
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from deployments.doctor.checks import MINIMA, release
from tests.paths import ROOT

FILES = ("cluster.yaml", "cluster-onprem.yaml")


def load(name: str) -> dict[str, Any]:
    document = yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))
    assert isinstance(document, dict)
    return document


def all_commands(config: dict[str, Any]) -> list[str]:
    keys = ("setup_commands", "head_setup_commands", "worker_setup_commands")
    nodes = config.get("available_node_types", {}).values()
    found = [command for part in (config, *nodes) for key in keys for command in part.get(key, [])]
    return [*found, *config["head_start_ray_commands"], *config["worker_start_ray_commands"]]


@pytest.mark.parametrize("name", FILES)
class TestBoth:
    def test_ray_accepts_it_as_ray_up_would(self, name: str) -> None:
        validate_config(prepare_config(load(name)))

    def test_ray_would_refuse_a_misspelled_key(self, name: str) -> None:
        config = load(name)
        config["setup_comands"] = config.pop("setup_commands")
        with pytest.raises(jsonschema.ValidationError, match="setup_comands"):
            validate_config(prepare_config(config))

    def test_every_line_that_starts_ray_is_in_token_mode(self, name: str) -> None:
        config = load(name)
        for key in ("head_start_ray_commands", "worker_start_ray_commands"):
            (start,) = [command for command in config[key] if "ray start" in command]
            assert start.startswith("export RAY_AUTH_MODE=token")
        assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"

    def test_the_head_notices_a_lost_node_soon(self, name: str) -> None:
        (start,) = [command for command in load(name)["head_start_ray_commands"] if "ray start" in command]
        settings = dict(word.rstrip(";").split("=") for word in start.split() if word.startswith("RAY_health_check"))
        assert settings == {
            "RAY_health_check_period_ms": "1000",
            "RAY_health_check_timeout_ms": "2000" if name == "cluster.yaml" else "1500",
            "RAY_health_check_failure_threshold": "3",
        }

    def test_what_is_mounted_exists_and_is_enough_to_install_the_project(self, name: str) -> None:
        mounts = load(name)["file_mounts"]
        ours = {source for source in mounts.values() if not source.startswith("~")}
        assert {source for source in ours if not (ROOT / source).exists()} == set()
        assert all(target == f"~/headtail/{source}" for target, source in mounts.items() if source in ours)
        tomllib = pytest.importorskip("tomllib", reason="in the standard library since Python 3.11")
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())
        packages = {pattern.rstrip("*") for pattern in project["tool"]["setuptools"]["packages"]["find"]["include"]}
        needed = {"pyproject.toml", project["project"]["readme"], *project["project"]["license-files"], *packages}
        assert needed == ours

    def test_pinned_versions_satisfy_the_project(self, name: str) -> None:
        pins = [
            word.split("==") for command in all_commands(load(name)) for word in shlex.split(command) if "==" in word
        ]
        assert {pin[0].partition("[")[0] for pin in pins} >= {"ray", "timm"}
        for requirement, version in pins:
            assert release(version) >= MINIMA[requirement.partition("[")[0]]
        assert len({tuple(pin) for pin in pins}) == len({pin[0] for pin in pins}), "one version of each, everywhere"


class TestCloud:
    def test_the_server_goes_to_gpu_nodes_and_devices_to_edge_nodes(self) -> None:
        types = load("cluster.yaml")["available_node_types"]
        assert {name: node["resources"] for name, node in types.items()} == {
            "head": {},
            "gpu": {"server": 1},
            "edge": {"edge": 4},
        }
        assert all(types[name]["min_workers"] <= types[name]["max_workers"] for name in ("gpu", "edge"))
        assert types["gpu"]["min_workers"] >= 1

    def test_ray_would_refuse_fewer_workers_than_the_types_need(self) -> None:
        config = load("cluster.yaml")
        config["max_workers"] = 1
        with pytest.raises(ValueError, match="max_workers"):
            validate_config(prepare_config(config))


class TestOnPremises:
    def test_all_machines_join(self) -> None:
        config = load("cluster-onprem.yaml")
        (node,) = prepare_config(copy.deepcopy(config))["available_node_types"].values()
        assert node["min_workers"] == node["max_workers"] == len(config["provider"]["worker_ips"])

    def test_each_machine_reads_its_own_flags(self) -> None:
        config = load("cluster-onprem.yaml")
        for key in ("head_start_ray_commands", "worker_start_ray_commands"):
            (start,) = [command for command in config[key] if "ray start" in command]
            assert "~/ray-nodes/$a" in start
        assert config["file_mounts"]["~/ray-nodes"] == "~/ray-nodes"

    def test_a_worker_leaves_soon_after_the_head_and_leaves_nothing_behind(self) -> None:
        _, start, guard = load("cluster-onprem.yaml")["worker_start_ray_commands"]
        assert "RAY_gcs_rpc_server_reconnect_timeout_s=10;" in start
        assert subprocess.run(["sh", "-n", "-c", guard], capture_output=True).returncode == 0

    def test_the_guard_ends_the_children_of_a_raylet_that_has_ended_and_nothing_else(self, tmp_path: Path) -> None:
        """With a shell named raylet, whose child would go on for an hour; pgrep is told to see it alone."""
        *_, guard = load("cluster-onprem.yaml")["worker_start_ray_commands"]
        raylet = tmp_path / "raylet"
        raylet.symlink_to("/bin/bash")
        with subprocess.Popen([raylet, "-c", "sleep 3600 & echo $!; read"], stdin=-1, stdout=-1, text=True) as process:
            assert process.stdin is not None and process.stdout is not None
            ended = os.pidfd_open(int(process.stdout.readline()))  # readable once its process has ended
            ours = guard.replace("pgrep -n -x raylet", f"echo {process.pid}").replace(
                "sleep 2", "echo looked; sleep 0.1"
            )
            ours = ours.replace("pgrep -n -f ray/_private/[l]og_monitor", "true").partition("> /dev/null")[0]
            with subprocess.Popen(["sh", "-c", ours], stdout=-1, text=True) as watching:
                assert watching.stdout is not None and watching.stdout.readline() == "looked\n"
                process.stdin.write("\n")  # it ends
                process.stdin.close()
                process.wait(timeout=30)
                watching.communicate(timeout=30)
            assert watching.returncode == 0
        assert select.select([ended], [], [], 30)[0] == [ended]
        os.close(ended)
