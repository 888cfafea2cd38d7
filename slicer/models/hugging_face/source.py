"""From a name to a spec: what ``hf:ORG/NAME`` or a folder holds, as all that is needed to build the model anywhere.

The spec carries the config itself, so a device that gets shards needs neither folder nor hub.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from slicer.core.common.error_text import shown
from slicer.core.shards.spec import HF, ModelSpec
from slicer.errors import ModelError
from slicer.models.hugging_face import families
from slicer.models.hugging_face.hub import Source, find_source
from slicer.models.hugging_face.processor import data_config_of
from slicer.models.hugging_face.structure import ATTENTIONS, KEYS, find_class, make_config, pools, transformers
from slicer.models.hugging_face.weights import has_pooler
from slicer.models.labels import usable

logger = logging.getLogger("headtail.models")

#: What a user may give for such a model.
OPTIONS: tuple[str, ...] = ("attention", "output", "img_size")

# Of a config: where it was saved, and how, and labels, which are no part of a model's identity.
_NO_PART = (
    *("_name_or_path", "architectures", "auto_map", "dtype", "fusion_config", "id2label", "label2id", "num_labels"),
    *("torch_dtype", "transformers_version", "transformers_weights", "_attn_implementation", "attn_implementation"),
)


def expand(spec: ModelSpec) -> ModelSpec:
    """The spec with its model's config, weights file, input and labels; one that has them already as it is.

    A folder without weights means random ones, which the log says.

    Raises:
        ModelError: there is no such model, or none that can be built; or an option is wrong.
    """
    if "config" in spec.kwargs:
        return spec
    source = find_source(spec.architecture.removeprefix(HF))
    raw = source.json("config.json")
    if raw is None:
        raise source.missing("config.json")
    if raw.get("quantization_config"):
        raise ModelError(f"model {source.name}: its weights are quantised; give plain fp32, fp16 or bf16 weights")
    _check_options(spec.kwargs, source.name)
    class_name = families.class_of(raw, source.name)
    config, id2label = _config(raw, class_name)
    found = spec.checkpoint or source.weights()
    if found is None:
        if source.folder is None:
            raise source.missing("model.safetensors")
        logger.warning("model folder %s holds no weights; they are random (seed %d)", source.folder, spec.seed)
    output = _output(spec.kwargs.get("output"), class_name, str(found) if found else None)
    kwargs = {
        "class": class_name,
        "config": config,
        "attention": _attention(spec.kwargs.get("attention"), class_name),
        "output": output,
        "transformers": transformers().__version__,
    }
    named = output == "logits" and class_name not in families.DENSE  # labels are of a row's numbers, one by one
    labels = spec.labels or (usable(id2label, len(id2label)) if named else ())
    return replace(
        spec,
        architecture=f"{HF}{source.name}",
        kwargs=kwargs,
        checkpoint=str(found) if found else None,
        pretrained=False,  # its weights are always its own
        data_config={**_input(source, config, spec), **spec.data_config},
        labels=labels,
    )


def check(spec: ModelSpec) -> None:
    """Of a spec that has its config: raise ModelError unless it can be one that `expand` made."""
    kwargs = spec.kwargs
    if sorted(kwargs) != sorted(KEYS) or not isinstance(kwargs["config"], Mapping):
        raise ModelError(f"{spec.architecture}: kwargs must be {', '.join(KEYS)}; name the folder, or {HF}ORG/NAME")
    if not families.is_known(kwargs["class"]) or kwargs["attention"] not in ATTENTIONS:
        raise ModelError(f"{spec.architecture}: {shown(kwargs['class'])} with attention {shown(kwargs['attention'])}")
    if kwargs["output"] not in families.outputs(kwargs["class"]):
        raise ModelError(f"{spec.architecture}: output {shown(kwargs['output'])} is none of {kwargs['class']}")


def _check_options(kwargs: Mapping[str, Any], name: str) -> None:
    if unknown := [key for key in kwargs if key not in OPTIONS]:
        raise ModelError(
            f"model {name}: unknown kwargs {', '.join(map(str, unknown))}; known are {', '.join(OPTIONS)}; the rest "
            "stands in its config.json"
        )


def _config(raw: Mapping[str, Any], class_name: str) -> tuple[dict[str, Any], Mapping[Any, Any]]:
    """The class's whole config as JSON values, this version's defaults included, and what its classes are called."""
    made = find_class(class_name)
    part = raw
    if made.config_class.model_type != raw.get("model_type") and isinstance(raw.get("vision_config"), Mapping):
        part = raw["vision_config"]
    config = make_config(made, part)
    kept = _without(json.loads(config.to_json_string(use_diff=False)))
    if "logits" not in families.outputs(class_name):
        return kept, {}
    id2label: Mapping[Any, Any] = config.id2label
    return {**kept, "num_labels": len(id2label)}, id2label


def _without(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _without(value) if isinstance(value, Mapping) else value
        for key, value in values.items()
        if key not in _NO_PART
    }


def _attention(given: Any, class_name: str) -> str:
    """As given, else ``sdpa`` where the class has it. Raises ModelError."""
    has_sdpa = bool(getattr(find_class(class_name), "_supports_sdpa", False))
    if given is None:
        return "sdpa" if has_sdpa else "eager"
    if given not in ATTENTIONS or (given == "sdpa" and not has_sdpa):
        known = " and ".join(ATTENTIONS) if has_sdpa else "eager alone"
        raise ModelError(f"attention {shown(repr(given))}: {class_name} has {known}")
    return str(given)


def _output(given: Any, class_name: str, checkpoint: str | None) -> str:
    """As given, else the usual one; the first token where a pooling layer has no weights. Raises ModelError."""
    known = families.outputs(class_name)
    if given is not None:
        if given not in known:
            raise ModelError(f"output {shown(repr(given))}: {class_name} offers {', '.join(known)}")
        return str(given)
    if pools(find_class(class_name)) and checkpoint is not None and not has_pooler(checkpoint):
        return families.FIRST_TOKEN
    return known[0]


def _input(source: Source, config: Mapping[str, Any], spec: ModelSpec) -> dict[str, Any]:
    """Timm's data config: of the preprocessor_config.json; else of the config's image size, which the log says."""
    document = source.json("preprocessor_config.json")
    if document is None:
        beside = source.json("processor_config.json") or {}
        document = beside.get("image_processor")
    sides = _pair(spec.kwargs.get("img_size")) or _pair(_inner(config, "image_size"))
    complete = {"input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode"} <= spec.data_config.keys()
    if complete:
        return {}
    if not isinstance(document, Mapping):
        if sides is None:
            raise ModelError(
                f"model {source.name}: neither config.json nor a preprocessor_config.json says its image size"
            )
        logger.warning(
            "model %s: no preprocessor_config.json; images are normalised as ImageNet's, at %dx%d", source.name, *sides
        )
        return {"input_size": [int(_inner(config, "num_channels") or 3), *sides]}
    made = data_config_of(document, source.name)
    if spec.kwargs.get("img_size") is not None and sides is not None:
        made["input_size"] = [made["input_size"][0], *sides]
    return made


def _inner(config: Mapping[str, Any], key: str) -> Any:
    vision = config.get("vision_config")
    return config.get(key, vision.get(key) if isinstance(vision, Mapping) else None)


def _pair(value: Any) -> list[int] | None:
    if isinstance(value, int):
        return [value, value]
    if isinstance(value, list | tuple) and len(value) == 2:
        return [int(side) for side in value]
    if isinstance(value, Mapping) and {"height", "width"} <= value.keys():
        return [int(value["height"]), int(value["width"])]
    return None
