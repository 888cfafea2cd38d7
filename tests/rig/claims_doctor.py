"""`headtail doctor` is green on a sound cluster, and says the right thing of one where something is wrong."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from typing import Any

from tests.rig import jobs
from tests.rig.finding import Finding, judged
from tests.rig.hosts import HEAD
from tests.rig.operator import FLAGS, Operator

#: The cluster's file as it is on the head.
_FILE = "'~/ray_bootstrap_config.yaml'"
_SHARDS = "/tmp/shards"

#: Prints where the file is in which an environment keeps torch's version.
_METADATA = (
    "import importlib.metadata as m; "
    'print(m.distribution("torch").locate_file("torch-" + m.version("torch") + ".dist-info/METADATA"))'
)


def ask(operator: Operator, flags: str = "") -> list[dict[str, Any]]:
    """The doctor's findings, as a job on the cluster."""
    entry = f"python -m deployments.doctor --address auto --cluster {_FILE} --json {flags}"
    log = operator.job(entry, check=False)
    line = next((line for line in log.splitlines() if line.startswith('{"ok"')), "")  # a failed job's log comes twice
    found: list[dict[str, Any]] = json.loads(line)["findings"]
    return found


def said(claim: str, found: list[dict[str, Any]], level: str, check: str, words: str) -> Finding:
    """Whether the doctor said these words at this level, and nothing else is worse."""
    hits = [f for f in found if f["level"] == level and f["check"] == check and words in f"{f['node']} {f['message']}"]
    worse = [f for f in found if f["level"] == "fail" and f not in hits]
    others = "; ".join(f"{f['check']}: {f['message']}" for f in found if f["level"] != "ok") or "all ok"
    shown = hits[0] if hits else {"level": "-", "node": "did not say it", "message": others}
    extra = f"; beside it {worse[0]['message']}" if worse else ""
    return judged(claim, bool(hits) and not worse, f"{shown['level']}: {shown['node']}: {shown['message']}{extra}")


def doctor(operator: Operator) -> Iterator[Finding]:
    """Green; then one thing wrong at a time, each put right again."""
    hosts, edge = operator.hosts, operator.hosts.edges[0]
    address = hosts.addresses[edge]
    hosts.run(HEAD, f"cd ~/headtail; rm -rf {_SHARDS}; python -m slicer.cli digits_vit --export {_SHARDS}")
    found = ask(operator, f"--server {jobs.APP} --shards {_SHARDS}")
    counts = {level: sum(f["level"] == level for f in found) for level in ("ok", "warn", "fail")}
    wrong = "".join(f"; {f['node']}: {f['message']}" for f in found if f["level"] != "ok")
    green = not counts["warn"] and not counts["fail"]
    yield judged("doctor on a sound cluster", green, ", ".join(f"{n} {level}" for level, n in counts.items()) + wrong)

    hosts.run(HEAD, f"f=$(ls {_SHARDS}/*.safetensors | head -1); printf x | dd of=$f bs=1 seek=5000 conv=notrunc")
    found = ask(operator, f"--shards {_SHARDS}")
    yield said("doctor, a damaged shard", found, "fail", "shards", "not the bytes that the manifest names")

    # What pip says of torch there; new workers read it, so nothing has to be started again.
    where = hosts.run(edge, f"python -c '{_METADATA}'").strip().splitlines()[-1]
    # Mounted over it, since an environment may be read-only there.
    hosts.run(edge, f"sed 's/^Version: .*/Version: 2.5.0/' {where} > /tmp/METADATA; mount --bind /tmp/METADATA {where}")
    yield said("doctor, another version of torch", ask(operator), "fail", "versions", "torch 2.5.0 is too old")
    hosts.run(edge, f"umount {where}")

    # In the file that the start line reads, so that the autoscaler, which may be quicker, starts it in the same way.
    hosts.write(edge, f"~/ray-nodes/{address}", FLAGS["edge"].replace("edge", "egde") + "\n")
    restart(operator, edge)
    yield said("doctor, a resource misspelt", ask(operator), "warn", "resources", "declares neither server nor edge")
    hosts.write(edge, f"~/ray-nodes/{address}", FLAGS["edge"] + "\n")

    hosts.run(edge, "cp ~/.ray/auth_token /tmp/token; tr 0-9a-f 1-9a-f0 < /tmp/token > ~/.ray/auth_token")
    restart(operator, edge, joins=False)
    yield said("doctor, a token that is another one, on the cluster", ask(operator), "fail", "members", address)
    there = hosts.run(
        edge,
        f"cd ~/headtail; export RAY_AUTH_MODE=token; python -m deployments.doctor --address {operator.head}:6379",
        check=False,
    )
    last = [line for line in there.splitlines() if line.strip()][-1]
    claim = "doctor, a token that is another one, on that host"
    yield judged(claim, "wants another token than the one here" in last, last)
    hosts.run(edge, "cp /tmp/token ~/.ray/auth_token")
    restart(operator, edge)
    found = ask(operator)
    fails = [f["message"] for f in found if f["level"] != "ok"]
    yield judged("doctor, all put right again", not fails, "; ".join(fails) or f"{len(found)} ok")


def restart(operator: Operator, edge: str, *, joins: bool = True) -> None:
    """Start Ray there again by the file's own commands, guard and all, so that `ray down` ends this one, too."""
    address = operator.hosts.addresses[edge]
    lines = "\n".join(operator.config()["worker_start_ray_commands"])
    # With a wrong token `ray start` would wait for ever.
    start = f"export RAY_HEAD_IP={operator.head}; timeout 60 bash -c {shlex.quote(lines)}"
    operator.hosts.run(edge, start, timeout_s=90.0, check=False)
    operator.until(lambda: (address in operator.living()) == joins, 60.0, f"{edge} has {'joined' if joins else 'left'}")
