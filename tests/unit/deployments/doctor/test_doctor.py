"""The doctor: what it concludes from facts, and what it sees of this machine."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from ray import cloudpickle

from deployments.doctor import cli as doctor
from deployments.doctor import facts
from deployments.doctor.checks import GIB, MINIMA, PYTHONS, Facts, Finding, examine, release
from deployments.doctor.facts import NodeFacts
from slicer.common import command_line, nvml
from slicer.core.shards.described import describe
from slicer.core.shards.manifest import Manifest
from slicer.core.shards.spec import ModelSpec
from slicer.errors import ConfigError
from slicer.shards import tensor_file
from tests.paths import ROOT

GOOD = NodeFacts(
    name="a",
    python="3.11.7",
    machine="x86_64",
    versions={"ray": "2.60.0", "torch": "2.9.0+cpu", "timm": "1.0.31"},
    cuda=[],
    memory_total_bytes=32 * GIB,
    memory_available_bytes=16 * GIB,
    shm_bytes=16 * GIB,
    disk_total_bytes=100 * GIB,
    disk_free_bytes=50 * GIB,
)
SERVER = replace(GOOD, name="gpu", resources={"CPU": 8, "server": 1}, auth_mode="token", token=True)
EDGE = replace(GOOD, name="edge", machine="aarch64", resources={"CPU": 4, "edge": 4}, auth_mode="token", token=True)
CLUSTER = Facts([SERVER, EDGE], address="10.0.0.1:6379", dashboard="10.0.0.1:8265")


def complaints(seen: Facts) -> list[Finding]:
    return [finding for finding in examine(seen) if finding.level != "ok"]


def only(seen: Facts) -> Finding:
    (finding,) = complaints(seen)
    return finding


def alone(**changes: object) -> Facts:
    return Facts([replace(GOOD, **changes)])  # type: ignore[arg-type]


def test_nothing_is_wrong_with_a_good_machine_or_a_good_cluster() -> None:
    assert complaints(Facts([GOOD])) == []
    assert complaints(CLUSTER) == []


def test_every_complaint_says_what_to_do() -> None:
    bad = replace(
        GOOD, python="3.9.1", versions={}, cuda=None, cuda_error="boom", memory_available_bytes=1, shm_bytes=1
    )
    worse = replace(bad, name="b", python="3.14.0", resources={"GPU": 1}, disk_free_bytes=1, auth_mode="token")
    found = complaints(Facts([bad, worse, NodeFacts(name="c", dead="did not answer")], address="x:1", server="s"))
    assert len(found) > 12
    assert [finding for finding in found if not finding.todo] == []


class TestVersions:
    @pytest.mark.parametrize(
        ("version", "numbers"), [("2.6.0+cpu", (2, 6, 0)), ("1.0.20", (1, 0, 20)), ("2.9.0a1", (2, 9, 0)), ("x", ())]
    )
    def test_release(self, version: str, numbers: tuple[int, ...]) -> None:
        assert release(version) == numbers

    def test_the_minima_are_those_of_pyproject(self) -> None:
        tomllib = pytest.importorskip("tomllib", reason="in the standard library since Python 3.11")
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        stated = {}
        for requirement in project["dependencies"]:
            name, _, least = requirement.partition(">=")
            stated[name.partition("[")[0]] = release(least)
        assert {name: stated[name] for name in MINIMA} == MINIMA
        assert project["requires-python"] == ">={}.{},<{}.{}".format(*PYTHONS[0], *PYTHONS[1])

    def test_a_missing_library_fails(self) -> None:
        finding = only(alone(versions={**GOOD.versions, "timm": None}))
        assert (finding.level, finding.message) == ("fail", "timm is missing")

    def test_an_old_library_fails_with_the_least_version(self) -> None:
        finding = only(alone(versions={**GOOD.versions, "ray": "2.59.1"}))
        assert (finding.level, finding.message) == ("fail", "ray 2.59.1 is too old")
        assert "ray>=2.60" in finding.todo

    def test_python_out_of_range_fails(self) -> None:
        assert only(alone(python="3.14.0")).level == "fail"
        assert only(alone(python="3.9.18")).todo == "make .venv again with Python 3.10 to 3.13"

    def test_another_python_on_one_node_fails_even_in_its_last_number(self) -> None:
        finding = only(replace(CLUSTER, nodes=[SERVER, replace(EDGE, python="3.11.2")]))
        assert finding.level == "fail"
        assert finding.message == "Python differs: 3.11.2 on edge; 3.11.7 on gpu"

    def test_another_torch_warns_but_another_build_of_it_does_not(self) -> None:
        cuda = replace(EDGE, versions={**GOOD.versions, "torch": "2.9.0+cu128"})
        assert complaints(replace(CLUSTER, nodes=[SERVER, cuda])) == []
        other = replace(EDGE, versions={**GOOD.versions, "torch": "2.8.0"})
        assert only(replace(CLUSTER, nodes=[SERVER, other])).level == "warn"

    def test_a_node_without_the_project_warns(self) -> None:
        finding = only(replace(CLUSTER, nodes=[SERVER, replace(EDGE, project="No module named 'slicer'")]))
        assert (finding.level, finding.node) == ("warn", "edge")
        assert "python -m actors" in finding.todo


class TestGpu:
    def test_a_declared_gpu_without_cuda_is_told(self) -> None:
        finding = only(replace(CLUSTER, nodes=[replace(SERVER, resources={"server": 1, "GPU": 1}), EDGE]))
        assert (finding.level, finding.node) == ("warn", "gpu")
        assert finding.message == "Ray declares GPU 1, but torch has no CUDA (torch is a CPU build)"

    def test_a_gpu_that_torch_cannot_use_is_told(self) -> None:
        finding = only(alone(nvml=["H200"], cuda_build="13.0"))
        assert finding.message == "NVML sees H200, but torch has no CUDA (torch is built for CUDA 13.0)"

    def test_a_gpu_without_nvml_only_warns(self) -> None:
        assert "NVML sees no GPU" in only(alone(cuda=["Orin"], cuda_build="12.6")).message

    def test_a_gpu_that_ray_was_not_told_of_warns(self) -> None:
        node = replace(SERVER, cuda=["H200"], nvml=["H200"], cuda_build="13.0")
        assert "Ray was told of no GPU" in only(replace(CLUSTER, nodes=[node, EDGE])).message

    def test_a_good_gpu(self) -> None:
        node = replace(SERVER, cuda=["H200"], nvml=["H200"], cuda_build="13.0", resources={"server": 1, "GPU": 1})
        assert complaints(replace(CLUSTER, nodes=[node, EDGE])) == []

    def test_a_broken_torch_fails_with_its_own_words(self) -> None:
        assert "libcudart.so" in only(alone(cuda=None, cuda_error="OSError: libcudart.so: not found")).message


class TestResources:
    def test_no_edge_node_fails(self) -> None:
        finding = only(replace(CLUSTER, nodes=[SERVER, replace(EDGE, resources={"CPU": 4})]))
        assert finding.level == "fail"
        assert "--resources='{\"edge\": 4}'" in finding.todo

    def test_no_server_node_warns(self) -> None:
        assert only(replace(CLUSTER, nodes=[replace(SERVER, resources={"CPU": 4}), EDGE])).level == "warn"

    def test_one_machine_needs_neither(self) -> None:
        assert complaints(replace(CLUSTER, nodes=[replace(SERVER, resources={"CPU": 4})])) == []

    def test_both_on_one_node_warns(self) -> None:
        both = replace(SERVER, resources={"server": 1, "edge": 2})
        assert only(replace(CLUSTER, nodes=[both, EDGE])).message == "declares both server and edge"

    def test_a_misspelt_mark_warns_but_not_of_a_ray_head_node_without_one(self) -> None:
        misspelt = replace(EDGE, resources={"CPU": 4, "memory": 1, "node:10.0.0.3": 1, "egde": 4})
        finding = only(replace(CLUSTER, nodes=[SERVER, EDGE, misspelt]))
        assert finding.message == "declares neither server nor edge (egde): it gets no work"
        head = replace(EDGE, resources={"CPU": 4, "node:__internal_head__": 1})
        assert complaints(replace(CLUSTER, nodes=[SERVER, EDGE, head])) == []


class TestMembers:
    NODES = (replace(SERVER, address="10.0.0.1"), replace(EDGE, address="10.0.0.2"))

    def test_a_machine_of_the_file_that_is_not_there_fails(self) -> None:
        finding = only(replace(CLUSTER, nodes=self.NODES, members=["10.0.0.1", "10.0.0.2", "10.0.0.3"]))
        assert (finding.level, finding.node) == ("fail", "10.0.0.3")
        assert "token" in finding.todo

    def test_all_are_there(self) -> None:
        assert complaints(replace(CLUSTER, nodes=self.NODES, members=["10.0.0.1", "10.0.0.2"])) == []

    def test_they_are_read_from_the_file(self, tmp_path: Path) -> None:
        assert doctor.members_of(None) is None
        assert doctor.members_of(str(ROOT / "cluster-onprem.yaml")) == [f"192.168.1.{n}" for n in (10, 21, 22, 23)]
        with pytest.raises(ConfigError, match="head_ip"):
            doctor.members_of(str(ROOT / "cluster.yaml"))
        with pytest.raises(ConfigError, match=r"none\.yaml"):
            doctor.members_of(str(tmp_path / "none.yaml"))


def export_two_slices(directory: Path) -> Manifest:
    """A whole export, as small as possible."""
    shards = []
    for number in (1, 2):
        path = directory / f"slice_{number}.safetensors"
        tensor_file.write(path, {"weight": torch.zeros(4)})
        shards.append(describe(path, path.name))
    spec = ModelSpec("tiny")
    manifest = Manifest(
        spec, "2.6", "1.0.20", ("b",), ((1,), (1,), (1,)), ("float32",) * 3, tuple(shards), ("0" * 64,) * 2, (0, 0, 0)
    )
    (directory / "manifest.json").write_text(manifest.to_json())
    return manifest


INTACT = {"digest": "abc", "slices": 4}


class TestShards:
    def test_devices_need_none(self) -> None:
        nodes = [replace(SERVER, shards=INTACT), replace(EDGE, shards={"error": "/s is no directory here"})]
        assert complaints(replace(CLUSTER, nodes=nodes)) == []

    def test_the_server_does(self) -> None:
        nodes = [replace(SERVER, shards={"error": "slice-2.safetensors: sha256 differs"}), EDGE]
        finding = only(replace(CLUSTER, nodes=nodes))
        assert (finding.level, finding.message) == ("fail", "slice-2.safetensors: sha256 differs")

    def test_so_does_one_machine(self) -> None:
        assert only(alone(shards={"error": "/s is no directory here"})).level == "fail"

    def test_two_manifests_under_one_path_fail(self) -> None:
        nodes = [replace(SERVER, shards=INTACT), replace(EDGE, shards={"digest": "abd", "slices": 4})]
        assert "2 different manifests" in only(replace(CLUSTER, nodes=nodes)).message

    def test_a_missing_directory_is_seen(self, tmp_path: Path) -> None:
        assert "no directory" in facts.check_shards(str(tmp_path / "none"))["error"]

    def test_a_directory_without_a_manifest_is_seen(self, tmp_path: Path) -> None:
        assert "manifest.json" in facts.check_shards(str(tmp_path))["error"]

    def test_intact_truncated_and_missing_files_are_told_apart(self, tmp_path: Path) -> None:
        manifest = export_two_slices(tmp_path)
        assert facts.check_shards(str(tmp_path)) == {"digest": manifest.digest, "slices": 2}
        second = tmp_path / manifest.shards[1].file
        second.write_bytes(second.read_bytes()[:-1])
        assert "slice_2.safetensors: not the bytes" in facts.check_shards(str(tmp_path))["error"]
        second.unlink()
        assert "slice_2.safetensors" in facts.check_shards(str(tmp_path))["error"]


class TestAuth:
    def test_token_mode_without_a_token_fails(self) -> None:
        finding = only(replace(CLUSTER, nodes=[SERVER, replace(EDGE, token=False)]))
        assert (finding.level, finding.node) == ("fail", "edge")

    def test_a_token_without_a_mode_warns_in_a_cluster_only(self) -> None:
        finding = only(replace(CLUSTER, nodes=[SERVER, replace(EDGE, auth_mode="")]))
        assert (finding.level, finding.node) == ("warn", "edge")
        assert "RAY_AUTH_MODE=token" in finding.todo
        assert complaints(alone(token=True)) == []

    def test_a_cluster_without_authentication_warns(self) -> None:
        open_nodes = [replace(node, auth_mode="", token=False) for node in (SERVER, EDGE)]
        assert {(f.level, f.check) for f in complaints(replace(CLUSTER, nodes=open_nodes))} == {("warn", "auth")}

    def test_where_a_token_is_looked_for(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
        monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
        monkeypatch.setenv("HOME", str(tmp_path))
        assert not facts.has_token()
        (tmp_path / ".ray").mkdir()
        (tmp_path / ".ray" / "auth_token").write_text("x")
        assert facts.has_token()
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "elsewhere"))
        assert not facts.has_token()
        monkeypatch.setenv("RAY_AUTH_TOKEN", "x")
        assert facts.has_token()


class TestPortsAndSpace:
    def test_a_port_in_use_on_this_machine_warns(self) -> None:
        finding = only(alone(reachable={"127.0.0.1:6379": False, "127.0.0.1:8265": True}))
        assert (finding.level, finding.message) == ("warn", "port 8265 is in use")

    def test_a_dashboard_that_a_node_cannot_reach_warns(self) -> None:
        nodes = [SERVER, replace(EDGE, reachable={CLUSTER.dashboard: False})]
        assert only(replace(CLUSTER, nodes=nodes)).node == "edge"

    def test_a_cluster_without_a_dashboard_warns(self) -> None:
        assert only(replace(CLUSTER, dashboard="")).check == "ports"

    @pytest.mark.parametrize(
        ("field", "value", "words"),
        [
            ("memory_available_bytes", GIB, "1.0 GiB of memory"),
            ("shm_bytes", 64 * 1024**2, "/dev/shm has 0.06 GiB"),
            ("disk_free_bytes", 4 * GIB, "4.0 GiB of disk free"),
        ],
    )
    def test_too_little_room_warns(self, field: str, value: int, words: str) -> None:
        finding = only(alone(**{field: value}))
        assert finding.level == "warn"
        assert words in finding.message

    def test_missing_figures_are_no_complaint(self) -> None:
        unknown = dict.fromkeys(("memory_total_bytes", "memory_available_bytes", "shm_bytes", "disk_free_bytes"))
        assert complaints(alone(**unknown)) == []

    def test_reachable(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            address = f"127.0.0.1:{server.getsockname()[1]}"
            assert facts.reachable(address)
        assert not facts.reachable(address, timeout_s=0.5)
        assert not facts.reachable("auto")


class TestServer:
    def test_running(self) -> None:
        assert complaints(replace(CLUSTER, server="headtail", applications={"headtail": "RUNNING"})) == []

    def test_absent_names_what_is_there(self) -> None:
        finding = only(replace(CLUSTER, server="headtail", applications={"other": "RUNNING"}))
        assert finding.level == "fail"
        assert finding.message == "no application 'headtail'; there is: other"

    def test_unhealthy_fails(self) -> None:
        assert only(replace(CLUSTER, server="h", applications={"h": "UNHEALTHY"})).level == "fail"


class TestNodesThatDoNotAnswer:
    def test_they_fail_and_the_others_are_still_checked(self) -> None:
        dead = NodeFacts(name="10.0.0.9", dead="did not answer within 120 s")
        findings = examine(replace(CLUSTER, nodes=[SERVER, EDGE, dead]))
        assert [f.node for f in findings if f.level == "fail"] == ["10.0.0.9"]
        assert [f.node for f in findings if f.check == "versions" and f.level == "ok"] == ["gpu", "edge"]


def test_what_is_sent_to_a_node_needs_no_headtail_there() -> None:
    for module in (facts, nvml):
        cloudpickle.register_pickle_by_value(module)
    try:
        sent = cloudpickle.dumps(facts.gather)
    finally:
        for module in (facts, nvml):
            cloudpickle.unregister_pickle_by_value(module)
    there = """
