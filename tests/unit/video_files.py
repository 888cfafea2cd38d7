"""Small video files for tests, made by PyAV: frame k is black with k white columns of BAR pixels from the left."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

WIDTH, HEIGHT, BAR = 64, 48, 4


def make_video(path: Path, times: Sequence[Fraction | int], *, codec: str = "mpeg4", **options: str) -> Path:
    """One frame at each time, in seconds, as exact as the container allows."""
    with av.open(str(path), "w", options=options) as container:
        stream: Any = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        stream.codec_context.gop_size = 5
        for number, time_s in enumerate(times):
            pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
            pixels[:, : number * BAR] = 255
            frame: Any = av.VideoFrame.from_image(Image.fromarray(pixels))
            frame.time_base, frame.pts = Fraction(1, 1000), int(time_s * 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def every(period_s: Fraction, count: int, start_s: Fraction | int = 0) -> list[Fraction]:
    """Constant rate."""
    return [start_s + number * period_s for number in range(count)]


def columns(image: Image.Image) -> int:
    """Which frame it is: how many bars are white."""
    return round(float((np.asarray(image.convert("L"))[HEIGHT // 2] > 127).sum()) / BAR)


def set_matrix(path: Path, a: int, b: int, c: int, d: int) -> Path:
    """Write a display matrix (16.16) into an MP4's track header, where the standard puts it."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # version, times, id, duration, layer, group, volume
    assert struct.unpack(">9i", data[at : at + 36]) == (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30), "its place"
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path
