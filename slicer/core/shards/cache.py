"""A bounded cache of shards on one host, shared by all device processes there.

::

    DIR/files/<sha256>          content, verified before it gets this name
    DIR/files/<sha256>.part     a download under way; reserves its full size
    DIR/spans/<digest>_0_2/     manifest and symbolic links to files: a directory for load_span
    DIR/locks/                  locks of the kernel (flock), so a process that dies leaves nothing locked

A span that a living ShardCache has fetched and not released is in use: its files stay. All others leave, least recently
used first, when room is needed. ``load_span`` copies into fresh memory, so release a span once it is loaded.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from ..errors import ShardError
from ..protocol.messages import ShardInfo
from . import manifest as manifests
from .described import describe
from .manifest import Manifest

#: Delivers a shard's bytes in pieces of any size, e.g. from the running application.
Get = Callable[[ShardInfo], Iterable[bytes]]


class ShardCache:
    """A directory of shards that never holds more than `max_bytes` of them. Thread-safe, and safe between processes.

    Needs a local file system (flock).

    Args:
        directory: made if missing; several processes may use the same.
        max_bytes: of shards, finished or being fetched. Processes that share a directory should agree on it.
    """

    def __init__(self, directory: str | Path, max_bytes: int) -> None:
        if max_bytes <= 0:
            raise ShardError(f"max_bytes={max_bytes}: a shard cache needs room; give a positive number of bytes")
        self.directory = Path(directory).absolute()
        self.max_bytes = max_bytes
        self._files = self.directory / "files"
        self._spans = self.directory / "spans"
        self._locks = self.directory / "locks"
        for folder in (self._files, self._spans, self._locks):
            folder.mkdir(parents=True, exist_ok=True)
        self._held: dict[Path, list[int]] = {}
        self._guard = threading.Lock()
        weakref.finalize(self, _close_all, self._held)

    def fetch(self, manifest: Manifest, start: int, end: int, get: Get) -> Path:
        """A directory from which ``load_span(directory, start, end)`` works; blocks until its shards are there.

        What is already here is verified, not fetched again; a shard that several processes want is fetched by one of
        them. What `get` raises passes through, and nothing half-fetched is left behind.

        Raises:
            CutError: no such span.
            ShardError: the span is larger than the cache, the cache is full of spans in use, or a shard came twice
                with another sha256 or size than the manifest says.
        """
        shards = manifest.span_shards(start, end)
        what = f"span {start}:{end} of {manifest.spec.architecture}"
        index = (manifests.FILE, manifest.to_json().encode())
        return self.fetch_files(shards, f"{manifest.digest}_{start}_{end}", index, what, get)

    def fetch_files(self, shards: Sequence[ShardInfo], key: str, index: tuple[str, bytes], what: str, get: Get) -> Path:
        """As `fetch`, of any files, each under its name in the directory that is returned.

        Args:
            key: names the set; equal keys are equal files.
            index: name and content of a file beside them.
            what: they are, for a message.
        """
        needed = sum({shard.sha256: shard.size_bytes for shard in shards}.values())
        if needed > self.max_bytes:
            raise ShardError(
                f"{what} has {needed} bytes, the shard cache in {self.directory} holds {self.max_bytes}; raise its "
                "limit, or run fewer slices on this device"
            )
        span = self._hold(shards, key, index)
        try:
            for shard in shards:
                with self._locked(shard.sha256):
                    if not self._has(shard):
                        self._download(shard, get)
        except BaseException:
            self.release(span)
            raise
        return span

    def release(self, span: Path) -> None:
        """The directory that `fetch` returned is no longer needed; its files may leave. Once per fetch."""
        with self._guard:
            handles = self._held.get(span, [])
            if handles:
                os.close(handles.pop())
            if not handles:
                self._held.pop(span, None)

    def close(self) -> None:
        """Release everything that this object holds, as does the end of the object or of its process."""
        with self._guard:
            _close_all(self._held)

    def size_bytes(self) -> int:
        """Bytes of shards now in the cache, downloads under way included with their full size."""
        return sum(size for _, size in _sizes(self._files))

    def _hold(self, shards: Sequence[ShardInfo], key: str, index: tuple[str, bytes]) -> Path:
        """Make the span's directory, whose links may dangle yet, and mark it as in use."""
        span = self._spans / key
        with self._locked("cache"):
            span.mkdir(exist_ok=True)
            for shard in shards:
                link = span / shard.file
                if not link.is_symlink():
                    link.symlink_to(os.path.relpath(self._files / shard.sha256, span))
            _write_whole(span / index[0], index[1])
            handle = os.open(span, os.O_RDONLY)
            fcntl.flock(handle, fcntl.LOCK_SH)
        with self._guard:
            self._held.setdefault(span, []).append(handle)
        return span

    def _has(self, shard: ShardInfo) -> bool:
        """Whether the shard is here and undamaged; a damaged one is removed."""
        path = self._files / shard.sha256
        if not path.exists():
            return False
        if describe(path, shard.file) != shard:
            path.unlink()
            return False
        os.utime(path)
        return True

    def _download(self, shard: ShardInfo, get: Get) -> None:
        part = self._files / f"{shard.sha256}.part"
        wrong = ""
        try:
            for _attempt in range(2):
                self._reserve(part, shard.size_bytes)
                wrong = _receive(part, shard, get(shard))
                if not wrong:
                    with self._locked("cache"):  # whoever counts sizes sees one name or the other
                        part.replace(self._files / shard.sha256)
                    return
        finally:
            part.unlink(missing_ok=True)
        raise ShardError(
            f"shard {shard.file} came damaged twice: {wrong}; the server's export differs from its manifest: export it "
            "again and restart the server"
        )

    def _reserve(self, part: Path, size_bytes: int) -> None:
        """Make room for `size_bytes` and claim it by a sparse file of that size."""
        with self._locked("cache"):
            part.unlink(missing_ok=True)
            self._make_room(size_bytes)
            with part.open("wb") as file:
                file.truncate(size_bytes)

    def _make_room(self, size_bytes: int) -> None:
        """Remove what no living process uses, least recently used first, until `size_bytes` more fit."""
        used = self.size_bytes()
        if used + size_bytes <= self.max_bytes:
            return
        idle, busy = self._idle_spans_and_busy_files()
        candidates = [path for path, _ in _sizes(self._files) if path.name.partition(".")[0] not in busy]
        for path in sorted(candidates, key=lambda candidate: candidate.stat().st_mtime_ns):
            if used + size_bytes <= self.max_bytes:
                return
            used -= path.stat().st_size
            for span in idle.pop(path.name, ()):
                shutil.rmtree(span, ignore_errors=True)
            path.unlink()
        if used + size_bytes > self.max_bytes:
            raise ShardError(
                f"the shard cache in {self.directory} is full: {used} of {self.max_bytes} bytes are in use by running "
                f"devices and {size_bytes} more are needed; raise its limit, or run fewer slices on this host's devices"
            )

    def _idle_spans_and_busy_files(self) -> tuple[dict[str, list[Path]], set[str]]:
        """For each sha256 the spans nobody uses that link to it; and all sha256 that a span in use links to."""
        idle: dict[str, list[Path]] = {}
        busy: set[str] = set()
        for span in self._spans.iterdir():
            names = [link.readlink().name for link in span.iterdir() if link.is_symlink()]
            handle = os.open(span, os.O_RDONLY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                for name in names:
                    idle.setdefault(name, []).append(span)
            except BlockingIOError:
                busy.update(names)
            finally:
                os.close(handle)
        return idle, busy

    @contextlib.contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        """One thread of one process at a time; freed by the kernel when the process dies."""
        handle = os.open(self._locks / name, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


def _close_all(held: dict[Path, list[int]]) -> None:
    for handles in held.values():
        for handle in handles:
            os.close(handle)
    held.clear()


def _receive(part: Path, shard: ShardInfo, pieces: Iterable[bytes]) -> str:
    """Write the pieces over the reserved file; what is wrong with them, or nothing."""
    hasher = hashlib.sha256()
    size = 0
    with part.open("r+b") as file:
        for piece in pieces:
            size += len(piece)
            if size > shard.size_bytes:
                return f"more than its {shard.size_bytes} bytes"
            hasher.update(piece)
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    if size != shard.size_bytes:
        return f"{size} bytes instead of {shard.size_bytes}"
    if hasher.hexdigest() != shard.sha256:
        return f"sha256 {hasher.hexdigest()[:12]}... instead of {shard.sha256[:12]}..."
    return ""


def _write_whole(path: Path, data: bytes) -> None:
    """All of `data` under this name or nothing. Only under the cache's lock."""
    temporary = path.with_name(f".{path.name}")
    temporary.write_bytes(data)
    temporary.replace(path)


def _sizes(folder: Path) -> list[tuple[Path, int]]:
    """Files and their sizes; one that vanishes meanwhile is left out."""
    found = []
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append((path, path.stat().st_size))
    return found
