"""From a model's name to the model: timm's names, an own callable, a model file, or a shipped demo model.

``resolve`` turns what a user typed into a `ModelSpec`; ``build`` turns the spec into a module. The same spec gives the
same weights on every machine with the same versions of torch and timm: random weights are seeded.
"""

from __future__ import annotations

import difflib
import json
import logging
import operator
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, cast

import timm
import torch
from torch import nn

from slicer.common.plugins import load_object
from slicer.common.validation import nearest
from slicer.common.yaml_files import read_yaml
from slicer.core.common.error_text import first_line, named_line, shown
from slicer.core.shards.spec import HF, ModelSpec
from slicer.errors import ConfigError, ModelError
from slicer.models import timm_hub
from slicer.models.checkpoint_file import State, read_groups
from slicer.models.checkpoints import OtherClasses, load_checkpoint
from slicer.models.data_config import DATA_KEYS, EXIF_KEY, data_config
from slicer.models.hugging_face import source as hugging_face
from slicer.models.hugging_face import structure as hugging_face_structure
from slicer.models.hugging_face import weights as hugging_face_weights
from slicer.models.hugging_face.hub import offline_if_unreachable
from slicer.models.labels import as_labels, given_labels
from slicer.models.numbers import whole
from slicer.models.outputs import check_outputs, with_outputs
from slicer.models.weights import DTYPES, convert
from slicer.tracing.plain_module import must_be_plain

__all__ = ["DATA_KEYS", "DEMO_MODELS", "EXIF_KEY", "build", "build_for_weights", "build_structure", "check"]
__all__ += ["data_config", "resolve"]

#: Trained models that are part of this package; see slicer/models/demo/README.md.
DEMO_MODELS: tuple[str, ...] = ("digits_vit", "digits_swin")

logger = logging.getLogger("headtail.models")

_DEMO = Path(__file__).parent / "demo"
_ONE_AT_A_TIME = threading.RLock()
_YAML_SUFFIXES = (".yaml", ".yml")
# Set by ModelSpec's own fields: through kwargs they would bypass seed, checkpoint and manifest.
_RESERVED = ("pretrained", "checkpoint_path", "features_only", "scriptable", "exportable")


def resolve(
    model: str | os.PathLike[str],
    *,
    kwargs: Mapping[str, Any] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_key: str | None = None,
    pretrained: bool = False,
    dtype: str | None = None,
    seed: int | None = None,
    outputs: Sequence[str] | None = None,
) -> ModelSpec:
    """What `model` means; nothing is built. Only of a name of the Hugging Face hub, files are downloaded.

    Args:
        model: a timm name, ``package.module:callable``, a path to a model YAML (keys of ModelSpec; the checkpoint's
            path is relative to the file), one of DEMO_MODELS, ``hf:ORG/NAME`` of the Hugging Face hub, or a folder that
            transformers' ``save_pretrained`` wrote; ``hf-hub:ORG/NAME`` for timm's models there.
        kwargs: for timm's create_model or the callable; they win over the model file's.
        checkpoint: wins over the model file's.
        checkpoint_key: where in the checkpoint the weights lie (`ModelSpec`).
        pretrained: timm's pretrained weights.
        dtype: fp32, fp16 or bf16; None: what the model file says, else fp32.
        seed: of random weights; None: what the model file says, else 0.
        outputs: what it gives beside its own result (`slicer.models.outputs`); None: what the model file says.

    Raises:
        ModelError: nothing of that name, a wrong value, or a model file that cannot be read.
    """
    named_as_path = isinstance(model, os.PathLike)
    if isinstance(model, os.PathLike):
        model = str(os.fspath(model))
    if not isinstance(model, str):
        raise ModelError(f"model {shown(model)}: give a name as text, or a torch.nn.Module to slice_model")
    if kwargs is not None and not isinstance(kwargs, Mapping):
        raise ModelError(f"kwargs {shown(kwargs)}: it must be a mapping")
    if (named_as_path or os.sep in model) and Path(model).expanduser().is_dir():
        model = f"{HF}{model}"
    if model in DEMO_MODELS:
        spec = _from_file(_DEMO / f"{model}.yaml")
    elif model.endswith(_YAML_SUFFIXES):
        spec = _from_file(Path(model))
    else:
        spec = ModelSpec(architecture=model)
    if kwargs:
        spec = replace(spec, kwargs={**spec.kwargs, **kwargs})
    if checkpoint is not None or pretrained:  # other weights than the file's
        spec = replace(spec, checkpoint=cast("str | None", checkpoint), checkpoint_key=None, pretrained=pretrained)
    if checkpoint_key is not None:
        spec = replace(spec, checkpoint_key=checkpoint_key)
    spec = replace(spec, dtype=spec.dtype if dtype is None else dtype, seed=spec.seed if seed is None else seed)
    if outputs is not None:
        spec = replace(spec, outputs=cast("tuple[str, ...]", outputs))
    return check(_expanded(check(spec)))


