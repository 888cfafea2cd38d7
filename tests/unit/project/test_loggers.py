"""All loggers are in one tree, and docs/guide/operate.md lists them."""

from __future__ import annotations

import re

from tests.paths import ROOT

#: Loggers of others, whose level a load job sets, or that get a filter.
FOREIGN = {"ray.serve", "ray._private.authentication.authentication_token_setup", "onnxscript"}


def test_every_logger_is_below_headtail_and_documented() -> None:
    named: set[str] = set()
    for package in ("slicer", "actors", "deployments"):
        for path in (ROOT / package).rglob("*.py"):
            for argument in re.findall(r"getLogger\((.*?)\)", path.read_text(encoding="utf-8")):
                assert argument.startswith('"'), f"{path.name}: a logger is named by a literal, not by {argument}"
                named.add(argument.strip('"'))
    ours = named - FOREIGN - {"headtail"}
    documented = set(re.findall(r"`(headtail\.\w+)`", (ROOT / "docs/guide/operate.md").read_text(encoding="utf-8")))
    assert ours == documented
