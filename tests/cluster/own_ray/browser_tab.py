"""A browser tab as a device of a real server: its camera plays a file, and what it saw and was told comes out."""

from __future__ import annotations

import asyncio
import base64
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from tests.unit.clients.web.chromium import open_tab

#: Keeps what the page says of every answer; `show()` of clients/web/device.js tells it.
_KEEP = """globalThis.kept = []; document.addEventListener('answered', ({detail: {image, logits, sent}}) => kept.push({
  size: [image.height, image.width, image.channels], pixels: btoa(String.fromCharCode(...image.data)),
  logits: [...logits], rows: sent.reply.timings.rowsPerStep}))"""

_SIDE = 64


@dataclass(frozen=True)
class Seen:
    """One frame of the camera, uint8 [H, W, 3]; the logits that came back; the rows of each step that it was in."""

    pixels: npt.NDArray[np.uint8]
    logits: npt.NDArray[np.float32]
    rows_per_step: list[int]


def write_video(files: Sequence[Path], path: Path) -> None:
    """Images as frames of a Y4M file, ten a second. Only their luminance: colours stay grey."""
    with path.open("wb") as video:
        video.write(f"YUV4MPEG2 W{_SIDE} H{_SIDE} F10:1 Ip A1:1 C420jpeg\n".encode())
        for file in files:
            grey = np.asarray(Image.open(file).convert("L").resize((_SIDE, _SIDE)))
            video.write(b"FRAME\n" + grey.tobytes() + bytes([128]) * (_SIDE * _SIDE // 2))


async def _watch(chromium: str, page: str, video: Path, folder: Path, cut: int, done: threading.Event) -> list[Seen]:
    camera = ["--use-fake-device-for-media-stream", f"--use-file-for-fake-video-capture={video}"]
    async with open_tab(chromium, folder, [*camera, "--use-fake-ui-for-media-stream"]) as tab:
        await tab.call("Page.navigate", url=page)
        await tab.until("document.getElementById('status')?.className === 'ready'")
        await tab.evaluate(
            f"{_KEEP}; for (const [name, value] of [['cut', '{cut}'], ['codec', 'fp32']]) {{"
            "const field = document.getElementById(name); field.value = value;"
            "if (field.value !== value) throw new Error(`no ${name} ${value}`);"
            "field.dispatchEvent(new Event('change')); } document.getElementById('camera').click()"
        )
        await asyncio.to_thread(done.wait)
        await tab.evaluate("document.getElementById('camera').click()")
        await tab.until("document.getElementById('status').className === 'ready'")
        assert await tab.evaluate("document.getElementById('error').textContent") == ""
        assert tab.complaints == []
        kept = await tab.evaluate("kept")
    return [
        Seen(
            np.frombuffer(base64.b64decode(one["pixels"]), np.uint8).reshape(one["size"]),
            np.array(one["logits"], np.float32),
            one["rows"],
        )
        for one in kept
    ]


def watch(chromium: str, page: str, video: Path, folder: Path, cut: int, done: threading.Event) -> list[Seen]:
    """All frames that the page asked about, its slices up to `cut` run there, until `done`.

    Args:
        page: address with the token. video: what the camera plays, again and again. folder: for the browser's files.

    Raises:
        AssertionError: the page showed an error or complained in its console.
    """
    return asyncio.run(_watch(chromium, page, video, folder, cut, done))
