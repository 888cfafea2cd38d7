"""LitServe as its documentation has it: a `LitAPI` per entry, each with a path and a batch of its own, one server.

    python -m benchmarks.peers.servers.litserve_server ACCELERATOR PORT SETTING ENTRY...

SETTING is JSON: ``max_batch_size``, ``batch_timeout_s``, ``fast_queue``. `predict` is given the batch.
"""

from __future__ import annotations

import base64
import json
import sys
from typing import Any

import litserve
import numpy as np

from benchmarks.peers.accelerator import Accelerator


class Tail(litserve.LitAPI):
    def __init__(self, entry: int, folder: str, **options: Any) -> None:
        super().__init__(api_path=f"/{entry}", **options)
        self.entry, self.folder = entry, folder

    def setup(self, device: str) -> None:
        del device
        self.accelerator = Accelerator(self.folder)

    def decode_request(self, request):  # type: ignore[no-untyped-def]  # LitServe reads the annotations
        return np.frombuffer(base64.b64decode(request["activation"]), np.uint8)

    def batch(self, inputs: list[Any]) -> Any:
        return np.stack(inputs)

    def predict(self, x: Any) -> Any:
        rows = np.atleast_2d(x)
        self.accelerator.run(self.entry, len(rows))
        answers = [[float(row[0]), float(self.entry)] for row in rows]
        return answers if np.ndim(x) == 2 else answers[0]

    def unbatch(self, output: Any) -> Any:
        return output

    def encode_response(self, output):  # type: ignore[no-untyped-def]
        return {"answer": output}


if __name__ == "__main__":
    folder, port, setting = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
    options = {"max_batch_size": setting["max_batch_size"], "batch_timeout": setting["batch_timeout_s"]}
    apis = [Tail(int(entry), folder, **options) for entry in sys.argv[4:]]
    server = litserve.LitServer(
        apis, accelerator="cpu", workers_per_device=1, timeout=False, fast_queue=setting["fast_queue"]
    )
    server.run(host="127.0.0.1", port=port, log_level="warning", generate_client_file=False, access_log=False)
