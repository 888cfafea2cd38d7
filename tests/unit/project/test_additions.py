"""CONTRIBUTING's table "to add X, touch Y": each addition is made here as it says, and what users see follows."""

from __future__ import annotations

import json
import subprocess
import sys
from unittest import mock

import numpy as np
import pytest

from actors.fleet.config import parse_fleet
from actors.report import report_tables
from actors.report.tables import Column, number
from deployments.config import parse_config
from deployments.scheduling import registry
from deployments.scheduling.registry import Strategy
from slicer.codecs import activations
from slicer.codecs.floats import Fp32
from slicer.codecs.registry import CODECS, register
from slicer.errors import ConfigError
from slicer.planning.link_presets import PRESETS, LinkPreset
from tests.paths import ROOT
from tests.unit.actors.report.test_result import two_strategies


def fleet(**group: object) -> object:
    return parse_fleet({"groups": [{"name": "g", "cut": 1, **group}]})


def test_a_codec_is_a_class_and_a_registration() -> None:
    class Twice(Fp32):
        """fp32 under another name."""

        name = "twice"

    with pytest.raises(ConfigError, match="unknown codec 'twice'"):
        fleet(codec="twice")
    with mock.patch.dict(CODECS):
        register(Twice())
        fleet(codec="twice")
        activation = np.float32([[1.5, -2.0]])
        payload = activations.encode("twice", activation)
        assert (activations.decode_batch("twice", [payload], (1, 2))[0] == activation).all()


def test_a_strategy_is_a_class_and_an_entry() -> None:
    added = Strategy("newest", "deployments.scheduling.simple:Unbatched", summary="the newest first", when="in tests")
    with mock.patch.dict(registry.SHIPPED, {"newest": added}):
        assert parse_config({"models": [{"name": "digits_vit", "strategy": "newest"}]}).models[0].strategy == "newest"
    with pytest.raises(ConfigError, match="newest"):
        parse_config({"models": [{"name": "digits_vit", "strategy": "newest"}]})


#: Reads the registry's source with one entry more, before anything else is imported, and prints by place where a user
#: or a benchmark meets the names of strategies what it says.
WITH_ONE_MORE = """
import importlib.util, json, sys
name = "deployments.scheduling.registry"
spec = importlib.util.find_spec(name)
source = open(spec.origin, encoding="utf-8").read()
before = "    for strategy in (\\n"
assert before in source
added = 'Strategy("newest", "deployments.scheduling.simple:Unbatched", summary="the newest first", when="in tests"),'
module = importlib.util.module_from_spec(spec)
sys.modules[name] = module
exec(compile(source.replace(before, before + added), spec.origin, "exec"), module.__dict__)

from actors import cli as load
from benchmarks.accelerator import gpu, simulate, validate
from benchmarks.goodput import goodput
from benchmarks.paper import paper
from deployments import cli as serve
from deployments.config import parse_config
from slicer.errors import ConfigError

try:
    parse_config({"models": [{"name": "m", "strategy": "x"}]})
except ConfigError as error:
    refused = str(error)
print(json.dumps({
    "a refused server file": refused,
    "headtail-serve --help": serve.parser().format_help(),
    "headtail-load --strategy all": load.strategies_of("all", None),
    "headtail-load --demo": load.DEMO["strategy"],
    **{made.__name__: made.parser().get_default("strategies") for made in (goodput, paper, simulate, validate)},
    "benchmarks.accelerator.gpu": gpu.parser().parse_args(["--out", "x"]).strategies,
}))
"""


def test_a_new_strategy_appears_wherever_strategies_are_listed() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITH_ONE_MORE], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert len(said) == 9
    assert [place for place, names in said.items() if "newest" not in names] == []


def test_the_guide_to_strategies_says_of_each_when_to_take_it() -> None:
    text = (ROOT / "docs/strategies.md").read_text(encoding="utf-8")
    choice = text[text.index("## Which to choose") : text.index("## What was measured")]
    assert [name for name in registry.STRATEGIES if f"`{name}`" not in choice] == []


def test_a_link_preset_is_an_entry() -> None:
    with pytest.raises(ConfigError, match="unknown link 'barge'"):
        fleet(link="barge")
    with mock.patch.dict(PRESETS, {"barge": LinkPreset(0.1, 0.1, 9e4, 0.0, 0.0, "a tape on a barge")}):
        fleet(link="barge")


def test_a_column_of_the_report_is_an_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    column = Column("asked/s", lambda row: row.summary.requests / 2, number, "1/s")
    monkeypatch.setattr(report_tables, "_PER_STRATEGY", (*report_tables._PER_STRATEGY, column))
    first = report_tables.tables(two_strategies())[0]
    assert first.header[-1] == "asked/s"
    assert all(row[-1] for row in first.rows)
