"""Classes of the messages of gRPC's service, made from the compiled .proto files beside this.

They live in a pool of their own: tritonclient and others bring messages of the same names, which protobuf allows only
once in its common pool. They cost no generated code that must fit protobuf's release. A message that is to be pickled
is pickled as its bytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

#: Made by ``protoc --descriptor_set_out``.
COMPILED = Path(__file__).with_name("inference.binpb")

#: The service's full name, as it stands in the path of a call: ``/SERVICE/METHOD``.
SERVICE = "inference.GRPCInferenceService"

#: A protobuf message; their classes are made when this is imported, so no type checker knows them.
Message = Any


def _loaded() -> DescriptorPool:
    pool = DescriptorPool()
    for file in FileDescriptorSet.FromString(COMPILED.read_bytes()).file:
        pool.AddSerializedFile(file.SerializeToString())
    return pool


POOL = _loaded()


def message_class(name: str) -> Message:
    """Of a message's name without its package. Raises KeyError: there is no such message."""
    return GetMessageClass(POOL.FindMessageTypeByName(f"inference.{name}"))


ModelInferRequest = message_class("ModelInferRequest")
ModelInferResponse = message_class("ModelInferResponse")
