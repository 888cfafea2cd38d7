"""Which class of transformers a saved model is, and which of its outputs is the answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from torch import nn

from slicer.core.common.error_text import shown
from slicer.core.protocol.outputs import TOKENS as TOKENS_OUTPUT
from slicer.errors import ModelError

#: Vision towers, by the model_type of a config: what is built where no head for classification was saved.
TOWERS: Mapping[str, str] = {
    "beit": "BeitModel",
    "clip": "CLIPVisionModelWithProjection",
    "clip_vision_model": "CLIPVisionModelWithProjection",
    "convnext": "ConvNextModel",
    "convnextv2": "ConvNextV2Model",
    "data2vec-vision": "Data2VecVisionModel",
    "deit": "DeiTModel",
    "dinov2": "Dinov2Model",
    "dinov2_with_registers": "Dinov2WithRegistersModel",
    "dinov3_vit": "DINOv3ViTModel",
    "siglip": "SiglipVisionModel",
    "siglip_vision_model": "SiglipVisionModel",
    "swin": "SwinModel",
    "swinv2": "Swinv2Model",
    "vit": "ViTModel",
    "vit_msn": "ViTMSNModel",
}

_ALSO_TOWERS = ("CLIPVisionModel",)
_WHOLE = ("CLIPModel", "SiglipModel")  # text and vision: the tower is taken
_CLASSIFIERS = ("ForImageClassification", "ForImageClassificationWithTeacher")

#: What answers a number per class at each place of a map. Its classes have no place in an answer's ``top_k``.
DENSE: tuple[str, ...] = ("SegformerForSemanticSegmentation",)

#: What can be asked of a tower beside its own pooled embedding: all tokens, or the first one alone.
TOKENS, FIRST_TOKEN = "last_hidden_state", "first_token"


def class_of(config: Mapping[str, Any], name: str) -> str:
    """The class to build for a config.json: the one that was saved, or the tower of it.

    Raises:
        ModelError: it is neither an image classifier nor a known dense model or vision tower.
    """
    kind = config.get("model_type")
    saved = config.get("architectures")
    first = saved[0] if isinstance(saved, list) and saved else None
    tower = TOWERS.get(str(kind))
    if first is None or first in _WHOLE:
        if tower is not None:
            return tower
    elif is_known(first):
        return str(first)
    what = f"{shown(first)}" if first is not None else f"a model of type {shown(repr(kind))}"
    raise ModelError(
        f"model {name}: {what} is neither an image classifier of transformers (...ForImageClassification) nor "
        f"{', '.join(DENSE)} nor one of the vision towers {', '.join(sorted(set(TOWERS.values())))}; save the part "
        "that you want by itself, or name a function that builds it as package.module:callable"
    )


def is_known(name: object) -> bool:
    """Whether it may be built; a manifest comes from another machine, and names the class."""
    return isinstance(name, str) and (name.endswith(_CLASSIFIERS) or name in {*TOWERS.values(), *_ALSO_TOWERS, *DENSE})


def outputs(class_name: str) -> tuple[str, ...]:
    """What can be the answer: fields of the class's ModelOutput that hold a row per image, the usual one first.

    ``logits`` of a classifier or a dense model. Of a tower: its pooled embedding as transformers defines it
    (``image_embeds``, projected and not normalised, of CLIP with a projection; else ``pooler_output``), or tokens.
    """
    if class_name.endswith(_CLASSIFIERS) or class_name in DENSE:
        return ("logits",)
    pooled = "image_embeds" if class_name.endswith("WithProjection") else "pooler_output"
    return (pooled, FIRST_TOKEN, TOKENS)


def take(result: Mapping[str, Any], output: str) -> Any:
    """The answer out of a ModelOutput."""
    return result[TOKENS][:, 0] if output == FIRST_TOKEN else result[output]


def tower_of(model: nn.Module) -> nn.Module:
    """What a classifier classifies the output of, and a dense model decodes; a tower itself, which has no such part."""
    if type(model).__name__ in DENSE:
        return cast(nn.Module, model.base_model)  # its decoder may have more weights
    if not type(model).__name__.endswith(_CLASSIFIERS):
        return model
    return max(model.children(), key=lambda part: sum(weights.numel() for weights in part.parameters()))


def further(tower: nn.Module, seen: Mapping[str, Any], result: Mapping[str, Any], name: str) -> Any:
    """A further output (`slicer.models.outputs`) out of what a tower returned.

    Features are what transformers calls the pooled output, of CLIP with a projection the projected one. A tower without
    one gives its class token, or without such a token the mean of all tokens; of a map the mean of all its places.

    Args:
        seen: of the tower; `result`: of the whole model.
    """
    tokens = seen[TOKENS]
    if name == TOKENS_OUTPUT:
        return tokens
    for pooled in (result.get("image_embeds"), seen.get("pooler_output")):
        if pooled is not None:
            return pooled
    if any(path.endswith("cls_token") or path.endswith("class_embedding") for path, _ in tower.named_parameters()):
        return tokens[:, 0]
    return tokens.flatten(2).mean(2) if tokens.ndim == 4 else tokens.mean(1)