import json, pickle, sys
sys.modules.update(dict.fromkeys(("slicer", "deployments")))  # None: as if not installed
print(json.dumps(pickle.load(sys.stdin.buffer)()))
"""
    done = subprocess.run([sys.executable, "-c", there], input=sent, capture_output=True, timeout=120)
    seen = NodeFacts(**json.loads(done.stdout))
    assert "slicer" in seen.project
    assert seen.versions["ray"]


class TestCommand:
    """The whole command on this machine; what is found differs per machine, the form does not."""

    def test_json_and_exit_code_agree(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        assert doctor.main(["--json", "--shards", str(tmp_path / "none")]) == 2
        document = json.loads(capsys.readouterr().out)
        assert document["ok"] is False
        failed = [finding["check"] for finding in document["findings"] if finding["level"] == "fail"]
        assert failed == ["shards"]
        assert document["nodes"][0]["versions"]["ray"]

    def test_a_cluster_that_is_not_there(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert doctor.main(["--address", "127.0.0.1:1"]) == 2
        assert "nothing answers at 127.0.0.1:1" in capsys.readouterr().err

    def test_the_report_ends_with_the_worst_and_the_counts(self) -> None:
        lines = doctor.report([Finding("fail", "x", "n", "bad", "mend"), Finding("ok", "x", "n", "good")]).splitlines()
        assert lines[0].startswith("ok")
        assert lines[1] == "fail  x          n: bad -> mend"
        assert lines[2] == "1 ok, 0 warn, 1 fail"


class TestFlags:
    def test_none_has_a_default_that_could_be_taken_for_a_wish(self) -> None:
        assert set(command_line.values(doctor.command, []).values()) == {None}

    def test_one_that_means_nothing_without_a_cluster_is_refused(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        assert doctor.main(["--timeout", "120"]) == 2
        assert "--timeout 120 is for the nodes of a cluster" in capsys.readouterr().err
        assert doctor.main(["--address", "local"]) == 2
        assert "would start a Ray of its own" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("flags", "environment", "address"),
        [
            ([], None, None),
            ([], "h:1", "h:1"),
            (["--address", "g:1"], "h:1", "g:1"),
            (["--server", "x"], None, "auto"),
            (["--cluster", "x"], None, "auto"),
            (["--server", "x", "--timeout", "3"], None, "auto"),
        ],
    )
    def test_where_it_looks(
        self, flags: list[str], environment: str | None, address: str | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        if environment:
            monkeypatch.setenv("RAY_ADDRESS", environment)
        assert doctor.address_of(doctor.DoctorFlags(**command_line.values(doctor.command, flags))) == address
