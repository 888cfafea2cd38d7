"""`headtail doctor`: checks this machine, or every living node of a Ray cluster, and says what to do.

Without an address it looks at this machine only and starts no Ray. Exit code: 0 with findings ok and warn, 2 with a
fail.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click

from deployments.doctor import facts
from deployments.doctor.checks import Facts, Finding, examine
from deployments.doctor.connection import connect
from deployments.doctor.facts import NodeFacts
from slicer.common import command_line, nvml
from slicer.common.command_line import Command, option
from slicer.common.yaml_files import read_yaml
from slicer.core.common.addresses import application_name
from slicer.core.common.error_text import last_line
from slicer.errors import ConfigError

#: Ray's usual ports: GCS, dashboard, Serve's HTTP.
PORTS = (6379, 8265, 8000)

#: How long a node of a cluster may take to be looked at; importing torch on a slow board is most of it.
TIMEOUT_S = 120.0


@dataclass(frozen=True)
class DoctorFlags:
    """The flags of `headtail doctor`; None: not given. Their help says what they mean."""

    address: str | None = None
    shards: str | None = None
    server: str | None = None
    cluster: str | None = None
    timeout: float | None = None
    json: bool | None = None


def look_here(shards: str | None) -> Facts:
    """Facts of this machine alone."""
    addresses = [f"127.0.0.1:{port}" for port in PORTS]
    return Facts([NodeFacts(**facts.gather(addresses, shards))])


def look_at_cluster(address: str, shards: str | None, server: str | None, timeout_s: float) -> Facts:
    """Facts of every living node of the cluster at `address`.

    Connects as a driver and disconnects; runs one task without CPU demand per node.

    Raises:
        ServerError: there is no cluster at `address`, or it refuses this machine.
    """
    import ray
    from ray import cloudpickle
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    context = connect(address, own=False, log_to_driver=False, configure_logging=False)
    try:
        dashboard = str(getattr(context, "dashboard_url", "") or "")
        # By value: the nodes need no HeadTail to be looked at.
        for module in (facts, nvml):
            cloudpickle.register_pickle_by_value(module)
        gather = ray.remote(num_cpus=0, max_retries=0)(facts.gather)
        nodes = [node for node in ray.nodes() if node["Alive"]]
        asked = {
            gather.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
                [dashboard] if dashboard else [], shards
            ): node
            for node in nodes
        }
        done: list[Any] = []
        until_s = time.monotonic() + timeout_s
        with command_line.progress("nodes looked at", len(asked)) as bar:
            while len(done) < len(asked) and (left_s := until_s - time.monotonic()) > 0:
                done, _ = ray.wait(list(asked), num_returns=len(done) + 1, timeout=left_s)
                bar.to(len(done))
        seen = [_node_facts(ref, node, ref in done, timeout_s) for ref, node in asked.items()]
        applications = _applications() if server else None
        return Facts(seen, context.address_info["gcs_address"], dashboard, applications, server)
    finally:
        ray.shutdown()


def _node_facts(ref: Any, node: dict[str, Any], answered: bool, timeout_s: float) -> NodeFacts:
    import ray

    address = node["NodeManagerAddress"]
    if not answered:
        return NodeFacts(name=address, address=address, dead=f"did not answer within {timeout_s:g} s")
    try:
        gathered = ray.get(ref)
    except Exception as error:  # whatever went wrong there is the finding
        return NodeFacts(name=address, address=address, dead=f"could not be looked at: {last_line(error)}")
    # Raylets that share a host, as in tests, are told apart by the node's id.
    name = f"{gathered.pop('name')} ({address}, {node['NodeID'][:6]})"
    return NodeFacts(name=name, address=address, resources=dict(node["Resources"]), **gathered)


def members_of(path: str | None) -> list[str] | None:
    """Addresses that a cluster's file for machines at hand names. Raises ConfigError."""
    if path is None:
        return None
    try:
        provider = read_yaml(Path(path).expanduser())["provider"]
        members = [provider["head_ip"], *list(provider["worker_ips"])]
        if isinstance(provider["worker_ips"], str) or not all(isinstance(member, str) for member in members):
            raise TypeError("addresses are texts, and worker_ips is a list of them")
        return members
    except (RuntimeError, KeyError, TypeError) as error:  # RuntimeError: ~ of nobody
        raise ConfigError(
            f"{path}: no cluster's file with provider.head_ip and provider.worker_ips ({type(error).__name__}: {error})"
        ) from error


