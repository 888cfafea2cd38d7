"""The server's configuration: what is wrong is refused on construction, with the value and the remedy."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from deployments.cli import ServeFlags, command, config_of, main
from deployments.config import ServerConfig, load_config, parse_config
from slicer.common.command_line import values
from slicer.errors import ConfigError
from tests.paths import ROOT


def flags_of(flags: Sequence[str]) -> ServeFlags:
    return ServeFlags(**values(command, flags))


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
        ({"models": [{"name": "a", "strategy": "serve_batch"}, {"name": "b"}]}, "need an application of their own"),
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


def test_old_names_are_taken_from_a_file_and_a_flag_with_a_warning_that_says_the_new_ones(tmp_path: Path) -> None:
    file = tmp_path / "server.yaml"
    file.write_text("models: [{name: a, strategy: naive}]\nnaive_concurrency: 2\nnaive_batch_wait_timeout_s: 0.5\n")
    with pytest.warns(FutureWarning) as warned:
        config = load_config(file)
    assert config.models[0].strategy == "serve_batch"
    assert (config.serve_batch_concurrency, config.serve_batch_wait_timeout_s) == (2, 0.5)
    assert [str(one.message).partition(";")[0] for one in warned] == [
        "naive_batch_wait_timeout_s is now serve_batch_wait_timeout_s",
        "naive_concurrency is now serve_batch_concurrency",
        "strategy naive is now serve_batch",
    ]
    with pytest.warns(FutureWarning, match="strategy naive is now serve_batch"):
        assert config_of(flags_of(["--strategy", "naive"])).models[0].strategy == "serve_batch"
    with pytest.raises(ConfigError, match="naive_concurrency is now serve_batch_concurrency, and both are given"):
        parse_config({"naive_concurrency": 2, "serve_batch_concurrency": 2})


def test_an_old_name_warns_once_in_a_process() -> None:
    code = "from deployments.config import parse_config\n"
    code += "for _ in range(3): parse_config({'models': [{'name': 'a', 'strategy': 'naive'}], 'naive_concurrency': 1})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr.count("FutureWarning: strategy naive is now serve_batch") == 1
    assert done.stderr.count("FutureWarning: naive_concurrency is now serve_batch_concurrency") == 1


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


def test_labels_are_read_where_the_configuration_is_and_go_with_shards(tmp_path: Path) -> None:
    (tmp_path / "pets.txt").write_text("cat\ndog\n")
    config = config_of(flags_of(["--shards", "exported", "--model", "pets", "--labels", str(tmp_path / "pets.txt")]))
    assert config.models[0].labels == ("cat", "dog")
    (tmp_path / "pets.txt").unlink()
    assert parse_config(config.model_dump(exclude_unset=True)) == config, "a replica elsewhere needs no file"
    assert [parse_config({"models": [{"name": "a", "labels": said}]}).models[0].labels for said in ("none", [])] == [
        ()
    ] * 2
    with pytest.raises(ConfigError, match=r"models\.0\.labels: labels .*pets\.txt: there is no such file"):
        parse_config({"models": [{"name": "a", "labels": str(tmp_path / "pets.txt")}]})


@pytest.mark.parametrize(
    ("given", "name", "prefix"),
    [("./my-vit", "my-vit", ""), ("hf:my-vit", "my-vit", "hf:"), ("local-dir:sub/../my-vit", "my-vit", "local-dir:")],
)
def test_a_folder_by_model_is_served_under_its_own_name_from_wherever_a_replica_runs(
    given: str, name: str, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my-vit").mkdir()
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path)
    model = config_of(flags_of(["--model", given])).models[0]
    assert (model.name, model.model) == (name, f"{prefix}{tmp_path.resolve() / 'my-vit'}")


@pytest.mark.parametrize("given", ["hf:acme/my-vit", "vit_tiny_patch16_224", "my-vit", "hf:"])
def test_another_name_than_a_folder_s_stays_as_it_is(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my-vit").mkdir()  # without a separator it may be timm's
    monkeypatch.chdir(tmp_path)
    model = config_of(flags_of(["--model", given])).models[0]
    assert (model.name, model.model) == (given, "")


def test_the_flags_of_headtail_serve_make_the_same_configuration() -> None:
    args = flags_of(["--model", "vit_tiny_patch16_224", "--slices", "6", "--strategy", "per_slice"])
    model = config_of(args).models[0]
    assert (model.name, model.num_slices, model.strategy) == ("vit_tiny_patch16_224", 6, "per_slice")


FILE = "models:\n- {name: cam, model: vit_tiny_patch16_224, strategy: per_slice, max_batch: 8}\naccelerator: cpu\n"
TWO = "models:\n- {name: a}\n- {name: b}\n"
SHARDS = "models:\n- {name: cam, shards: exported}\n"

#: A value of each flag that makes a configuration, which is not the default.
SAMPLES: dict[str, list[str]] = {
    "config": ["x.yaml"],
    "model": ["--model", "digits_swin"],
    "slices": ["--slices", "3"],
    "shards": ["--shards", "folder"],
    "checkpoint": ["--checkpoint", "w.pth"],
    "checkpoint_key": ["--checkpoint-key", "model_ema"],
    "labels": ["--labels", "none"],
    "outputs": ["--outputs", "tokens"],
    "onnx": ["--onnx"],
    "strategy": ["--strategy", "serve_batch"],
    "max_batch": ["--max-batch", "3"],
    "accelerator": ["--accelerator", "cuda"],
    "replicas": ["--replicas", "4"],
    "start_timeout": ["--start-timeout", "9"],
    "http": ["--no-http"],
    "web": ["--web"],
}
#: Read where the application is started, beside every configuration.
OF_THE_START = {"name", "address", "detach", "json", "debug"}


def test_no_flag_has_a_default_that_could_be_taken_for_a_wish() -> None:
    assert flags_of([]) == ServeFlags()


@pytest.mark.parametrize("text", [None, "", FILE, TWO, SHARDS], ids=["no file", "empty", "one", "two", "shards"])
@pytest.mark.parametrize("option", command.params, ids=lambda option: option.name)
def test_every_flag_beside_every_file_changes_the_configuration_or_is_refused(
    option: click.Parameter, text: str | None, tmp_path: Path
) -> None:
    if option.name in OF_THE_START:
        return
    if option.name == "config":
        return  # it is what the flags stand beside
    beside = []
    if text is not None:
        (tmp_path / "server.yaml").write_text(text)
        beside = [str(tmp_path / "server.yaml")]
    plain = config_of(flags_of(beside))
    try:
        changed = config_of(flags_of([*beside, *SAMPLES[str(option.name)]]))
    except ConfigError as error:
        assert (
            SAMPLES[str(option.name)][0] in str(error)
            or SAMPLES[str(option.name)][-1] in str(error)
            or "shards" in str(error)
        )
        return
    assert changed != plain


def test_flags_win_over_the_file_and_leave_the_rest_of_it(tmp_path: Path) -> None:
    file = tmp_path / "server.yaml"
    file.write_text(FILE + "num_replicas: 2\nhttp: {port: 9000}\n")
    flags = ["--strategy", "per_tail", "--max-batch", "32", "--accelerator", "auto", "--http"]
    config = config_of(flags_of([str(file), *flags]))
    (model,) = config.models
    assert (model.name, model.source, model.strategy, model.max_batch) == (
        "cam",
        "vit_tiny_patch16_224",
        "per_tail",
        32,
    )
    assert (config.accelerator, config.num_replicas, config.http.enabled, config.http.port) == ("auto", 2, True, 9000)


@pytest.mark.parametrize(
    ("text", "flags", "says"),
    [
        (FILE, ["--model", "digits_vit"], "--model digits_vit: .* names its models \\(cam\\); leave out one"),
        (
            TWO,
            ["--strategy", "serve_batch", "--max-batch", "3"],
            "--max-batch, --strategy|--strategy, --max-batch: .* has 2",
        ),
        (SHARDS, ["--slices", "4"], "already holds weights and cuts; leave out num_slices"),
        (SHARDS, ["--checkpoint", "w.pth"], "leave out checkpoint"),
        (
            "models:\n- {name: a, at: [3]}\n",
            ["--slices", "4"],
            "at has 1 places, which makes 2 slices, not num",
        ),
        ("models:\n- {name: a, shards: x, dtype: fp16, seed: 3}\n", [], "leave out seed, dtype"),
    ],
)
def test_a_flag_without_a_place_in_the_file_is_refused_with_what_to_do(
    text: str, flags: list[str], says: str, tmp_path: Path
) -> None:
    file = tmp_path / "server.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=says):
        config_of(flags_of([str(file), *flags]))


def test_a_replica_gets_what_was_set_and_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    from deployments.app import build

    monkeypatch.setenv("HEADTAIL_TOKEN", "of-the-driver")
    config = parse_config({"models": [{"name": "a", "shards": "x"}], "http": {"enabled": False}})
    values = build(config)._bound_deployment.init_args[0]
    monkeypatch.delenv("HEADTAIL_TOKEN")
    assert parse_config(values) == config


def test_headtail_serve_refuses_a_wrong_strategy_with_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--strategy", "fastest"]) == 2
    assert "unknown strategy 'fastest'" in capsys.readouterr().err


def test_the_builder_takes_a_shorthand_and_refuses_a_mixture() -> None:
    from deployments.app import _from_args

    config = _from_args({"model": "digits_swin", "strategy": "per_slice"})
    assert (config.models[0].name, config.models[0].strategy) == ("digits_swin", "per_slice")
    with pytest.raises(ConfigError, match="model=a and models are both given"):
        _from_args({"model": "a", "models": [{"name": "b"}]})
    with pytest.raises(ConfigError, match="remove strategy or put it there"):
        _from_args({"config": "x.yaml", "strategy": "per_slice"})


def test_the_shipped_serve_config_is_one_that_serve_accepts() -> None:
    from ray.serve.schema import ServeDeploySchema

    from deployments.app import _from_args

    data = yaml.safe_load((ROOT / "serve.yaml").read_text())
    (application,) = ServeDeploySchema.model_validate(data).applications
    assert application.import_path == "deployments.app:build"
    assert [model.name for model in _from_args(application.args).models] == ["digits_vit"]


def test_the_shipped_serve_config_offers_http_as_readme_says() -> None:
    from deployments.app import _from_args
    from deployments.placing.http_endpoint import Running, settle

    data = yaml.safe_load((ROOT / "serve.yaml").read_text())
    (application,) = data["applications"]
    config = _from_args(application["args"])
    assert (data["proxy_location"], application["route_prefix"]) == ("EveryNode", f"/{application['name']}")
    running = Running(**data["http_options"], haproxy=True)
    settled = settle(config, [], running)
    assert settled.http is not None and settled.config.token
    assert (settled.http.host, settled.http.port) == (running.host, running.port)
