"""timm's models on the Hugging Face hub, and in folders of that form: ``hf-hub:ORG/NAME``, ``local-dir:FOLDER``.

The config there names one of timm's architectures, so the spec is that of a timm name with a checkpoint: whoever gets
shards needs neither folder nor hub.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from slicer.core.shards.spec import ModelSpec
from slicer.errors import ModelError
from slicer.models.hugging_face.hub import Source, find_source
from slicer.models.labels import usable

PREFIXES: tuple[str, ...] = ("hf-hub:", "hf_hub:", "local-dir:")

#: Of timm's pretrained_cfg: what decides over structure and input.
_TAKEN = (
    *("num_classes", "input_size", "fixed_input_size", "pool_size", "crop_pct", "crop_mode", "interpolation"),
    *("mean", "std", "first_conv", "classifier", "min_input_size"),
)


def expand(spec: ModelSpec) -> ModelSpec:
    """The spec with timm's name for the model, its arguments, weights file and labels.

    Raises:
        ModelError: there is no such model, or it is none of timm's.
    """
    source = find_source(spec.architecture.partition(":")[2])
    document = source.json("config.json")
    if document is None:
        raise source.missing("config.json")
    architecture = document.get("architecture")
    if not isinstance(architecture, str):
        remedy = "; as one of transformers it is hf:NAME" if "model_type" in document else ""
        raise ModelError(f"model {source.name}: its config.json names no architecture of timm{remedy}")
    about = _mapping(document.get("pretrained_cfg")) or document  # in files of before timm 0.9 it is the document
    overlay = {key: about[key] for key in _TAKEN if about.get(key) is not None}
    if isinstance(document.get("num_classes"), int):
        overlay["num_classes"] = document["num_classes"]
    kwargs = {**_mapping(document.get("model_args")), "pretrained_cfg_overlay": overlay, **spec.kwargs}
    names, classes = document.get("label_names") or about.get("label_names"), overlay.get("num_classes")
    return replace(
        spec,
        architecture=architecture,
        kwargs=kwargs,
        checkpoint=spec.checkpoint or _weights(source),
        pretrained=False,
        labels=spec.labels or (usable(names, classes) if isinstance(classes, int) else ()),
    )


def _weights(source: Source) -> str:
    found = source.file("model.safetensors") or source.file("pytorch_model.bin")
    if found is None:
        raise source.missing("model.safetensors")
    return str(found)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
