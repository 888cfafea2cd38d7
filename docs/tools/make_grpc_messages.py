"""Compile the protocol's .proto files again: ``slicer/core/protocol/oip/grpc/inference.binpb``.

git clone https://github.com/triton-inference-server/common && git -C common checkout COMMIT
pip install grpcio-tools     # in an environment of its own: it pins protobuf
python docs/tools/make_grpc_messages.py common/protobuf
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

#: What the committed file was made from; grpcio-tools 1.71.2.
COMMIT = "83adf7cf88a2f343005974dff3728be746de2d66"

INTO = Path(__file__).parents[2] / "slicer/core/protocol/oip/grpc/inference.binpb"


def main(protos: str) -> int:
    """Args: protos: the folder with grpc_service.proto and model_config.proto. Returns protoc's exit status."""
    protoc = [sys.executable, "-m", "grpc_tools.protoc", f"-I{protos}", "--include_imports"]
    return subprocess.run([*protoc, f"--descriptor_set_out={INTO}", "grpc_service.proto"], check=False).returncode


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1]))
