"""What is measured: the same bytes for all, spans as the profile has them, a configuration that the server takes."""

from __future__ import annotations

import base64
from pathlib import Path

import numpy as np
import pytest

from benchmarks.peers.install import PACKAGES
from benchmarks.peers.settings import (
    ENTRIES,
    GRIDS,
    HEADTAIL,
    NAMES,
    RATES,
    SEARCH,
    SHAPE,
    headtail_config,
    payloads,
    spans_s,
)
from benchmarks.peers.triton import write_repository
from deployments.config import parse_config
from deployments.costs.profile_files import load_cost_profile
from slicer.core.codecs.activations import decode_batch
from tests.paths import ROOT


def test_all_servers_get_the_same_bytes_and_each_answer_is_known_beforehand() -> None:
    sent = payloads(axis=2)
    assert [text for text, _ in sent.of_headtail] == [text for text, _ in sent.of_peers]
    for (text, ours), (_, theirs) in zip(sent.of_headtail, sent.of_peers, strict=True):
        body = base64.b64decode(text)
        assert (len(body), float(body[0])) == (sent.size, theirs)
        assert ours == pytest.approx(float(np.ravel(decode_batch("int8", [body], SHAPE, axis=2))[0]))


def test_the_axis_is_that_of_the_servers_manifest() -> None:
    from benchmarks.peers.stacks import _AXIS
    from slicer import slice_model
    from slicer.shards.channel_axes import channel_axes

    model = headtail_config("continuous", "launch-bound")["models"][0]
    sliced = slice_model(model["model"], model["num_slices"], seed=0, verify=False, **model["kwargs"])
    assert set(channel_axes(sliced)) == {_AXIS}


def test_a_span_is_as_long_as_the_profile_says() -> None:
    spans = spans_s(load_cost_profile("launch-bound"))
    assert spans[9][0] == pytest.approx(3 * 1.2e-3)
    assert spans[0][31] == pytest.approx(12 * 6.18e-3)


@pytest.mark.parametrize("strategy", HEADTAIL.values())
def test_headtails_server_takes_its_configuration(strategy: str) -> None:
    assert parse_config(headtail_config(strategy, "launch-bound")).models[0].strategy == strategy


def test_every_peer_has_a_grid_and_every_published_rate_is_searched() -> None:
    assert set(NAMES) == set(HEADTAIL) | set(GRIDS) and all(GRIDS.values())
    assert set(RATES) <= set(SEARCH) and list(SEARCH) == sorted(set(SEARCH))


def test_the_extra_names_the_packages_that_setup_installs() -> None:
    [line] = [line for line in (ROOT / "pyproject.toml").read_text("utf-8").splitlines() if line.startswith("peers = ")]
    assert line == "peers = [" + ", ".join(f'"{package}"' for package in PACKAGES) + "]"


@pytest.mark.parametrize("setting", GRIDS["triton"])
def test_tritons_repository_has_a_model_per_entry_with_the_setting(tmp_path: Path, setting: dict[str, object]) -> None:
    write_repository(tmp_path, 38_808, tmp_path / "accelerator", setting)
    assert sorted(one.name for one in tmp_path.iterdir()) == sorted(f"entry{entry}" for entry in ENTRIES)
    text = (tmp_path / "entry3" / "config.pbtxt").read_text()
    assert f"count: {setting['instances']}" in text and "dims: [ 38808 ]" in text
    assert f"max_queue_delay_microseconds: {1000 * int(str(setting['delay_ms']))}" in text
    assert ("preferred_batch_size" in text) == bool(setting["preferred"])
    assert (tmp_path / "entry3" / "1" / "model.py").exists()
