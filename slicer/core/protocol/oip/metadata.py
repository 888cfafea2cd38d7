"""What a server and its models say of themselves, in the protocol's words; plain JSON values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...common.version import headtail_version
from ..messages import ServedModel
from ..outputs import Output
from .requests import ACTIVATION, CLASS_MAP, IMAGE, PARAMETERS, TOP_K
from .responses import class_map_datatype, datatype_of, version_of

SERVER_NAME = "headtail"
PLATFORM = "headtail"

#: Extensions of the protocol that this server speaks; those of ours begin with its name.
EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "schedule_policy",
    "headtail_parcel",
    "headtail_predict",
    "headtail_describe",
    "headtail_shard",
)

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class OfferedModel:
    """A model with what its metadata tells.

    Attributes:
        served: as devices learn it.
        shapes: of one row, at every cut from 0 to the number of slices.
        outputs: what a row that has run holds.
        takes_images: whether whole images may enter.
        labels: how many classes have a name.
        max_batch: most rows of one step.
    """

    served: ServedModel
    shapes: Sequence[tuple[int, ...]]
    outputs: Sequence[Output]
    takes_images: bool
    labels: int
    max_batch: int


def server_metadata() -> Json:
    """Of ``GET /v2``."""
    return {"name": SERVER_NAME, "version": headtail_version(), "extensions": list(EXTENSIONS)}


def model_metadata(model: OfferedModel) -> Json:
    """Of ``GET /v2/models/NAME``. A dimension of -1 is the batch, or free."""
    served, shapes = model.served, model.shapes
    inputs: list[Json] = []
    if model.takes_images:
        inputs.append(
            {
                "name": IMAGE,
                "datatype": "BYTES",
                "shape": [-1],
                "parameters": {
                    "files": "JPEG or PNG; in JSON as base64",
                    "pixels": {"datatype": "UINT8", "shape": [-1, -1, -1, shapes[0][0]]},
                },
            }
        )
    first = served.entries[0]
    inputs.append(
        {
            "name": ACTIVATION,
            "datatype": "FP32",
            "shape": [-1, *shapes[first]],
            "parameters": {
                "manifest": served.manifest,
                "cuts": [{"cut": cut, "shape": list(shapes[cut])} for cut in served.entries],
                "codecs": list(served.codecs),
            },
        }
    )
    return {
        "name": served.name,
        "versions": [version_of(served.manifest)],
        "platform": PLATFORM,
        "inputs": inputs,
        "outputs": _outputs(model),
        "parameters": {
            "request": dict(PARAMETERS),
            "num_slices": served.num_slices,
            "strategy": served.strategy,
            "emulated": list(served.emulated),
        },
    }


def _outputs(model: OfferedModel) -> list[Json]:
    own = model.outputs[0].shape
    found: list[Json] = []
    if len(own) == 1:
        found.append(
            {
                "name": TOP_K,
                "datatype": "BYTES",
                "shape": [-1, -1],
                "parameters": {"elements": "probability:class:label, best first", "labels": model.labels},
            }
        )
    elif own:
        found.append({"name": CLASS_MAP, "datatype": class_map_datatype(own[0]), "shape": [-1, *own[1:]]})
    for output in model.outputs:
        parameters = {"datatypes": ["FP32", "FP16"]}
        shape = [-1, *output.shape]
        found.append(
            {"name": output.name, "datatype": datatype_of(None, output), "shape": shape, "parameters": parameters}
        )
    return found


def model_config(model: OfferedModel) -> Json:
    """Of Triton's extension model_configuration, as far as a client makes use of it."""
    metadata = model_metadata(model)
    return {
        "name": metadata["name"],
        "platform": PLATFORM,
        "backend": PLATFORM,
        "max_batch_size": model.max_batch,
        "input": [_configured(tensor) for tensor in metadata["inputs"]],
        "output": [_configured(tensor) for tensor in metadata["outputs"]],
    }


def _configured(tensor: Json) -> Json:
    """Triton's names of datatypes; its dimensions go without that of the batch."""
    kind = "STRING" if tensor["datatype"] == "BYTES" else tensor["datatype"]
    return {"name": tensor["name"], "data_type": f"TYPE_{kind}", "dims": tensor["shape"][1:] or [1]}