def check(spec: ModelSpec) -> ModelSpec:
    """The spec with its mappings as plain JSON values. Raises ModelError for whatever cannot be built from it."""
    spec = _right_kinds(spec)
    spec = replace(spec, outputs=check_outputs(spec.outputs))
    if spec.labels:
        spec = replace(spec, labels=_model_error(as_labels, spec.labels, "labels"))
    if spec.kind == "timm":
        _check_timm_name(spec.architecture)
    if spec.kind == "hf" and "config" in spec.kwargs:
        hugging_face.check(spec)
    if spec.dtype not in DTYPES:
        raise ModelError(f"unknown dtype {spec.dtype!r}; known are {', '.join(DTYPES)}")
    if spec.checkpoint is not None and spec.pretrained:
        raise ModelError(f"both a checkpoint ({spec.checkpoint}) and pretrained weights were asked for; choose one")
    if spec.checkpoint_key is not None and spec.checkpoint is None:
        raise ModelError(f"checkpoint_key {shown(repr(spec.checkpoint_key))} is for a checkpoint; give checkpoint=FILE")
    if reserved := [key for key in spec.kwargs if key in _RESERVED]:
        raise ModelError(f"kwargs may not hold {', '.join(reserved)}; use the options checkpoint and pretrained")
    if unknown := [key for key in spec.data_config if key not in DATA_KEYS]:
        raise ModelError(f"unknown data_config {', '.join(map(str, unknown))}; known are {', '.join(DATA_KEYS)}")
    if not isinstance(spec.data_config.get(EXIF_KEY, True), bool):
        raise ModelError(f"data_config {EXIF_KEY} is {spec.data_config[EXIF_KEY]!r}; it must be true or false")
    return replace(spec, kwargs=_as_json("kwargs", spec.kwargs), data_config=_as_json("data_config", spec.data_config))


def build(spec: ModelSpec) -> nn.Module:
    """The model with its weights, in eval mode, without gradients, in the spec's dtype, on the CPU.

    The global random state is as before. Safe in several threads: one builds at a time, because random weights come
    from torch's global generator.

    Raises:
        ModelError: it cannot be built, or its weights cannot be had; the message says what to do instead.
    """
    return _built(spec, _groups(spec))


def _groups(spec: ModelSpec) -> Mapping[str, State] | None:
    """What its checkpoint's file holds; None: it has none, or transformers reads it."""
    return None if spec.checkpoint is None or spec.kind == "hf" else read_groups(spec.checkpoint)


def _built(spec: ModelSpec, groups: Mapping[str, State] | None) -> nn.Module:
    """`build`, with what the checkpoint's file holds."""
    with torch.inference_mode(False):  # weights made in inference mode could not be traced
        with _ONE_AT_A_TIME, torch.random.fork_rng(devices=[]):
            torch.manual_seed(spec.seed)
            loads = spec.kind == "hf" and spec.checkpoint is not None  # transformers fills what it builds
            module = _with_weights(spec) if loads else _instantiate(spec)
        if spec.checkpoint is not None and not loads:
            load_checkpoint(
                module, spec.checkpoint, spec.checkpoint_key, groups=groups, open_classes=_open_classes(spec)
            )
        return with_outputs(convert(module, spec.dtype), spec.outputs).eval().requires_grad_(False)


def build_for_weights(spec: ModelSpec) -> tuple[nn.Module, ModelSpec]:
    """As `build`, but with as many classes as the checkpoint of a timm model has, where nobody says how many; and the
    spec with that number. A line of the log says so.

    Raises:
        ModelError: as `build`; also where more than the classifier differs.
    """
    groups = _groups(spec)
    try:
        return _built(spec, groups), spec
    except OtherClasses as error:
        if not _open_classes(spec):
            raise
        logger.warning(
            "checkpoint %s: %d classes, so %s is built with num_classes=%d instead of %d",
            *(spec.checkpoint, error.classes, spec.architecture, error.classes, error.instead_of),
        )
        labels = spec.labels if len(spec.labels) == error.classes else ()
        spec = replace(spec, kwargs={**spec.kwargs, "num_classes": error.classes}, labels=labels)
    return _built(spec, groups), spec


