"""A start: what can be refused before it, what a replica's failure says, and what a person is told."""

from __future__ import annotations

import json
import logging
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray._private.authentication import authentication_token_setup
from ray.exceptions import ActorDiedError

from deployments import app, cli
from deployments.config import ModelConfig, parse_config
from deployments.doctor import connection
from deployments.placing.access import Access, predict_url
from deployments.placing.http_endpoint import as_asked
from deployments.replica.preflight import check_here
from slicer.common.command_line import values
from slicer.core.protocol.messages import ServedModel
from slicer.errors import ConfigError, HeadTailError, ServerError


class Broken:
    """An own strategy whose constructor fails."""

    def __init__(self, model: str, num_slices: int, max_batch: int, max_wait_s: float) -> None:
        raise RuntimeError("no such table")


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ({"name": "vit_tinny_patch16_224"}, "did you mean vit_tiny_patch16_224"),
        ({"name": "digits_vit", "checkpoint": "absent.pth"}, "checkpoint absent.pth: no such file"),
        ({"name": "digits_vit", "strategy": "no_such_module:Mine"}, "cannot import no_such_module"),
        ({"name": "digits_vit", "strategy": "deployments.app:Mine"}, "has no Mine"),
        ({"name": "digits_vit", "strategy": f"{__name__}:Broken"}, "cannot be made: RuntimeError: no such table"),
        ({"name": "digits_vit", "strategy": "per_slice", "options": {"order": "newest"}}, "order 'newest'"),
        ({"name": "digits_vit", "options": {"colour": 1}}, "colour"),
        ({"name": "digits_vit", "entries": [4]}, "entry 4 is out of range; 4 slices have entries 0 to 3"),
        ({"name": "digits_vit", "strategy": "continuous", "profile": "absent.yaml"}, "cost profile absent.yaml"),
        ({"name": "digits_vit", "shards": "absent"}, "absent"),
        ({"name": "a", "model": "no_such_module:model"}, "cannot import no_such_module"),
        ({"name": "a", "model": "absent.yaml"}, "absent.yaml"),
    ],
)
def test_what_a_replica_would_refuse_is_refused_before_it_starts(model: dict[str, Any], says: str) -> None:
    with pytest.raises(HeadTailError) as caught:
        check_here(parse_config({"models": [model]}))
    assert says in str(caught.value) and model["name"] in str(caught.value)


