"""Several models on one trunk: weights once, steps together, and each row its own model's answer, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch

from deployments.config import ServerConfig, parse_config
from deployments.core.hosting import Hosted, host_all
from deployments.core.loaded_engine import LoadedEngine
from deployments.engine.ledger import Outcome
from deployments.executors.torch_executor import TorchExecutor
from slicer.core.shards.described import describe
from slicer.errors import ConfigError

KWARGS = {"img_size": 32, "depth": 3}
AT = ["blocks.0", "blocks.1", "norm"]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Two classifiers on one trunk, and one whose last block differs."""
    folder = tmp_path_factory.mktemp("checkpoints")
    torch.manual_seed(0)
    trunk = timm.create_model("vit_tiny_patch16_224", num_classes=5, **KWARGS).state_dict()
    paths = {}
    for name, classes in (("pets", 5), ("flowers", 9), ("other", 5)):
        state = {key: value.clone() for key, value in trunk.items()}
        state["head.weight"], state["head.bias"] = torch.randn(classes, 192), torch.randn(classes)
        if name == "other":
            state["blocks.1.mlp.fc1.bias"] += 1
        paths[name] = str(folder / f"{name}.pth")
        torch.save(state, paths[name])
    return paths


def config_of(checkpoints: dict[str, str], tmp_path: Path, *models: dict[str, Any], **more: Any) -> ServerConfig:
    common: dict[str, Any] = {"model": "vit_tiny_patch16_224", "at": AT}
    entries = []
    for model in models:
        given = {"name": model.get("use", model["name"]), **model}
        kwargs = {**KWARGS, **given.pop("kwargs", {})}
        checkpoint = checkpoints[given.pop("use", given["name"])]
        entries.append({**common, **given, "kwargs": kwargs, "checkpoint": checkpoint})
    return parse_config({"models": entries, "shard_dir": str(tmp_path / "served"), "torch_threads": 1, **more})


PETS = {"name": "pets", "strategy": "per_slice"}
FLOWERS = {"name": "flowers", "trunk": "pets"}
EMBEDDING = {"name": "embedding", "use": "pets", "trunk": "pets", "kwargs": {"num_classes": 0}}


def run(
    config: ServerConfig, rows: Sequence[tuple[str, int]], scale: float = 1.0
) -> tuple[list[Outcome], list[Any], list[Hosted]]:
    """Each row's outcome, all submitted before the first step; the steps; the models."""
    hosted = host_all(config.models, Path(config.shard_dir))
    kept = list(hosted)
    executor = TorchExecutor("cpu", 1)
    loaded = LoadedEngine(hosted, executor, config)
    ended: list[Outcome] = []
    engine = loaded.make(ended.extend)
    keys = []
    for number, (model, entry) in enumerate(rows):
        activation = activations(kept, model, entry)[number : number + 1] * np.float32(scale)
        keys += engine.submit(model, entry, activation, [0.0], [None])
    loaded.start(engine)
    while len(ended) < len(rows):
        assert engine.alive
        torch.randn(1000).sum()
    loaded.stop()
    by_key = {one.key: one for one in ended}
    return [by_key[key] for key in keys], engine.trace.steps(), kept


def images() -> torch.Tensor:
    return torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def activations(hosted: list[Hosted], name: str, entry: int) -> np.ndarray[Any, Any]:
    sliced = next(weights for model, weights in hosted if model.name == name)
    with torch.inference_mode():
        return np.concatenate([sliced.head(entry)(one[None]).numpy() for one in images()])


def whole(hosted: list[Hosted], name: str, rows: Sequence[int]) -> np.ndarray[Any, Any]:
    """What the unsliced model says of these, as one batch."""
    sliced = next(weights for model, weights in hosted if model.name == name)
    with torch.inference_mode():
        return sliced.module(images()[list(rows)]).numpy()


def test_rows_of_all_forks_run_as_one_batch_and_each_gets_its_own_models_answer(
    checkpoints: dict[str, str], tmp_path: Path
) -> None:
    config = config_of(checkpoints, tmp_path, PETS, FLOWERS, EMBEDDING)
    rows = [("pets", 0), ("flowers", 0), ("embedding", 0)]
    outcomes, steps, hosted = run(config, rows)
    assert [sum(step.entries.values()) for step in steps] == [3, 3, 3, 3]
    for number, ((name, _), outcome) in enumerate(zip(rows, outcomes, strict=True)):
        assert outcome.logits is not None
        np.testing.assert_array_equal(outcome.logits, whole(hosted, name, range(3))[number])


@pytest.mark.parametrize("strategy", ["unbatched", "per_tail", "per_tail_shared", "per_slice", "continuous"])
def test_every_strategy_and_entry_gives_the_unsliced_models_answer(
    checkpoints: dict[str, str], tmp_path: Path, strategy: str
) -> None:
    config = config_of(checkpoints, tmp_path, {**PETS, "strategy": strategy}, FLOWERS, EMBEDDING)
    rows = [(name, entry) for entry in (0, 1, 3) for name in ("flowers", "pets")] + [("embedding", 2)]
    outcomes, _, hosted = run(config, rows)
    for number, ((name, _), outcome) in enumerate(zip(rows, outcomes, strict=True)):
        assert outcome.logits is not None
        np.testing.assert_allclose(outcome.logits, whole(hosted, name, [number])[0], rtol=2e-6, atol=2e-6)
        if strategy == "unbatched":
            np.testing.assert_array_equal(outcome.logits, whole(hosted, name, [number])[0])


