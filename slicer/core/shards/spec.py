"""Which model is meant: by a timm name, an own callable, a name of Hugging Face, a demo model or a model file.

A `ModelSpec` is all that is needed to build the same model with the same weights again, on any node: random weights are
seeded, own modules are named by where they are imported from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

#: How the name of a model of Hugging Face's transformers begins.
HF = "hf:"


@dataclass(frozen=True)
class ModelSpec:
    """How to build a model.

    Attributes:
        architecture: a timm model name; ``package.module:callable`` for an own module; or ``hf:NAME`` for a model of
            Hugging Face's transformers.
        kwargs: keyword arguments for timm's create_model or the callable (JSON values only). Of ``hf:NAME`` what
            `slicer.models.hugging_face.source.expand` makes: class, config, attention, output.
        checkpoint: a file with the weights (.safetensors, .pth, .ckpt, ...); None for random or pretrained ones.
        checkpoint_key: where in that file the weights lie, or what their names begin with (``model_ema``,
            ``state_dict.teacher``); None: the only ones that fit, of a model and its average the average.
        pretrained: load timm's pretrained weights (needs the model hub or its local cache).
        dtype: fp32, fp16 or bf16.
        seed: of the random weights, where there are no others.
        data_config: how images become input, where it differs from what timm says of the model: any of input_size
            (channels, height, width), mean, std, interpolation, crop_pct, crop_mode; and exif_orientation: false, which
            leaves images as they lie in the file.
        labels: what its classes are called (`slicer.models.labels`); in a model file also the path of a file. They are
            no part of the model's identity.
        outputs: what it gives beside its own result, of ``features`` and ``tokens`` (`slicer.models.outputs`).
    """

    architecture: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    checkpoint: str | None = None
    pretrained: bool = False
    dtype: str = "fp32"
    seed: int = 0
    data_config: Mapping[str, Any] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    checkpoint_key: str | None = None
    outputs: tuple[str, ...] = ()

    @property
    def kind(self) -> Literal["timm", "own", "hf"]:
        """Who builds it."""
        if self.architecture.startswith(HF):
            return "hf"
        return "own" if ":" in self.architecture else "timm"
