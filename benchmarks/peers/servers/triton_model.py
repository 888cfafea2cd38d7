"""Triton's Python backend runs this as ``model.py`` of one entry: all requests of a dynamic batch are one step.

As its README says: `execute` is given the requests that were batched and returns a response for each, in order. The
rows are brought together into one array, as a model would need them.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]

from benchmarks.peers.accelerator import Accelerator


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        parameters = json.loads(args["model_config"])["parameters"]
        self._entry = int(parameters["entry"]["string_value"])
        self._accelerator = Accelerator(parameters["accelerator"]["string_value"])

    def execute(self, requests: list[Any]) -> list[Any]:
        rows = np.concatenate([pb_utils.get_input_tensor_by_name(one, "ACTIVATION").as_numpy() for one in requests])
        self._accelerator.run(self._entry, len(rows))
        answers = np.stack([rows[:, 0], np.full(len(rows), self._entry)], axis=1).astype(np.float32)
        return [
            pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor("ANSWER", answers[index : index + 1])])
            for index in range(len(requests))
        ]
