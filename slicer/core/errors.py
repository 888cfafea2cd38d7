"""What can be wrong with a user's input.

::

    HeadTailError                  every command prints it and exits with 2
    ├── ModelError                 the model is unknown, or cannot be built
    │   ├── NotSliceable           it can be built, but not cut; says why
    │   └── NotExportable          it can be cut, but a slice is no ONNX file; says which, and why
    ├── CutError                   a cut, boundary or span that the model does not have
    ├── ShardError                 a shard or manifest is missing, truncated, altered or foreign
    ├── CodecError                 an activation or payload that cannot be encoded or decoded
    │   └── StaleTablesError       a payload that was coded with tables of another calibration
    ├── BadRequestError            a request that does not follow the Open Inference Protocol
    ├── ImageError                 an image or a label file that cannot be read
    ├── ConfigError                a configuration or fleet file that contradicts itself or is unknown
    ├── PlacementError             the cluster lacks the nodes or resources that were asked for
    └── ServerError                no server, a foreign server, or a server that stopped answering
        └── RefusedError           the server, or the client's clock, says why there is no answer: by a code

Every message holds the value that was refused and the remedy. ``assert`` is for our own invariants only.
"""

from __future__ import annotations


class HeadTailError(ValueError):
    """A user's input is wrong. The message names the value and says what to do."""


class ModelError(HeadTailError):
    """The model is unknown, or cannot be built."""


class NotSliceable(ModelError):
    """The model can be built, but it offers no place where exactly one tensor crosses."""


class NotExportable(ModelError):
    """A slice cannot be an ONNX file, or would not be exact as one."""


class CutError(HeadTailError):
    """A cut, boundary or span that the model does not have."""


class ShardError(HeadTailError):
    """A shard or manifest is missing, truncated, altered or belongs to another model."""


class CodecError(HeadTailError):
    """An activation cannot be encoded, or a payload cannot be decoded."""


class NotFiniteError(CodecError):
    """An activation, decoded or to be encoded, holds NaN or infinity."""


class StaleTablesError(CodecError):
    """A payload was coded with tables of another calibration of the model."""


class BadRequestError(HeadTailError):
    """A request that does not follow the Open Inference Protocol, or that this server cannot read."""


class ImageError(HeadTailError):
    """An image or a label file cannot be read."""


class ConfigError(HeadTailError):
    """A configuration is unknown, out of range or contradicts itself."""


class PlacementError(HeadTailError):
    """The cluster lacks the nodes or the resources that were asked for."""


class ServerError(HeadTailError):
    """There is no server, it is another one than expected, or it stopped answering."""


class RefusedError(ServerError):
    """A request was not answered, for a reason that has a name.

    Attributes:
        code: one of `protocol.messages.RefusalCode`. ``too_late`` also where no answer came in time.
        server: name of the replica that refused; empty: it did not say, or the client gave up by itself.
    """

    def __init__(self, code: str, message: str, server: str = "") -> None:
        super().__init__(message)
        self.code, self.server = code, server

    def __reduce__(self) -> tuple[type[RefusedError], tuple[str, str, str]]:
        return type(self), (self.code, str(self), self.server)
