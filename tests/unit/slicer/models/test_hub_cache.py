"""Models of the hub without a network: a cache that somebody filled is enough, and what it lacks is said."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from safetensors.torch import save_file

from benchmarks.models.hugging_face import FAMILIES, answer, save_random
from slicer.errors import ModelError
from slicer.models import zoo
from tests.paths import ROOT

pytest.importorskip("transformers")

LABELS = ["tabby cat", "dog", "owl", "hen", "cow", "bee", "ant"]

TIMM = {"img_size": 32, "depth": 2, "embed_dim": 64, "num_heads": 2}

#: Logits of a model of ones, and its labels, in a process that knows HF_HOME alone.
FRESH = """
import json, sys, torch
from slicer.models import zoo
torch.set_num_threads(1)
found = {}
for name in sys.argv[1:]:
    spec = zoo.resolve(name)
    with torch.inference_mode():
        found[name] = [list(spec.labels), zoo.build(spec)(torch.ones(1, 3, 32, 32))[0].tolist()]
print(json.dumps(found))
"""


def put(folder: Path, home: Path, name: str, ref: str = "main") -> Path:
    """A folder into the cache below HF_HOME, as huggingface_hub lays it out; the snapshot."""
    repository = home / "hub" / f"models--{name.replace('/', '--')}"
    commit = "0123456789abcdef0123456789abcdef01234567"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / ref).write_text(commit)
    return Path(shutil.copytree(folder, repository / "snapshots" / commit))


@pytest.fixture
def vit(tmp_path: Path) -> tuple[Path, torch.Tensor]:
    """A folder of transformers with labels, and what its model makes of ones."""
    model = save_random(FAMILIES[0], tmp_path / "vit", tiny=True)
    file = tmp_path / "vit" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "id2label": dict(enumerate(LABELS))}))
    return tmp_path / "vit", answer(FAMILIES[0], model, torch.ones(1, 3, 32, 32))[0]


@pytest.fixture
def timm_vit(tmp_path: Path) -> tuple[Path, torch.Tensor]:
    """The same of timm, in the form that the hub has."""
    model = zoo.build(zoo.resolve("vit_tiny_patch16_224", kwargs={**TIMM, "num_classes": 3}, seed=4))
    folder = tmp_path / "timm"
    folder.mkdir()
    save_file(model.state_dict(), folder / "model.safetensors")
    about = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3, "num_classes": 3, "crop_pct": 1.0}
    document = {"architecture": "vit_tiny_patch16_224", "num_classes": 3, "pretrained_cfg": about, "model_args": TIMM}
    (folder / "config.json").write_text(json.dumps({**document, "label_names": ["a", "b", "c"]}))
    with torch.inference_mode():
        return folder, model(torch.ones(1, 3, 32, 32))[0]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty HF_HOME of this process."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    return tmp_path / "home"


def test_a_filled_cache_is_enough_in_a_process_that_is_told_hf_home(
    vit: tuple[Path, torch.Tensor], timm_vit: tuple[Path, torch.Tensor], tmp_path: Path
) -> None:
    put(vit[0], tmp_path / "home", "acme/my-vit")
    put(vit[0], tmp_path / "home", "acme/tagged", ref="v1")
    put(timm_vit[0], tmp_path / "home", "acme/timm-vit")
    names = ["hf:acme/my-vit", "hf:acme/tagged@v1", "hf-hub:acme/timm-vit"]
    told = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    told.pop("HF_HUB_CACHE", None)
    done = subprocess.run(
        [sys.executable, "-c", FRESH, *names], cwd=ROOT, env=told, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for name, labels, (_, logits) in zip(names, [LABELS, LABELS, ["a", "b", "c"]], [vit, vit, timm_vit], strict=True):
        assert found[name] == [labels, logits.tolist()], name


def test_without_a_route_to_the_hub_the_cache_answers(
    vit: tuple[Path, torch.Tensor], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_route(*_: Any) -> NoReturn:
        raise socket.gaierror("no route")

    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(socket, "getaddrinfo", no_route)
    put(vit[0], home, "acme/my-vit")
    assert zoo.resolve("hf:acme/my-vit").labels == tuple(LABELS)
    with pytest.raises(ModelError, match=r"acme/other: the hub cannot be reached.* no config\.json; give a folder"):
        zoo.resolve("hf:acme/other")


@pytest.mark.parametrize(("prefix", "kind"), [("hf:", "vit"), ("hf-hub:", "timm_vit")])
def test_a_cache_without_the_weights_is_no_repository_without_them(
    prefix: str, kind: str, home: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    folder, _ = request.getfixturevalue(kind)
    (put(folder, home, "acme/part") / "model.safetensors").unlink()
    said = r"acme/part: neither .*, if it could be reached, nor the local cache has model\.safetensors; .*hf download"
    with pytest.raises(ModelError, match=said):
        zoo.resolve(f"{prefix}acme/part")
