"""The cluster comes up as its file says, and a job lands where it should."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tests.rig import jobs
from tests.rig.finding import Finding, judged
from tests.rig.hosts import HEAD, OPERATOR
from tests.rig.operator import FLAGS, Operator

_NO_TOKEN = "python3 -c 'import urllib.request as u; u.urlopen(\"http://{head}:8265/api/v0/nodes\", timeout=20)'"


def up(operator: Operator) -> Iterator[Finding]:
    """`ray up` from the operator's host: all hosts join, each with its own resources, strangers stay out."""
    took_s = operator.ray_up()
    yield judged(
        "`ray up` of cluster-onprem.yaml", True, f"head and 3 edge hosts joined {took_s:.0f} s after its start"
    )
    said = operator.api("/api/v0/nodes?limit=1000&detail=true")["data"]["result"]["result"]
    resources = {node["node_ip"]: node["resources_total"] for node in said if node["state"] == "ALIVE"}
    wanted = {operator.head: "server", **{operator.hosts.addresses[name]: "edge" for name in operator.hosts.edges}}
    stores = {
        address: int(re.findall(r"memory=(\d+)", FLAGS[kind])[0]) == int(resources[address]["object_store_memory"])
        for address, kind in wanted.items()
    }
    marks = {
        address: [kind for kind in ("server", "edge") if kind in declared] for address, declared in resources.items()
    }
    shown = "; ".join(f"{address} {'+'.join(kinds)}" for address, kinds in sorted(marks.items()))
    yield judged(
        "resources and object stores per host",
        marks == {address: [kind] for address, kind in wanted.items()} and all(stores.values()),
        f"{shown}; stores of 500 MB and 3 x 100 MB",
    )
    refused = operator.hosts.run(OPERATOR, _NO_TOKEN.format(head=operator.head), check=False)
    code = re.findall(r"HTTP Error (\d+)", refused)
    yield judged("token authentication is on", code == ["401"], f"without it HTTP {' '.join(code) or refused[-80:]}")


def placed(operator: Operator) -> Iterator[Finding]:
    """A submitted load job: devices on edge hosts, the server on the head, results fetched by one command."""
    addresses = operator.hosts.addresses
    jobs.serve(operator)
    output = jobs.start_load(operator, "first", "--fleet tests/rig/fleets/cameras.yaml --device-rate 4 --duration 10")
    results = jobs.finish_load(operator, output, "first")
    edges = [addresses[name] for name in operator.hosts.edges]
    replicas = [replica["node_ip"] for replica in operator.replicas()]
    shown = ", ".join(f"{name} {address}" for name, address in results.devices.items())
    yield judged(
        "devices on edge hosts, one each, server on the head host",
        sorted(results.devices.values()) == sorted(edges) and set(replicas) == {addresses[HEAD]},
        f"{shown}; {len(replicas)} replicas on {', '.join(sorted(set(replicas)))}",
    )
    whole, words = jobs.ledger(results)
    yield judged("a job's ledger", whole and results.outcomes["answered"] == len(results.records), words)
    logs = operator.run(f"ray job logs --address http://{operator.head}:8265 first-{operator.jobs}")
    expected = {"records.jsonl", "report.html", "report.md", "result.json"}
    yield judged(
        "table by `ray job logs`, folder by `ray rsync-down`",
        "Per strategy and cut" in logs and expected <= set(results.files),
        f"{len(results.files)} files: {', '.join(results.files)}",
    )