@pytest.mark.parametrize("dtype", [None, "bf16"])
def test_models_with_equal_slices_hold_them_once(
    checkpoints: dict[str, str], tmp_path: Path, dtype: str | None
) -> None:
    def weights(*models: dict[str, Any]) -> int:
        config = config_of(checkpoints, tmp_path, *models)
        executor = TorchExecutor("cpu", 1, dtype)
        LoadedEngine(host_all(config.models, Path(config.shard_dir)), executor, config)
        return executor.memory()["weights"]

    size = 4 if dtype is None else 2
    alone = weights(PETS)
    separate = {"name": "flowers", "strategy": "per_slice"}
    assert weights(PETS, separate) - alone == (192 * 9 + 9) * size
    assert weights(PETS, FLOWERS) - alone == (192 * 9 + 9) * size
    assert weights(PETS, {"name": "other", "strategy": "per_slice"}) - alone > 200_000 * size


def test_equal_slices_are_one_file_on_the_disk(checkpoints: dict[str, str], tmp_path: Path) -> None:
    config = config_of(checkpoints, tmp_path, PETS, FLOWERS)
    (_, first), (_, second) = [(model, model.directory) for model, _ in host_all(config.models, tmp_path / "served")]
    for number in (1, 2, 3):
        assert (first / f"slice_{number}.safetensors").samefile(second / f"slice_{number}.safetensors")
    assert not (first / "slice_4.safetensors").samefile(second / "slice_4.safetensors")


def test_a_damaged_file_of_another_model_is_not_taken_over(checkpoints: dict[str, str], tmp_path: Path) -> None:
    config = config_of(checkpoints, tmp_path, PETS, FLOWERS)
    ((first, _),) = host_all(config.models[:1], tmp_path / "served")
    (first.directory / "slice_1.safetensors").write_bytes(b"not what it was")
    ((second, _),) = host_all(config.models[1:], tmp_path / "served")
    assert describe(second.directory / "slice_1.safetensors", "slice_1.safetensors") == second.manifest.shards[0]


def test_a_fork_that_differs_before_the_last_slice_is_refused_with_the_slice_and_the_remedy(
    checkpoints: dict[str, str], tmp_path: Path
) -> None:
    config = config_of(checkpoints, tmp_path, PETS, {"name": "other", "trunk": "pets"})
    with pytest.raises(ConfigError, match=r"'other' cannot run on the trunk of 'pets': slice 2 .* other weights; cut"):
        LoadedEngine(host_all(config.models, Path(config.shard_dir)), TorchExecutor("cpu", 1), config)


@pytest.mark.parametrize(
    ("models", "said"),
    [
        ([PETS, {"name": "flowers", "trunk": "nobody"}], "'nobody' must be another model .* there are pets"),
        ([PETS, {"name": "flowers", "trunk": "flowers"}], "'flowers' must be another"),
        ([PETS, FLOWERS, {"name": "other", "trunk": "flowers"}], "'flowers' must be another"),
        ([PETS, {**FLOWERS, "strategy": "continuous"}], "strategy is that of its trunk 'pets'; leave it out"),
        ([{**PETS, "strategy": "serve_batch"}, {**FLOWERS, "strategy": "serve_batch"}], "has no engine"),
    ],
)
def test_a_trunk_that_cannot_be_is_refused(
    checkpoints: dict[str, str], tmp_path: Path, models: list[dict[str, Any]], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        config_of(checkpoints, tmp_path, *models)


def test_a_fork_says_its_trunks_strategy(checkpoints: dict[str, str], tmp_path: Path) -> None:
    config = config_of(checkpoints, tmp_path, PETS, FLOWERS)
    assert [model.strategy for model in config.models] == ["per_slice", "per_slice"]
    assert parse_config(config.model_dump(exclude_unset=True)) == config  # as it goes to a replica


def test_a_fork_whose_answer_is_not_finite_fails_its_own_rows_only(checkpoints: dict[str, str], tmp_path: Path) -> None:
    """Its classifier overflows on a large activation."""
    state = torch.load(checkpoints["flowers"], weights_only=True)
    state["head.weight"] *= 1e30
    path = str(tmp_path / "huge.pth")
    torch.save(state, path)
    config = config_of({**checkpoints, "huge": path}, tmp_path, PETS, {"name": "huge", "trunk": "pets"})
    (good, bad), steps, _ = run(config, [("pets", 3), ("huge", 3)], scale=1e10)
    assert [sum(step.entries.values()) for step in steps] == [2]
    assert (bad.code, bad.logits) == ("failed", None)
    assert good.logits is not None
    assert np.isfinite(good.logits).all()
