"""The planner: which cut and codec a device should use, by arithmetic over all of them.

Predicted inference time of a request, in the order of its way::

    device     wait for the device + preprocess + slices 0:cut + encode
    link       wait for the link + upload + round trip + download of the answer
    server     wait + execution of the tail, as the server reports them per entry

The device computes one image at a time and its link sends one request at a time, so at `rate_rps` images per second
each of the two is a queue. A wait is Kingman's for a service of fixed length, burst * rho S / (2 (1 - rho)), where
`burst` is the squared coefficient of variation of the gaps between images: 1 is an M/D/1 queue, 0 a camera that ticks
and never waits for itself. A busy device lets images out more evenly than they came in, so the link sees
burst * (1 - rho^2), with the device's rho. No choice with a rho above MOST_BUSY is offered, nor one whose answers keep
the link busier than that downwards; that answers wait for each other there is not reckoned with. Where images have
piled up on the device, they wait for each other whatever the rate is: half of their number times S on average.

Everything is in milliseconds. Pure functions over plain values; `planning.online_planner` runs them online,
``headtail slice --plan`` prints them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..codecs import activations
from ..codecs.registry import CODECS, IMAGE_CODECS, any_codec, as_taken
from ..codecs.transform.names import ENCODE_NS, needs_tables
from ..errors import ConfigError
from ..protocol.calibration_index import CalibrationIndex, Measured
from ..protocol.messages import ServedModel
from ..protocol.outputs import bytes_of
from ..shards.manifest import Manifest

#: No device or link is planned to be busier than this.
MOST_BUSY = 0.95


@dataclass(frozen=True, slots=True, order=True)
class Choice:
    """How a device treats a request: it runs `cut` slices and sends the activation by `codec`."""

    cut: int
    codec: str


@dataclass(frozen=True)
class ModelFacts:
    """What does not change while a model is served.

    Attributes:
        shapes: of the activation at the cuts 0..n; `slice_bytes`: weights of each slice.
        channel_axes: of these activations; empty: the last axis of each.
        entries: cuts that the server takes; `codecs`: codecs that it takes, those of images at cut 0 among them.
        answer_bytes: of the outputs that an answer carries. 0: classes, which come with the round trip.
        calibrated: what calibration found of codecs at cuts; empty: nobody calibrated the model.
    """

    shapes: tuple[tuple[int, ...], ...]
    slice_bytes: tuple[int, ...]
    entries: tuple[int, ...]
    codecs: tuple[str, ...]
    channel_axes: tuple[int, ...] = ()
    answer_bytes: int = 0
    calibrated: Mapping[Choice, Measured] = field(default_factory=dict)

    @property
    def num_slices(self) -> int:
        """n."""
        return len(self.slice_bytes)

    @classmethod
    def of(cls, served: ServedModel, outputs: Sequence[str] = ()) -> ModelFacts:
        """From what the server says of a model, for a device that asks for these outputs."""
        manifest = Manifest.from_json(served.manifest_json)
        sizes = tuple(shard.size_bytes for shard in manifest.shards)
        answer_bytes = bytes_of(manifest.outputs, outputs)
        return cls(
            manifest.shapes,
            sizes,
            served.entries,
            served.codecs,
            manifest.channel_axes,
            answer_bytes,
            calibrated_of(served.calibration_json),
        )

    def encoded_bytes(self, choice: Choice) -> int:
        """Of the activation at a cut, by a codec of activations: exact, or what calibration expects."""
        if needs_tables(choice.codec):
            return round(self.calibrated[choice].payload_bytes)
        axis = self.channel_axes[choice.cut] if self.channel_axes else None
        return activations.encoded_bytes(choice.codec, self.shapes[choice.cut], axis)

    def memory_bytes(self, cut: int) -> int:
        """Weights of slices 0:cut and their largest activation, as fp32."""
        return sum(self.slice_bytes[:cut]) + max(4 * math.prod(shape) for shape in self.shapes[: cut + 1])


@dataclass(frozen=True)
class DeviceView:
    """What is known of the device.

    Attributes:
        slices_ms: of each slice, batch 1; `preprocess_ms`: of an image.
        encode_ns: per value of the activation, by codec; what the codec says of itself for those that it lacks.
        memory_bytes: for weights and the largest activation; None: no limit.
        rate_rps: images per second that it takes; `burst`: squared coefficient of variation of the gaps between them.
        watts: while it computes; `joules_per_mb`: to send 10^6 bytes; None: not known, energy counts nothing.
        image_bytes: of a PNG or JPEG as the camera gives it, by codec; those it lacks are not offered.
        size_ratio: how much larger this device's payloads are than calibration expected, where it said what to expect.
        waiting: images that wait for the device now.
    """

    slices_ms: tuple[float, ...]
    preprocess_ms: float = 0.0
    encode_ns: Mapping[str, float] = field(default_factory=dict)
    memory_bytes: int | None = None
    rate_rps: float = 0.0
    burst: float = 1.0
    watts: float | None = None
    joules_per_mb: float | None = None
    image_bytes: Mapping[str, float] = field(default_factory=dict)
    size_ratio: float = 1.0
    waiting: int = 0


@dataclass(frozen=True, slots=True)
class LinkView:
    """What is known of the link: bytes per second up, the round trip of a small message, how long it still takes until
    what was sent has left, and bytes per second down; None: not known, so an answer takes no time of its own."""

    bytes_per_s: float = math.inf
    round_trip_ms: float = 0.0
    backlog_ms: float = 0.0
    down_bytes_per_s: float | None = None


@dataclass(frozen=True)
class ServerView:
    """What the server reports, by entry: time in its queues and on its accelerator. None: there is no server."""

    wait_ms: Mapping[int, float]
    execution_ms: Mapping[int, float]


@dataclass(frozen=True)
class Goal:
    """What is minimised: ms of inference time + what joules and the server's time are worth.

    Attributes:
        joule_ms: what one joule of the device is worth, in ms of inference time.
        server_ms: what one ms of the server's execution is worth, in ms of inference time.
        deadline_ms: meet this, then use the least of the server; where it cannot be met, the fastest.
        margin: share of the deadline that is kept free for what cannot be predicted.
        agreement: the least top-1 agreement with fp32 that a codec must have.
        measured: agreement measured for this model, by codec; for those that it lacks what calibration found at the
            cut, and else what the codec says of itself.
    """

    joule_ms: float = 0.0
    server_ms: float = 0.0
    deadline_ms: float | None = None
    margin: float = 0.2
    agreement: float = 0.99
    measured: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.joule_ms < 0 or self.server_ms < 0 or not 0 <= self.margin < 1 or not 0 <= self.agreement <= 1:
            raise ConfigError(
                f"goal: joule_ms {self.joule_ms}, server_ms {self.server_ms} (0 or more), margin {self.margin} (0 to "
                f"below 1), agreement {self.agreement} (0 to 1)"
            )

    def agreement_of(self, choice: Choice, facts: ModelFacts) -> float:
        """Top-1 agreement of a codec with fp32 at a cut."""
        if (found := self.measured.get(choice.codec)) is not None:
            return found
        if (calibrated := facts.calibrated.get(choice)) is not None:
            return calibrated.agreement
        known = any_codec(choice.codec)
        return known.agreement if known else 0.0


@dataclass(frozen=True, slots=True)
class Estimate:
    """What one choice would mean.

    Attributes:
        device_wait_ms, head_ms, encode_ms, upload_wait_ms, upload_ms, round_trip_ms, server_wait_ms, execution_ms,
            download_ms: its phases; head_ms includes preprocessing.
        total_ms: their sum, the predicted inference time.
        payload_bytes, memory_bytes, joules: on the wire, on the device, of the device (0 where not known).
        cost: what is minimised.
        refused: why it is not offered; empty where it is.
    """

    choice: Choice
    device_wait_ms: float = 0.0
    head_ms: float = 0.0
    encode_ms: float = 0.0
    upload_wait_ms: float = 0.0
    upload_ms: float = 0.0
    round_trip_ms: float = 0.0
    server_wait_ms: float = 0.0
    execution_ms: float = 0.0
    download_ms: float = 0.0
    total_ms: float = math.inf
    payload_bytes: int = 0
    memory_bytes: int = 0
    joules: float = 0.0
    cost: float = math.inf
    refused: str = ""


def calibrated_of(calibration_json: str) -> dict[Choice, Measured]:
    """What the server says of calibration, by choice; empty where it says nothing. Raises ShardError."""
    if not calibration_json:
        return {}
    index = CalibrationIndex.from_json(calibration_json, "what the server says of calibration")
    return {Choice(one.cut, one.codec): one for one in index.measured}


def estimate_all(
    facts: ModelFacts, device: DeviceView, link: LinkView, server: ServerView | None, goal: Goal
) -> list[Estimate]:
    """Every cut with every codec, those that are refused included; in the order of cuts and codecs."""
    choices = [Choice(cut, codec) for cut in range(facts.num_slices) for codec in offered(facts, cut)]
    choices.append(Choice(facts.num_slices, "fp32"))
    return [estimate(facts, choice, device, link, server, goal) for choice in choices]


def offered(facts: ModelFacts, cut: int) -> list[str]:
    """The codecs of a cut that a planner may choose: those of activations, with tables where it was calibrated, and at
    cut 0 those of images."""
    with_tables = (one.codec for one in facts.calibrated if one.cut == cut and needs_tables(one.codec))
    known = (*CODECS, *with_tables, *((name for name, one in IMAGE_CODECS.items() if one.planned) if cut == 0 else ()))
    return [codec for codec in known if codec in facts.codecs]


def estimate(
    facts: ModelFacts, choice: Choice, device: DeviceView, link: LinkView, server: ServerView | None, goal: Goal
) -> Estimate:
    """What one choice would mean."""
    cut, whole = choice.cut, choice.cut == facts.num_slices
    payload = 0 if whole else payload_bytes(facts, choice, device)
    known = any_codec(choice.codec)
    prepared_there = as_taken(choice.codec)  # the server does all of the preprocessing
    head_ms = 0.0 if prepared_there else device.preprocess_ms + sum(device.slices_ms[:cut])
    encode_ms = 0.0
    if not whole and not prepared_there:
        of_itself = known.encode_ns if known else ENCODE_NS if needs_tables(choice.codec) else 0.0
        nanoseconds = device.encode_ns.get(choice.codec, of_itself)
        encode_ms = nanoseconds * math.prod(facts.shapes[cut]) / 1e6
    upload_ms = 0.0 if whole or payload is None else payload / link.bytes_per_s * 1e3
    device_ms = head_ms + encode_ms
    device_busy = device.rate_rps * device_ms / 1e3
    upload_busy = device.rate_rps * upload_ms / 1e3
    device_wait_ms = max(device.burst * _wait(device_busy, device_ms), device.waiting / 2 * device_ms)
    upload_wait_ms = 0.0
    if not whole:
        evened = device.burst * max(1 - device_busy**2, 0.0)
        left_ms = link.backlog_ms - device_wait_ms - device_ms  # when this image comes to the link
        behind_ms = device.waiting / 2 * max(upload_ms - device_ms, 0.0)
        upload_wait_ms = max(evened * _wait(upload_busy, upload_ms), left_ms, behind_ms)
    round_trip_ms = 0.0 if whole else link.round_trip_ms
    server_wait_ms = execution_ms = 0.0
    if not whole and server is not None:
        server_wait_ms = server.wait_ms.get(cut, 0.0)
        execution_ms = server.execution_ms.get(cut, 0.0)
    download_ms = 0.0
    if not whole and link.down_bytes_per_s is not None:
        download_ms = facts.answer_bytes / link.down_bytes_per_s * 1e3
    waits_ms = device_wait_ms + upload_wait_ms + server_wait_ms
    total_ms = waits_ms + head_ms + encode_ms + upload_ms + round_trip_ms + execution_ms + download_ms
    joules = (device.watts or 0.0) * (head_ms + encode_ms) / 1e3 + (device.joules_per_mb or 0.0) * (payload or 0) / 1e6
    return Estimate(
        choice,
        device_wait_ms,
        head_ms,
        encode_ms,
        upload_wait_ms,
        upload_ms,
        round_trip_ms,
        server_wait_ms,
        execution_ms,
        download_ms,
        total_ms,
        int(payload or 0),
        facts.memory_bytes(cut),
        joules,
        total_ms + goal.joule_ms * joules + goal.server_ms * execution_ms,
        _refused(
            facts, choice, device, server, goal, payload, device_busy, upload_busy, device.rate_rps * download_ms / 1e3
        ),
    )


def choose(estimates: Sequence[Estimate], goal: Goal) -> Estimate | None:
    """The best of those that are offered; of equals the lower cut. None: none is offered."""
    fit = [one for one in estimates if not one.refused]
    if goal.deadline_ms is not None:
        in_time = [one for one in fit if one.total_ms <= goal.deadline_ms * (1 - goal.margin)]
        if in_time:
            return min(in_time, key=lambda one: (one.execution_ms, one.cost, one.choice))
    return min(fit, key=lambda one: (one.cost, one.choice), default=None)


def payload_bytes(facts: ModelFacts, choice: Choice, device: DeviceView) -> float | None:
    """On the wire; exact, or as expected by what was seen of it; None where it is not known."""
    if not goes_by_image(choice.codec, facts):
        of_image = choice.codec in IMAGE_CODECS
        return activations.image_bytes(choice.codec, facts.shapes[0]) if of_image else facts.encoded_bytes(choice)
    if choice.codec in device.image_bytes:
        return device.image_bytes[choice.codec]
    expected = facts.calibrated.get(choice)
    return None if expected is None else expected.payload_bytes * device.size_ratio


def goes_by_image(codec: str, facts: ModelFacts) -> bool:
    """Whether the size of a codec's payloads depends on the image, and not on shapes alone."""
    if codec in IMAGE_CODECS:
        return activations.image_bytes(codec, facts.shapes[0]) is None
    return needs_tables(codec)


def _wait(busy: float, service_ms: float) -> float:
    busy = min(busy, MOST_BUSY)  # what is busier is refused
    return busy * service_ms / (2 * (1 - busy))


def _refused(
    facts: ModelFacts,
    choice: Choice,
    device: DeviceView,
    server: ServerView | None,
    goal: Goal,
    payload: float | None,
    device_busy: float,
    upload_busy: float,
    download_busy: float,
) -> str:
    if device.memory_bytes is not None and facts.memory_bytes(choice.cut) > device.memory_bytes:
        return "does not fit the device's memory"
    if device_busy > MOST_BUSY:
        return f"the device would be busy {device_busy:.0%} of the time"
    if choice.cut == facts.num_slices:
        return ""
    if server is None:
        return "no server"
    if choice.cut not in facts.entries:
        return "no entry of the server"
    if payload is None:
        return "size of the image not known"
    if (agreement := goal.agreement_of(choice, facts)) < goal.agreement:
        return f"agreement {agreement:.3f} is below {goal.agreement:g}"
    if upload_busy > MOST_BUSY:
        return f"the link would be busy {upload_busy:.0%} of the time"
    if download_busy > MOST_BUSY:
        return f"answers would keep the link busy {download_busy:.0%} of the time"
    return ""
