"""CONTRIBUTING's table "to add X, touch Y": each addition is made here as it says, and what users see follows."""

from __future__ import annotations

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
