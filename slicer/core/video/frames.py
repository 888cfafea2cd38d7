"""Frames of video files as images, by PyAV (package `av`, extra `video`): one decoder's order for whoever reads a file.

A frame is named ``FILE#pts=N``: the file, and the frame's presentation timestamp in the stream's own units. Such a name
goes wherever the path of an image goes. Frames come in the order of their timestamps. What cannot be decoded is left
out, by the same rule for all readers. A display matrix (a phone that was held on its side) is applied. Pixels that are
not square stay as they are.
"""

from __future__ import annotations

import re
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from ..errors import ImageError

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

INSTALL = "pip install 'av>=17,<19'"

_NAME = re.compile(r"(?P<file>.+)#pts=(?P<pts>-?\d+)", re.DOTALL)

#: What a display matrix (a, b, c, d: x' = ax + cy, y' = bx + dy, y downwards), each by its sign, makes of an image.
_TURNS: dict[tuple[int, int, int, int], Image.Transpose | None] = {
    (1, 0, 0, 1): None,
    (0, 1, -1, 0): Image.Transpose.ROTATE_270,  # PIL counts anticlockwise
    (-1, 0, 0, -1): Image.Transpose.ROTATE_180,
    (0, -1, 1, 0): Image.Transpose.ROTATE_90,
    (-1, 0, 0, 1): Image.Transpose.FLIP_LEFT_RIGHT,
    (1, 0, 0, -1): Image.Transpose.FLIP_TOP_BOTTOM,
    (0, 1, 1, 0): Image.Transpose.TRANSPOSE,
    (0, -1, -1, 0): Image.Transpose.TRANSVERSE,
}


@dataclass
class Decoded:
    """What decoding met so far, for whoever tells people.

    Attributes:
        broken: packets that could not be decoded, frames without a picture or a later timestamp than the one before.
        broken_at_s: where the first of them was, seconds after the first frame.
        ended_early: the file breaks off: reading failed before its end.
        stated_s: how long the file says it is, from its first frame or from 0; 0: it does not say.
        damaged: frames that the decoder marked: parts of their pictures are made up.
        turned: a display matrix was applied; `skewed`: there is one that is no quarter turn or mirror, and was not.
    """

    broken: int = 0
    broken_at_s: float | None = None
    ended_early: str = ""
    stated_s: float = 0.0
    damaged: int = 0
    turned: bool = False
    skewed: bool = False


@dataclass(frozen=True)
class Frame:
    """One frame: its timestamp in the stream's units and in seconds (as the file has it), and how long it is shown."""

    pts: int
    time_s: float
    duration_s: float
    image: VideoFrame = field(repr=False, compare=False)
    turn: Image.Transpose | None = None

    def picture(self) -> Image.Image:
        """The frame as RGB, upright. Raises ImageError: it cannot be converted."""
        try:
            picture: Image.Image = self.image.to_image()
        except Exception as error:  # FFmpeg's and PyAV's own classes
            raise ImageError(f"the frame at {self.time_s:.3f} s cannot be made RGB ({error})") from error
        return picture if self.turn is None else picture.transpose(self.turn)


def name_of(file: str | Path, pts: int) -> Path:
    """The name of a frame."""
    return Path(f"{file}#pts={pts}")


def parse_name(name: str | Path) -> tuple[str, int] | None:
    """(file, timestamp), where a name is a frame's."""
    found = _NAME.fullmatch(str(name))
    return (found["file"], int(found["pts"])) if found else None


def frames(file: str | Path, met: Decoded | None = None) -> Iterator[Frame]:
    """All frames of the file's best video stream, timestamps strictly rising; `met` is filled on the way.

    Raises:
        ImageError: PyAV is not installed, there is no such file, it is no video, or it holds no timestamps.
    """
    met = Decoded() if met is None else met
    with _opened(file) as container:
        stream = _stream(container, file)
        met.stated_s = _stated_s(container, stream)
        last: int | None = None
        first_s = 0.0
        for found in _decoded(container, stream, met):
            if isinstance(found, _Broken):
                met.broken += 1
                if met.broken_at_s is None:
                    met.broken_at_s = found.time_s - first_s if last is not None and found.time_s is not None else 0.0
                continue
            if found.pts is None or found.time_base is None:
                raise ImageError(
                    f"video {file}: its frames have no timestamps; put it into a container that has them, such as "
                    f"ffmpeg -r 30 -i {file} -c copy OUT.mp4"
                )
            time_s = float(found.pts * found.time_base)
            if last is not None and found.pts <= last:
                met.broken += 1
                met.broken_at_s = time_s - first_s if met.broken_at_s is None else met.broken_at_s
                continue
            met.damaged += found.is_corrupt
            first_s = time_s if last is None else first_s
            last = found.pts
            shown_s = float((found.duration or 0) * found.time_base)
            yield Frame(found.pts, time_s, shown_s, found, _turn(found, met))


