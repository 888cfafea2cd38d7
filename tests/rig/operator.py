"""The operator's side: `ray up`, jobs, their results, `ray down`, all typed on the operator's host as a person would.

The cluster's file is the repository's cluster-onprem.yaml; see `on_these_hosts` for what is changed in it.
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from tests.rig.hosts import HEAD, OPERATOR, Hosts, Output, RigError

#: For every command of the operator's.
ENVIRONMENT = "export RAY_AUTH_MODE=token RAY_UP_enable_autoscaler_v2=0 PYTHONUNBUFFERED=1"

#: `ray start` flags of the two kinds of host, as the comments of cluster-onprem.yaml say; no GPU here.
FLAGS = {
    "server": '--num-cpus=2 --num-gpus=0 --resources={"server":1} --object-store-memory=500000000',
    "edge": '--num-cpus=1 --num-gpus=0 --resources={"edge":4} --object-store-memory=100000000',
}

_GET = """
import os, sys, urllib.request
token = open(os.path.expanduser("~/.ray/auth_token")).read().strip()
asked = urllib.request.Request(sys.argv[1], headers={"Authorization": "Bearer " + token})
print(urllib.request.urlopen(asked, timeout=20).read().decode())
"""


def on_these_hosts(config: dict[str, Any], head: str, workers: list[str]) -> dict[str, Any]:
    """cluster-onprem.yaml with the addresses and key of these hosts.

    They have no package index, so the two pip lines and the one that makes the environment are left out: they share one
    that is on their PATH, with the project in it. (Not by PYTHONPATH: Ray's workers then lack their working directory.)
    """
    made = dict(config)
    made["provider"] = {**config["provider"], "head_ip": head, "worker_ips": workers}
    made["auth"] = {"ssh_user": "root", "ssh_private_key": "~/.ssh/rig_key"}
    made["setup_commands"] = [line for line in config["setup_commands"] if "pip" not in line and "venv " not in line]
    return made


class Operator:
    """The operator at his host.

    Args:
        hosts: up already.
        project: the checkout, on the operator's host as here.
    """

    def __init__(self, hosts: Hosts, project: Path) -> None:
        self.hosts = hosts
        self.head = hosts.addresses[HEAD]
        self._project = project
        self._file = "~/cluster-onprem.yaml"
        self.jobs = 0

    def command(self, text: str) -> str:
        """`text` in the project's folder, with the environment."""
        return f"{ENVIRONMENT}; cd {shlex.quote(str(self._project))} && {text}"

    def run(self, text: str, *, timeout_s: float = 300.0, check: bool = True) -> str:
        """Type a command and wait for it."""
        return self.hosts.run(OPERATOR, self.command(text), timeout_s=timeout_s, check=check)

    def config(self) -> dict[str, Any]:
        """The repository's cluster-onprem.yaml."""
        read: dict[str, Any] = yaml.safe_load((self._project / "cluster-onprem.yaml").read_text(encoding="utf-8"))
        return read

    def ray_up(self) -> float:
        """Token, flags, the file, `ray up`, and wait until every host has joined; seconds from `ray up` on."""
        addresses = self.hosts.addresses
        workers = [addresses[name] for name in self.hosts.edges]
        made = yaml.safe_dump(on_these_hosts(self.config(), self.head, workers), sort_keys=False, width=1000)
        self.hosts.write(OPERATOR, self._file, made)
        for host, kind in ((HEAD, "server"), *((name, "edge") for name in self.hosts.edges)):
            self.hosts.write(OPERATOR, f"~/ray-nodes/{addresses[host]}", FLAGS[kind] + "\n")
        self.run("ray get-auth-token --generate > ~/token.log")
        began_s = time.monotonic()
        self.run(f"ray up -y {self._file}")
        self.until(lambda: len(self.living()) == 1 + len(workers), 180.0, "all hosts have joined")
        return time.monotonic() - began_s

    def ray_down(self) -> None:
        """End the cluster."""
        self.run(f"ray down -y {self._file}")

    def fetch(self, remote: str, local: str) -> None:
        """Bring a folder of the head here, by the documented command."""
        self.run(f"mkdir -p {local} && ray rsync-down {self._file} {shlex.quote(remote)} {local}")

    def submit(self, entry: str, name: str = "") -> Output:
        """Submit a job and follow its log; with a name, the job's id begins with it."""
        self.jobs += 1
        named = f"--submission-id {name}-{self.jobs} " if name else ""
        text = f"ray job submit --address http://{self.head}:8265 {named}--working-dir . -- {entry}"
        return self.hosts.start(OPERATOR, self.command(text))

    def job(self, entry: str, *, timeout_s: float = 300.0, check: bool = True) -> str:
        """Submit a job and wait for its end; its log. Raises RigError when it fails, unless told not to check."""
        output = self.submit(entry)
        if output.wait(timeout_s) != 0 and check:
            raise RigError(f"job {entry!r}: exit status {output.code}\n{output.text[-3000:]}")
        return output.text

    def api(self, path: str) -> Any:
        """A document of the dashboard's REST interface."""
        said = self.hosts.run(OPERATOR, f"python3 - 'http://{self.head}:8265{path}'", stdin=_GET)
        return json.loads(said)

    def replicas(self, deployment: str = "") -> list[dict[str, Any]]:
        """The server's, of one deployment or of all, as Serve tells of them: replica_id, node_ip, pid, state."""
        applications = self.api("/api/serve/applications/")["applications"].values()
        parts = [item for app in applications for item in app["deployments"].items()]
        return [r for name, part in parts for r in part["replicas"] if deployment in ("", name)]

    def living(self) -> list[str]:
        """Addresses of the hosts that are in the cluster now."""
        found = self.api("/api/v0/nodes?limit=1000")["data"]["result"]["result"]
        return [node["node_ip"] for node in found if node["state"] == "ALIVE"]

    def until(self, condition: Callable[[], bool], timeout_s: float, what: str) -> float:
        """Poll until it holds; how many seconds that took. Raises RigError."""
        began_s = time.monotonic()
        while time.monotonic() - began_s < timeout_s:
            try:
                if condition():
                    return time.monotonic() - began_s
            except (RigError, json.JSONDecodeError):
                pass  # the dashboard is not up yet
            time.sleep(0.5)  # between two polls
        raise RigError(f"not within {timeout_s:g} s: {what}")