def _open_classes(spec: ModelSpec) -> bool:
    """Whether nobody says how many classes a model of timm has."""
    return spec.kind == "timm" and spec.kwargs.get("num_classes") is None


def build_structure(spec: ModelSpec) -> nn.Module:
    """The model on the meta device: names, shapes and dtypes without memory for weights; eval mode.

    Raises:
        ModelError: it cannot be built.
    """
    with torch.inference_mode(False), _ONE_AT_A_TIME, torch.random.fork_rng(devices=[]), torch.device("meta"):
        module = _instantiate(replace(spec, pretrained=False))
        return with_outputs(module.to(DTYPES[spec.dtype]), spec.outputs).eval().requires_grad_(False)


def _from_file(path: Path) -> ModelSpec:
    try:
        document = read_yaml(path)
    except ConfigError as error:
        raise ModelError(f"model file {error}") from None
    known = [f.name for f in fields(ModelSpec)]
    if not isinstance(document, dict):
        raise ModelError(f"model file {path}: it must be a mapping with an architecture; keys are {', '.join(known)}")
    if unknown := [key for key in document if key not in known]:
        raise ModelError(
            f"model file {path}: unknown key {', '.join(shown(str(key)) for key in unknown[:5])}"
            f"{nearest(unknown[0], known)}; keys are {', '.join(known)}"
        )
    if not isinstance(document.get("architecture"), str):
        raise ModelError(f"model file {path}: it must be a mapping with an architecture; keys are {', '.join(known)}")
    try:
        if "labels" in document:
            found = _model_error(given_labels, document["labels"], path.parent)
            document = {**document, "labels": () if found == "auto" else found}
        spec = check(ModelSpec(**document))
    except ModelError as error:
        raise ModelError(f"model file {path}: {error}") from None
    if spec.checkpoint is not None:
        spec = replace(spec, checkpoint=str(path.parent / spec.checkpoint))
    prefix, _, place = spec.architecture.partition(":")
    if place.startswith("."):  # a folder, as the checkpoint relative to the file
        spec = replace(spec, architecture=f"{prefix}:{path.parent / place}")
    return spec


def _model_error(make: Callable[..., Any], *given: Any) -> Any:
    """What `make` makes of a part of a model file."""
    try:
        return make(*given)
    except ConfigError as error:
        raise ModelError(str(error)) from None


def _right_kinds(spec: ModelSpec) -> ModelSpec:
    """The spec with plain values; ModelError for a value of the wrong kind."""

    def wrong(key: str, value: object, meant: str) -> ModelError:
        return ModelError(f"{key} {meant}, not {shown(repr(value) if isinstance(value, str) else value)}")

    if not isinstance(spec.architecture, str):
        raise wrong("model", spec.architecture, "must be a name, such as vit_tiny_patch16_224")
    for key, mapping in (("kwargs", spec.kwargs), ("data_config", spec.data_config)):
        if not isinstance(mapping, Mapping):
            raise wrong(key, mapping, "must be a mapping")
        if unfit := [name for name in mapping if not isinstance(name, str)]:
            raise wrong(key, unfit[0], "must have words as keys")
    classes: Any = spec.kwargs.get("num_classes")  # timm takes -1 for none, silently
    if spec.kind == "timm" and classes is not None and (not whole(classes) or operator.index(classes) < 0):
        raise wrong("num_classes", classes, "must be a whole number, 0 for no classifier")
    if not isinstance(spec.pretrained, bool):
        raise wrong("pretrained", spec.pretrained, "must be true or false")
    if not isinstance(spec.dtype, str):
        raise wrong("dtype", spec.dtype, f"must be one of {', '.join(DTYPES)}")
    given: Any = spec.seed
    if not whole(given):
        raise wrong("seed", spec.seed, "must be an integer")
    seed = operator.index(given)
    if not -(2**63) <= seed < 2**63:
        raise wrong("seed", seed, "must be an integer of 64 bits")
    checkpoint: Any = spec.checkpoint  # check() sees to its kind
    if checkpoint is not None:
        if not isinstance(checkpoint, str | os.PathLike) or not isinstance(os.fspath(checkpoint), str):
            raise wrong("checkpoint", checkpoint, "must be the path of a weights file")
        checkpoint = os.fspath(checkpoint)
        if not checkpoint or "\0" in checkpoint:
            raise wrong("checkpoint", checkpoint, "must be the path of a weights file")
    inside: Any = spec.checkpoint_key
    if inside is not None and (not isinstance(inside, str) or not inside.strip(".")):
        raise wrong("checkpoint_key", inside, "must be a name in the checkpoint, such as model_ema")
    return replace(spec, seed=seed, checkpoint=checkpoint)