def live(camera: str) -> Iterator[Frame]:
    """Frames of a camera as they come, by Video4Linux; opened at once.

    Args:
        camera: its device file, such as ``/dev/video0``. A video file is taken too, as fast as it can be decoded.

    Raises:
        ImageError: PyAV is not installed, or there is no such camera.
    """
    av = _av()
    path = Path(camera)
    try:
        container = av.open(camera, format="v4l2" if path.is_char_device() else None)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        there = ", ".join(sorted(str(one) for one in Path("/dev").glob("video*"))) or "none"
        raise ImageError(f"camera {camera}: cannot be opened ({_said(error)}); cameras here: {there}") from error
    return _live(container, _stream(container, camera))


def _live(container: InputContainer, stream: VideoStream) -> Iterator[Frame]:
    with container:
        for found in _decoded(container, stream, Decoded()):
            if not isinstance(found, _Broken):
                time_s = float(found.pts * found.time_base) if found.pts is not None and found.time_base else 0.0
                yield Frame(found.pts or 0, time_s, 0.0, found)


class Reader:
    """Frames of one file by timestamp. Reads on from where it is; begins again for an earlier one. For one thread."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._frames: Iterator[Frame] = iter(())
        self._now: Frame | None = None

    def at(self, pts: int) -> Image.Image:
        """The frame with this timestamp. Raises ImageError, as `frames`, and when there is none."""
        if self._now is None or pts < self._now.pts:
            self._frames, self._now = frames(self._file), None
        while self._now is None or self._now.pts < pts:
            self._now = next(self._frames, None)
            if self._now is None:
                break
        if self._now is None or self._now.pts != pts:
            raise ImageError(
                f"video {self._file}: it has no frame with timestamp {pts}; was the file replaced, or does this "
                "machine have another one under the same name?"
            )
        return self._now.picture()


class _Readers(threading.local):
    """Of this thread, by file: each camera of a process goes on where it was."""

    def __init__(self) -> None:
        self.by_file: dict[str, Reader] = {}


_readers = _Readers()

#: Files that a thread keeps open.
_MOST_OPEN = 8


def read_frame(file: str, pts: int) -> Image.Image:
    """One frame as RGB, upright; quick where frames are asked in order. Raises ImageError."""
    readers = _readers.by_file
    if file not in readers and len(readers) >= _MOST_OPEN:
        del readers[next(iter(readers))]
    return readers.setdefault(file, Reader(file)).at(pts)


def _av() -> Any:
    try:
        import av
    except ImportError as error:
        raise ImageError(f"video needs PyAV, which is not installed here ({error}): {INSTALL}") from None
    return av


def _opened(file: str | Path) -> InputContainer:
    av = _av()
    if not Path(file).is_file():
        raise ImageError(f"video {file}: there is no such file; give the path of one, such as a.mp4")
    try:
        container: InputContainer = av.open(str(file), metadata_errors="replace")
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise ImageError(
            f"video {file}: cannot be read as a video ({_said(error)}); a recording that was cut off has lost its "
            "index: save it again, or give another file"
        ) from error
    return container


def _stream(container: InputContainer, file: str | Path) -> VideoStream:
    stream: Any = container.streams.best("video")
    if stream is None:
        kinds = ", ".join(dict.fromkeys(str(one.type) for one in container.streams)) or "nothing"
        raise ImageError(f"video {file}: it has no video stream, but {kinds}; give a file with pictures")
    # One thread: devices share the machine, and what fails to decode must not depend on its cores.
    stream.codec_context.thread_count = 1
    found: VideoStream = stream
    return found


def _stated_s(container: InputContainer, stream: VideoStream) -> float:
    """Of the stream where it says so, else of the whole file."""
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    return float(container.duration or 0) / float(_av().time_base)


@dataclass(frozen=True)
class _Broken:
    time_s: float | None


def _decoded(container: InputContainer, stream: VideoStream, met: Decoded) -> Iterator[VideoFrame | _Broken]:
    error_class = _av().error.FFmpegError
    packets = iter(container.demux(stream))
    while True:
        try:
            packet: Any = next(packets)
        except StopIteration:
            return
        except error_class as error:
            met.ended_early = _said(error)
            return
        try:
            found = packet.decode()
        except error_class:
            known = packet.pts is not None and packet.time_base is not None
            yield _Broken(float(packet.pts * packet.time_base) if known else None)
            continue
        yield from found


def _turn(frame: VideoFrame, met: Decoded) -> Image.Transpose | None:
    for data in frame.side_data:
        if data.type.name == "DISPLAYMATRIX":
            a, b, _, c, d = struct.unpack("=9i", bytes(data))[:5]
            largest = max(map(abs, (a, b, c, d)))
            # Within 1 % of the axes: cosines of a quarter turn are not always stored as 0.
            signs = tuple(0 if abs(value) * 100 < largest else (1 if value > 0 else -1) for value in (a, b, c, d))
            if signs not in _TURNS:
                met.skewed = True
                return None
            turn = _TURNS[signs]
            met.turned = met.turned or turn is not None
            return turn
    return None


def _said(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
