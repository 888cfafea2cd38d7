"""A camera that runs on: its newest frame, whenever the device is free for one."""

from __future__ import annotations

import threading
import time

from PIL import Image

from ..errors import ImageError
from ..video import frames

#: How long a camera may take to give its first frame, or the next one.
PATIENCE_S = 10.0


class Camera:
    """A camera of the host by its number or device file (Video4Linux), read by PyAV on a thread of its own.

    Frames that nobody takes are let go. `newest` blocks; any thread may call it.

    Args:
        which: ``0`` for ``/dev/video0``, or the path of the device.

    Raises:
        ImageError: PyAV is not installed, or there is no such camera.
    """

    def __init__(self, which: str) -> None:
        self._file = f"/dev/video{which}" if which.isdecimal() else which
        self._frames = frames.live(self._file)
        self._changed = threading.Condition()
        self._frame: frames.Frame | None = None
        self._ended = ""
        self._closed = False
        self._thread = threading.Thread(target=self._read, name="headtail camera", daemon=True)
        self._thread.start()

    def newest(self) -> Image.Image:
        """The latest frame that was not given out yet; waits for one. Raises ImageError: none came in time."""
        until = time.monotonic() + PATIENCE_S
        with self._changed:
            while self._frame is None:
                left = until - time.monotonic()
                if self._ended or left <= 0:
                    raise ImageError(f"camera {self._file}: {self._ended or f'no frame within {PATIENCE_S:g} s'}")
                self._changed.wait(left)
            frame, self._frame = self._frame, None
        return frame.picture()  # here: frames that nobody takes are not worth the work

    def close(self) -> None:
        """Stop reading."""
        self._closed = True
        self._thread.join(PATIENCE_S)

    def _read(self) -> None:
        ended = "it gives no more frames"
        try:
            for frame in self._frames:
                with self._changed:
                    self._frame = frame
                    self._changed.notify_all()
                if self._closed:
                    break
        except ImageError as error:
            ended = str(error)
        with self._changed:
            self._ended = ended
            self._changed.notify_all()