def _applications() -> dict[str, str]:
    from ray import serve

    return {name: str(status.status.value) for name, status in serve.status().applications.items()}


def report(findings: Sequence[Finding]) -> str:
    """One line per finding, the worst last, where a terminal shows them; then one line of counts."""
    order = {"ok": 0, "warn": 1, "fail": 2}
    lines = []
    for finding in sorted(findings, key=lambda finding: order[finding.level]):
        todo = f" -> {finding.todo}" if finding.todo else ""
        lines.append(f"{finding.level:4}  {finding.check:9}  {finding.node}: {finding.message}{todo}")
    counts = ", ".join(f"{sum(f.level == level for f in findings)} {level}" for level in order)
    return "\n".join([*lines, counts])


def address_of(flags: DoctorFlags) -> str | None:
    """The cluster to look at; None: this machine alone.

    Raises:
        ConfigError: a flag that means nothing without a cluster.
    """
    address: str | None = flags.address or os.environ.get("RAY_ADDRESS") or None
    if address is None and (flags.server is not None or flags.cluster is not None):
        address = "auto"
    if address == "local":
        raise ConfigError("--address local would start a Ray of its own; leave it out to check this machine")
    if address is None and flags.timeout is not None:
        raise ConfigError(f"--timeout {flags.timeout:g} is for the nodes of a cluster; give --address, or leave it out")
    return address


def look(flags: DoctorFlags) -> Facts:
    """What the flags ask for. Raises HeadTailError."""
    address = address_of(flags)
    members = members_of(flags.cluster)
    if address is None:
        return look_here(flags.shards)
    timeout_s = TIMEOUT_S if flags.timeout is None else flags.timeout
    return replace(look_at_cluster(address, flags.shards, flags.server, timeout_s), members=members)


@click.command(
    "doctor",
    cls=Command,
    examples=(
        ("headtail doctor", "this machine"),
        ("headtail doctor --address auto", "every living node of the cluster that this machine belongs to"),
        ("headtail doctor --server headtail --json", "the cluster and the application `headtail`, as one document"),
    ),
    notes="Exit status: 0 with findings ok and warn; 2 with a fail, or wrong input.",
)
@option("--address", help="Check the cluster at host:port, or `auto` on one of its nodes; else $RAY_ADDRESS.")
@option("--shards", metavar="DIR", help="Also check the shards exported to DIR, every byte.")
@option("--server", metavar="NAME", help="Also check that this Serve application is running.")
@option("--cluster", metavar="FILE", help="Also check that all machines of this cluster-onprem.yaml are there.")
@option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="S",
    help=f"Wait so long for a cluster's node (default {TIMEOUT_S:g}).",
)
@option("--json", is_flag=True, default=None, help="Print one JSON document instead of lines.")
def command(**given: Any) -> int:
    """Check this machine, or every node of a cluster, and say what to do.

    Without an address it looks at this machine only and starts no Ray.
    """
    flags = DoctorFlags(**given)
    if flags.server is not None:
        application_name(flags.server)
    seen = look(flags)
    findings = examine(seen)
    failed = any(finding.level == "fail" for finding in findings)
    if flags.json:
        document = {
            "ok": not failed,
            "findings": [asdict(f) for f in findings],
            "nodes": [asdict(n) for n in seen.nodes],
        }
        print(json.dumps(document))
    else:
        print(report(findings))
    return 2 if failed else 0


def main(argv: Sequence[str] | None = None) -> int:
    """`headtail doctor`, and its old name headtail-doctor: 0 if nothing failed, else 2."""
    return command_line.main(command, argv)


if __name__ == "__main__":
    sys.exit(main())
