"""The project's metrics by PromQL, from a Prometheus on the head that scrapes the cluster as Ray configures it."""

from __future__ import annotations

import contextlib
import json
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

SERVED = 'sum(ray_headtail_requests_total{model="digits_vit", outcome="answered"})'
ASKED = 'sum(ray_headtail_device_requests_total{model="digits_vit", outcome="answered"})'
QUANTILE = "histogram_quantile(0.5, sum by (le) (ray_headtail_device_inference_ms_bucket))"


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
    operator.until(lambda: value(operator, SERVED) > 0, 60.0, "the first job's requests are there")
    served, asked = value(operator, SERVED), value(operator, ASKED)
    flags = "--fleet tests/rig/fleets/cameras.yaml --device-rate 5 --duration 20"
    results = jobs.finish_load(operator, jobs.start_load(operator, "metrics", flags), "metrics")
    wanted = results.outcomes["answered"] + _WARM_UP * len(results.devices)

    def counted() -> tuple[float, float]:
        return value(operator, SERVED) - served, value(operator, ASKED) - asked

    with contextlib.suppress(RigError):  # the figure says so
        operator.until(lambda: counted() == (wanted, wanted), 60.0, "all requests of the job are counted")
    at_server, at_devices = counted()
    yield judged(
        "PromQL counts what the job counted",
        (at_server, at_devices) == (wanted, wanted),
        f"answered by the records {results.outcomes['answered']} + {_WARM_UP * len(results.devices)} of the warm-up; "
        f"by PromQL {at_server:.0f} at the server, {at_devices:.0f} at the devices",
    )
