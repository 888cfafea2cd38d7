"""The server's configuration: what is wrong is refused on construction, with the value and the remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments.cli import config_of, main, parser
from deployments.config import ServerConfig, load_config, parse_config
from slicer.errors import ConfigError


def test_the_default_configuration_serves_the_shipped_model() -> None:
    config = parse_config({})
    assert [model.name for model in config.models] == ["digits_vit"]
    assert config.models[0].source == "digits_vit"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"strateggy": 1}, "strateggy: unknown key"),
        ({"models": [{"name": "a", "strategy": "fastest"}]}, "unknown strategy 'fastest'; this build has unbatched"),
        ({"models": []}, "models is empty"),
        ({"models": [{"name": "a"}, {"name": "a"}]}, "two models are named 'a'"),
        ({"models": [{"name": "a", "strategy": "naive"}, {"name": "b"}]}, "need an application of their own"),
        ({"models": [{"name": "a", "max_batch": 0}]}, "greater than or equal to 1 (got 0)"),
        ({"models": [{"name": "a", "shards": "x", "checkpoint": "y"}]}, "already holds weights and cuts"),
        ({"models": [{"name": "a", "pretrained": True, "checkpoint": "y"}]}, "both name weights; give one"),
        ({"models": [{"name": "a", "entries": []}]}, "entries is empty"),
        ({"max_ongoing_requests": 5}, "is less than admission_batch * admission_concurrency = 64"),
        ({"accelerator": "tpu"}, "accelerator"),
        ({"executor": "onnx"}, "unknown executor 'onnx'"),
        ([1], "a configuration is a mapping of keys, got list"),
    ],
)
def test_a_wrong_key_or_a_contradiction_is_an_error_that_names_it(data: Any, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(data)
    assert says in str(caught.value)


def test_an_own_strategy_is_accepted_by_its_path() -> None:
    assert parse_config({"models": [{"name": "a", "strategy": "my.module:Mine"}]}).models[0].strategy


def test_serve_admits_more_than_the_queue_holds_so_that_the_engine_says_overloaded() -> None:
    config = parse_config({"max_queue_rows": 100})
    assert config.ongoing > 100


def test_a_file_is_read_and_its_errors_name_it(tmp_path: Path) -> None:
    good = tmp_path / "server.yaml"
    good.write_text("models:\n- {name: digits_swin, strategy: per_slice}\naccelerator: cpu\n")
    assert load_config(good).models[0].strategy == "per_slice"
    bad = tmp_path / "bad.yaml"
    bad.write_text("model: digits_swin\n")
    with pytest.raises(ConfigError, match=r"bad\.yaml: model: unknown key"):
        load_config(bad)
    with pytest.raises(ConfigError, match=r"absent\.yaml: there is no such file"):
        load_config(tmp_path / "absent.yaml")


def test_a_config_is_frozen() -> None:
    config = ServerConfig()
    with pytest.raises(ValueError, match="frozen"):
        config.num_replicas = 2  # type: ignore[misc]


def test_the_flags_of_headtail_serve_make_the_same_configuration() -> None:
    args = parser().parse_args(["--model", "vit_tiny_patch16_224", "--slices", "6", "--strategy", "per_slice"])
    model = config_of(args).models[0]
    assert (model.name, model.num_slices, model.strategy) == ("vit_tiny_patch16_224", 6, "per_slice")


def test_headtail_serve_refuses_a_wrong_strategy_with_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--strategy", "fastest"]) == 2
    assert "unknown strategy 'fastest'" in capsys.readouterr().err


def test_the_builder_takes_a_shorthand_and_refuses_a_mixture() -> None:
    from deployments.app import _from_args

    config = _from_args({"model": "digits_swin", "strategy": "per_slice"})
    assert (config.models[0].name, config.models[0].strategy) == ("digits_swin", "per_slice")
    with pytest.raises(ConfigError, match="remove strategy or put it there"):
        _from_args({"config": "x.yaml", "strategy": "per_slice"})


def test_the_shipped_serve_config_is_one_that_serve_accepts() -> None:
    from ray.serve.schema import ServeDeploySchema

    from deployments.app import _from_args

    data = yaml.safe_load((Path(__file__).parents[2] / "serve.yaml").read_text())
    (application,) = ServeDeploySchema.model_validate(data).applications
    assert application.import_path == "deployments.app:build"
    assert [model.name for model in _from_args(application.args).models] == ["digits_vit"]


def test_the_shipped_serve_config_offers_http_as_readme_says() -> None:
    from deployments.app import _from_args
    from deployments.way_in import Running, settle

    data = yaml.safe_load((Path(__file__).parents[2] / "serve.yaml").read_text())
    (application,) = data["applications"]
    config = _from_args(application["args"])
    assert (data["proxy_location"], application["route_prefix"]) == ("EveryNode", f"/{application['name']}")
    running = Running(**data["http_options"], haproxy=True)
    settled = settle(config, [], running)
    assert settled.http.enabled is True and settled.token
    assert (settled.http.host, settled.http.port) == (running.host, running.port)