def _check_timm_name(name: str) -> None:
    if timm.is_model(name.partition(".")[0]):
        try:
            timm.get_pretrained_cfg(name)
        except RuntimeError as error:  # a known architecture with an unknown tag
            tags = timm.list_pretrained(name.partition(".")[0] + ".*")
            raise ModelError(
                f"unknown model {name!r}: {error} Known are {', '.join(tags) or 'none with a tag'}."
            ) from error
        return
    names = [*DEMO_MODELS, *timm.list_models()]
    close = difflib.get_close_matches(name, names, n=4, cutoff=0.6)
    raise ModelError(
        f"unknown model {name!r}; "
        + (f"did you mean {', '.join(close)}? Give " if close else "give ")
        + "a timm name (timm.list_models()), package.module:callable, a model file (.yaml), "
        + "hf:ORG/NAME or the path of a folder of Hugging Face's transformers, "
        + f"or a demo model ({', '.join(DEMO_MODELS)})"
    )


def _instantiate(spec: ModelSpec) -> nn.Module:
    if spec.kind == "hf":
        return _structure(spec)
    if spec.kind == "own":
        return _call_own(spec)
    module: nn.Module
    if not spec.pretrained:
        try:
            module = timm.create_model(spec.architecture, **spec.kwargs)
            return module
        except Exception as error:  # whatever a model's constructor raises for these kwargs
            raise ModelError(f"{_said(spec)} cannot be built: {shown(first_line(error))}; check its kwargs") from error
    try:
        with offline_if_unreachable():
            module = timm.create_model(spec.architecture, pretrained=True, **spec.kwargs)
            return module
    except Exception as error:
        raise ModelError(
            f"the pretrained weights of {_said(spec)} cannot be had: {shown(first_line(error))}. Give checkpoint=FILE "
            "(.safetensors or .pth), or fill the Hugging Face cache on a machine with internet (create the model there "
            "once, copy ~/.cache/huggingface, or point HF_HOME at it)"
        ) from error


def _expanded(spec: ModelSpec) -> ModelSpec:
    """The spec with what folder or hub say of its model."""
    if spec.kind == "hf":
        return hugging_face.expand(spec)
    return timm_hub.expand(spec) if spec.architecture.startswith(timm_hub.PREFIXES) else spec


def _structure(spec: ModelSpec) -> nn.Module:
    if "config" not in spec.kwargs:
        raise ModelError(f"{spec.architecture} is a name alone; make the spec by slicer.models.zoo.resolve")
    return hugging_face_structure.build(spec.kwargs)[0]


def _with_weights(spec: ModelSpec) -> nn.Module:
    assert spec.checkpoint is not None, "only a spec with a checkpoint has weights to load"
    return hugging_face_weights.load(spec.kwargs, spec.checkpoint)


def _call_own(spec: ModelSpec) -> nn.Module:
    if spec.pretrained:
        raise ModelError(f"{_said(spec)} is an own module: pretrained weights are timm's; give checkpoint=FILE")
    try:
        make = load_object(spec.architecture, "model")
    except ConfigError as error:
        raise ModelError(str(error)) from error
    try:
        module = make(**spec.kwargs)
    except Exception as error:
        raise ModelError(f"{_said(spec)} cannot be built: {shown(named_line(error))}") from error
    if not isinstance(module, nn.Module):
        raise ModelError(f"{_said(spec)} returned {type(module).__name__}; it must return a torch.nn.Module")
    must_be_plain(module)
    return module


def _as_json(what: str, values: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return dict(json.loads(json.dumps(dict(values), allow_nan=False)))
    except (TypeError, ValueError, RecursionError) as error:
        raise ModelError(
            f"{what} {shown(dict(values))} must be JSON values ({shown(str(error))}); "
            "for anything else write a function that builds the model and name it as package.module:callable"
        ) from error


def _said(spec: ModelSpec) -> str:
    return f"{spec.architecture}({', '.join(f'{shown(key)}={shown(value)}' for key, value in spec.kwargs.items())})"
