"""The project's metrics by PromQL, from a Prometheus on the head that scrapes the cluster as Ray configures it."""

from __future__ import annotations

import json
import time
import urllib.parse
from collections.abc import Iterator

from tests.rig import jobs
from tests.rig.finding import Finding, judged
from tests.rig.hosts import HEAD, RigError
from tests.rig.operator import Operator

#: Ray writes this file, and keeps the list of hosts in it up to date.
CONFIG = "/tmp/ray/session_latest/metrics/prometheus/prometheus.yml"

#: Images that each device asks before a run, which are in no record.
_WARM_UP = 2

#: The highest value of each series lately, since those of an ended process go away.
SERVED = 'sum(max_over_time(ray_headtail_requests_total{model="digits_vit", outcome="answered"}[20m]))'
ASKED = 'sum(max_over_time(ray_headtail_device_requests_total{model="digits_vit", outcome="answered"}[20m]))'

#: Longer than one export by Ray and one scrape by Prometheus.
_SETTLED_S = 25.0


def value(operator: Operator, query: str) -> float:
    """The answer of a query that has one value; 0 where there is no such series yet."""
    url = f"http://127.0.0.1:9090/api/v1/query?query={urllib.parse.quote(query)}"
    get = f"python3 -c 'import urllib.request as u; print(u.urlopen(\"{url}\", timeout=20).read().decode())'"
    said = json.loads(operator.hosts.run(HEAD, get))
    results = said["data"]["result"]
    return float(results[0]["value"][1]) if results else 0.0


def metrics(operator: Operator) -> Iterator[Finding]:
    """Every request of a job is counted at the server and at the devices; the median is that of the records."""
    if "prometheus" not in operator.hosts.run(HEAD, "command -v prometheus", check=False):
        raise RigError("no prometheus on the head host (Debian: apt-get install prometheus)")
    operator.hosts.start(
        HEAD, f"prometheus --config.file={CONFIG} --storage.tsdb.path=/tmp/prometheus --web.listen-address=0.0.0.0:9090"
    )
    operator.until(lambda: value(operator, "count(up == 1)") >= 4, 120.0, "Prometheus scrapes four hosts")
    yield judged("Prometheus scrapes every host", True, f"{value(operator, 'count(up == 1)'):.0f} targets are up")
    served, asked = settled(operator)
    flags = "--fleet tests/rig/fleets/cameras.yaml --device-rate 5 --duration 20"
    results = jobs.finish_load(operator, jobs.start_load(operator, "metrics", flags), "metrics")
    answered, warm = results.outcomes["answered"], _WARM_UP * len(results.devices)
    after = settled(operator)
    for where, counted in (("server", after[0] - served), ("devices", after[1] - asked)):
        yield judged(
            f"PromQL at the {where} counts what the job counted",
            counted == answered + warm,
            f"{counted:.0f}; by the records {answered}, and {warm} of the warm-up",
        )


def settled(operator: Operator) -> tuple[float, float]:
    """What is counted at the server and at the devices, once it does not change any more."""
    last = (-1.0, -1.0)
    while (now := (value(operator, SERVED), value(operator, ASKED))) != last:
        last = now
        time.sleep(_SETTLED_S)  # until the next scrape
    return now