def test_an_executor_that_cannot_be_imported_is_refused_and_a_good_configuration_is_not() -> None:
    with pytest.raises(HeadTailError, match="cannot import no_such_module"):
        check_here(parse_config({"executor": "no_such_module:Mine"}))
    check_here(parse_config({}))


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--model", "vit_tinny_patch16_224"], "did you mean vit_tiny_patch16_224"),
        (["--detach"], "--detach needs a Ray cluster that goes on"),
    ],
)
def test_what_a_ray_of_its_own_would_refuse_is_refused_before_it_is_started(
    flags: list[str], says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started: list[object] = []
    monkeypatch.setattr("ray.init", lambda **options: started.append(options))
    assert cli.main([*flags, "--address", "local"]) == 2
    assert says in capsys.readouterr().err and not started


def test_a_cluster_that_runs_is_joined_before_its_nodes_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deployments.doctor.connection._settle", lambda address, own: ("h:1", "h:1"))
    monkeypatch.setattr("ray.init", lambda **options: options["address"])
    assert connection.connect(None, before_own=lambda: pytest.fail("no Ray of its own")) == "h:1"


def test_a_proxy_that_is_ended_before_it_is_up_is_told_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(**options: Any) -> None:
        raise ActorDiedError()

    monkeypatch.setattr("ray.serve.start", start)
    with pytest.raises(ServerError, match=r"did not come up \(.*\); .* try again"):
        app.start_serve(None)


def test_a_new_ray_says_that_it_has_a_token_but_not_how_to_go_without(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def start(**_: object) -> None:
        authentication_token_setup._warn_token_auth_enabled()
        authentication_token_setup._warn_token_auth_disabled()

    monkeypatch.setattr("ray.init", start)
    monkeypatch.setattr(logging.getLogger("ray"), "propagate", True)
    connection.connect("local")
    assert {record.getMessage()[:32] for record in caplog.records} == {"Token authentication is disabled"}


class Controller:
    """In place of Serve's; it is gone after two looks at it."""

    def __init__(self) -> None:
        self.asked, self.looks = list[dict[str, bool]](), 0
        self.graceful_shutdown = self

    def remote(self, **given: bool) -> None:
        self.asked.append(given)

    def get_actor(self, name: str, namespace: str) -> Controller:
        assert (name, namespace) == ("SERVE_CONTROLLER_ACTOR", "serve")
        self.looks += bool(self.asked)
        if self.looks > 2:
            raise ValueError("no such actor")
        return self


def test_the_end_of_serve_leaves_no_call_behind_that_only_a_death_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    controller = Controller()
    monkeypatch.setattr("ray.get_actor", controller.get_actor)
    monkeypatch.setattr("ray.get", lambda answer, timeout: answer)
    app.end_serve()
    assert controller.asked == [{"wait": False}] and controller.looks == 3, "it waited until the controller was gone"
    app.end_serve()
    assert len(controller.asked) == 1, "no Serve, nothing to end"


TRACEBACK = """The deployment failed to start 3 times in a row. Error:
ray::ServeReplica:headtail:TailServer.initialize_and_get_metadata() (pid=1, ip=10.0.0.1)
  File "a.py", line 1, in f
    raise KeyError(1)
KeyError: 1

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "b.py", line 2, in g
"""


@pytest.mark.parametrize(
    ("end", "says"),
    [
        ("slicer.errors.ModelError: it is wrong\nhere; do that", "it is wrong\nhere; do that"),
        ("slicer.errors.NotSliceable: no boundary: one", "no boundary: one"),
        ("RuntimeError: no such table", "RuntimeError: no such table"),
        ("torch.OutOfMemoryError: CUDA out of memory.", "torch.OutOfMemoryError: CUDA out of memory."),
    ],
)
def test_of_a_replicas_traceback_the_innermost_message_is_left(end: str, says: str) -> None:
    assert app.innermost(TRACEBACK + end) == says


def test_words_without_a_traceback_are_left_as_they_are() -> None:
    assert app.innermost("the replica died: out of memory") == "the replica died: out of memory"


@pytest.mark.parametrize(
    ("host", "url"),
    [("127.0.0.1", "http://127.0.0.1:8000/cams"), ("0.0.0.0", "http://10.0.0.1:8000/cams")],
)
def test_a_person_is_told_where_it_is_and_never_the_token(host: str, url: str) -> None:
    settled = as_asked(parse_config({"http": {"enabled": True, "host": host, "port": 8000}, "token": "secret-1"}))
    for token, file in (("given", None), ("made", Path("/home/me/.cache/headtail/token-cams"))):
        for predict in (f"{url}/predict", ""):
            way_in = Access(url, predict, token, file)  # type: ignore[arg-type]
            told = cli.running(settled, "cams", "10.0.0.1:6379", way_in, [])
            assert (way_in.curl() or f"curl {url}/health") in told and url in told
            assert "secret-1" not in told and "HEADTAIL_TOKEN" in told
            assert "headtail load --address 10.0.0.1:6379 --server cams" in told
            said = cli.document(settled, "cams", "10.0.0.1:6379", way_in)
            assert (said["url"], said["predict_url"]) == (url, predict or None)
            assert said["token_file"] == (None if file is None else str(file)) and "secret-1" not in str(said)
    open_too = as_asked(
        parse_config({"http": {"enabled": True, "host": host}, "grpc": {"enabled": True, "port": 9001}})
    )
    where = f"{'10.0.0.1' if host == '0.0.0.0' else host}:9001"
    assert f"gRPC: {where}, metadata application: cams" in cli.running(open_too, "cams", "10.0.0.1:6379", way_in, [])
    assert cli.document(open_too, "cams", "10.0.0.1:6379", way_in)["grpc"] == where
    assert "gRPC" not in told and said["grpc"] is None
    closed = as_asked(parse_config({"http": {"enabled": False}}))
    assert "HTTP" not in cli.running(closed, "cams", "10.0.0.1:6379", Access(), [])


@pytest.mark.parametrize(
    ("labels", "kwargs", "source", "says"),
    [
        (("cat", "dog", "owl"), {"num_classes": 3}, {}, "pets: 3 classes, as the checkpoint has: cat, dog, owl"),
        ((), {"num_classes": 3}, {}, "pets: 3 classes, as the checkpoint has, without names (--labels FILE)"),
        (("cat", "dog", "owl"), {"num_classes": 3}, {"kwargs": {"num_classes": 3}}, "pets: 3 classes: cat, dog, owl"),
    ],
)
def test_a_person_sees_which_classes_a_model_has(
    labels: tuple[str, ...], kwargs: dict[str, int], source: dict[str, Any], says: str
) -> None:
    config = ModelConfig(name="pets", model="vit_tiny_patch16_224", checkpoint="pets.pth", **source)
    manifest = json.dumps({"shapes": [[3, 224, 224], [3]], "spec": {"kwargs": kwargs}})
    served = ServedModel("pets", "digest", manifest, 1, (0,), "per_slice", ("fp32",), labels=labels)
    assert cli.about(served, config) == says
    features = replace(served, manifest_json=json.dumps({"shapes": [[3, 8, 8], [16, 96]], "spec": {"kwargs": {}}}))
    assert cli.about(features, config) == "pets: answers [16, 96]"


def test_a_person_sees_what_a_model_gives_beside_its_classes_and_that_an_embedding_is_none() -> None:
    outputs = [["logits", [3]], ["features", [192]], ["tokens", [17, 192]]]
    document = {"shapes": [[3, 64, 64], [3459]], "spec": {"kwargs": {}}, "outputs": outputs}
    served = ServedModel("pets", "digest", json.dumps(document), 1, (0,), "per_slice", ("fp32", "jpeg"))
    config = ModelConfig(name="pets")
    assert cli.about(served, config) == "pets: 3 classes, without names (--labels FILE); also features, tokens"
    embeds = replace(served, classifies=False)
    assert cli.about(embeds, config) == "pets: answers 3 numbers, which are no classes; also features, tokens"
    assert predict_url("http://h/a", [served]) == "http://h/a/predict"
    assert predict_url("http://h/a", [embeds]) == ""
    assert predict_url("http://h/a", [replace(embeds, name="e"), served]) == "http://h/a/predict?model=pets"


@pytest.mark.parametrize("flags", [["--model", "digits_vit"], []])
def test_outputs_by_flag_are_those_of_the_file(flags: list[str]) -> None:
    def models(*more: str) -> Any:
        return cli.config_of(cli.ServeFlags(**values(cli.command, [*flags, *more]))).models

    (model,) = models("--outputs", "tokens,features")
    assert model.outputs == ("features", "tokens")
    with pytest.raises(
        ConfigError, match=r"unknown output 'feature'; did you mean 'features'\?; there are features, tokens"
    ):
        models("--outputs", "feature")


def test_a_person_sees_that_a_tower_of_hugging_face_has_no_classes() -> None:
    spec = {"architecture": "hf:acme/clip", "kwargs": {"output": "image_embeds"}}
    manifest = json.dumps({"shapes": [[3, 224, 224], [512]], "spec": spec})
    served = ServedModel("clip", "digest", manifest, 1, (0,), "per_slice", ("fp32",))
    says = "clip: answers 512 numbers (image_embeds), which are no classes"
    assert cli.about(served, ModelConfig(name="clip", model="hf:acme/clip")) == says


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_during_the_start_is_one_line_and_its_own_exit_status(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def start(*_: object) -> int:
        signal.raise_signal(number)
        raise AssertionError("the signal should have ended the start")

    monkeypatch.setattr(cli, "_serve", start)
    before = signal.getsignal(number)
    assert cli.main([]) == 128 + number
    assert capsys.readouterr().err == "headtail serve: interrupted; everything it started is taken back\n"
    assert signal.getsignal(number) == before


@pytest.mark.parametrize(("flags", "code"), [([], 0), (["--detach"], 130)])
@pytest.mark.parametrize("moment", ["describe", "running"])
def test_ctrl_c_before_the_wait_takes_the_application_back_as_well(
    flags: list[str], code: int, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settled = SimpleNamespace(http=None, config=SimpleNamespace(token="t"))
    context = SimpleNamespace(gcs_address="h:1")
    stopped: list[str] = []
    monkeypatch.setattr(connection, "connect", lambda *_, **__: None)
    monkeypatch.setattr("ray.get_runtime_context", lambda: context)
    monkeypatch.setattr("ray.shutdown", lambda: None)
    monkeypatch.setattr(app, "run", lambda *_, **__: settled)
    monkeypatch.setattr(app, "describe", lambda *_: [])
    monkeypatch.setattr(app, "stop", stopped.append)
    monkeypatch.setattr(cli, "access", lambda *_, **__: Access())
    monkeypatch.setattr(cli, "running", lambda *_: "is running")

    def press(*_: object) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(app if moment == "describe" else cli, moment, press)
    assert cli.main(["--model", "digits_vit", "--address", "h:1", *flags]) == code
    assert stopped == ["headtail"]
