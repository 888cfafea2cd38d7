"""What crosses the wire between a device and the server: request, reply, refusal.

Plain frozen dataclasses of builtin types and bytes, so that they pickle fast and that no device ever unpickles a class
of `deployments`. A refusal is data, not an exception: one bad row answers for itself and no other row suffers.

Times are durations on one host. The clocks of two hosts are never subtracted, so a deadline travels as what is left of
it when the request is sent.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

#: Why a request was refused. `stale` asks the device to reload its head; the others say it in the message.
RefusalCode = Literal[
    "unknown_model",  # the application serves no model of that name
    "stale",  # the manifest's digest is not the one that is served: reload the head
    "bad_cut",  # the cut is no entry of this model
    "bad_codec",  # the codec is unknown, or the payload has another size than shape and codec say
    "bad_shape",  # the shape is not that of the activation at this cut
    "bad_request",  # it does not follow the protocol, or asks for what there is not
    "not_finite",  # NaN or infinity in the activation
    "overloaded",  # the queue is full; try again later
    "too_late",  # the deadline passed before the row could run
    "failed",  # the row failed on the accelerator, alone
    "cancelled",  # the caller left before the row ended; seen in the server's counters only
    "stopped",  # the server stops or restarts; try again
]

#: What a request without a priority has; there are as many levels above as below.
DEFAULT_PRIORITY = 8
MAX_PRIORITY = 2 * DEFAULT_PRIORITY - 1

#: What a (class, logit) pair of an answer weighs, in bytes: a round figure, since it travels as text.
PAIR_BYTES = 24

#: Codes that a client may answer by sending the same request again, after a pause.
RETRYABLE: frozenset[str] = frozenset({"overloaded", "stopped"})


@dataclass(frozen=True, slots=True)
class Request:
    """One image's activation at a cut, encoded.

    Attributes:
        id: unique per request; answers carry it.
        model: the model's name in the application.
        manifest: digest of the manifest that the device's head was loaded from.
        cut: how many slices ran on the device; the row enters the server there. 0: `payload` is the model's input.
        codec: name of the codec that made `payload`.
        shape: shape of the one activation, without a batch dimension.
        payload: the encoded activation; a memoryview where it came in a larger body (`protocol.packet`).
        top_k: return so many (class, score) pairs; None returns all logits.
        deadline_ms: what is left until the answer is worthless, at the moment of sending; None: no deadline.
        wants_load: the reply shall say how busy the server is (`Reply.load`).
        key: what all sendings of one request have in common, and no other request: the server runs it once, however
            often it comes within a minute, and gives all of them its answer. Make it so that nobody guesses it: who
            knows it may get the answer. Empty: each sending is a request of its own.
        priority: 1 is the most urgent, 2 the next, `MAX_PRIORITY` the last; 0 stands for the default,
            `DEFAULT_PRIORITY`. Strict: as long as more urgent ones wait, the others do. Of several sendings under one
            key, that of the one that runs counts.
        outputs: of the model, to be returned whole (`protocol.outputs`); empty: its own result, by `top_k`.
    """

    id: str
    model: str
    manifest: str
    cut: int
    codec: str
    shape: tuple[int, ...]
    payload: bytes | memoryview
    top_k: int | None = None
    deadline_ms: float | None = None
    wants_load: bool = False
    key: str = ""
    priority: int = 0
    outputs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Timings:
    """Where a request spent its time in the server; differences on the server's clock only.

    Attributes:
        admission_ms: from the request's arrival in the replica until its row stood in the engine's queue.
        queue_ms: waiting in the engine, all boundaries together.
        execution_ms: on the accelerator, all steps together.
        total_ms: from arrival in the replica until the reply was ready.
        rows_per_step: how many rows each of its steps had, in order.
    """

    admission_ms: float
    queue_ms: float
    execution_ms: float
    total_ms: float
    rows_per_step: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to one request.

    Attributes:
        top_k: (class, logit) pairs, best first; empty when all logits were asked for.
        logits: float32, little-endian, `logits_shape`; empty when top_k was asked for.
        server: name of the replica, for the record.
        load: (entry, ms in queues, ms of execution) of this model's entries, smoothed; where it was asked for and the
            server has seen requests lately.
        outputs: (name, shape, float32 little-endian) of those that `Request.outputs` asked for, in the model's order;
            then `top_k` and `logits` are empty.
    """

    id: str
    timings: Timings
    top_k: tuple[tuple[int, float], ...] = ()
    logits: bytes = b""
    logits_shape: tuple[int, ...] = ()
    server: str = ""
    load: tuple[tuple[int, float, float], ...] = ()
    outputs: tuple[tuple[str, tuple[int, ...], bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why one request was not answered: a code for programs, a message with value and remedy for people."""

    id: str
    code: RefusalCode
    message: str
    server: str = ""


Answer = Reply | Refusal


def answer_bytes(answer: Answer) -> int:
    """What an answer weighs beside its envelope: its logits, (class, logit) pairs and outputs; of a refusal nothing."""
    if isinstance(answer, Refusal):
        return 0
    outputs = sum([len(values) for _, _, values in answer.outputs])
    return len(answer.logits) + PAIR_BYTES * len(answer.top_k) + outputs


@dataclass(frozen=True, slots=True)
class ShardInfo:
    """One slice's file in a manifest: what a device must fetch to run it."""

    file: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What a device learns of a model when it joins: enough to fetch a head and to ask for an answer.

    Attributes:
        name: the model's name in the application.
        manifest: the manifest's digest; every request must carry it.
        manifest_json: the manifest itself, as exported (canonical JSON).
        num_slices: n; cuts are 0..n.
        entries: the cuts at which this server accepts requests.
        strategy: how the server batches this model.
        codecs: the codecs it accepts.
        emulated: names of the emulated parts of the server, empty when all is real.
        url: where the application also answers HTTP (``http://host:port/app``); empty where it does not.
        token: what HTTP wants; told through the Serve handle only, whose callers Ray trusts anyway.
        labels: of the model's classes, in order; empty: the server knows none.
        preprocessing_json: how an image becomes its input (`images.preprocessing`); empty: the server does
            not say, because the model takes no images or a description cannot say how.
        onnx: digest of the index of its slices as ONNX files (`protocol.onnx_index`), which is fetched as shards are,
            as are the files; empty: there are none.
        classifies: its own result is a number for each class; else an embedding, or a map.
        calibration_json: which codecs it has with tables, and what each codec was found to do
            (`protocol.calibration_index`); the tables are fetched as shards are. Empty: it was not calibrated.
    """

    name: str
    manifest: str
    manifest_json: str
    num_slices: int
    entries: tuple[int, ...]
    strategy: str
    codecs: tuple[str, ...]
    emulated: tuple[str, ...] = field(default=())
    url: str = ""
    token: str = field(default="", repr=False)
    labels: tuple[str, ...] = field(default=(), repr=False)
    preprocessing_json: str = field(default="", repr=False)
    onnx: str = ""
    classifies: bool = True
    calibration_json: str = field(default="", repr=False)
