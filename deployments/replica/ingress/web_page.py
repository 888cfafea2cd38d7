"""The page that makes a browser a device: the files of ``clients/web``, as answers to ``GET /<app>/device/...``.

Which files there are is settled at the start, by names written here and a look into three folders; they are read then
and kept. A request's path is looked up among these names and never reaches the disk. No token is needed: what is here
everybody may read, and the page brings the token where it asks.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from slicer.errors import ConfigError

logger = logging.getLogger("headtail.server")

#: Where the page lies in a checkout; a wheel does not have it.
FOLDER = Path(__file__).resolve().parents[3] / "clients" / "web"

#: The same as in the page itself, and that no other page may frame it, which a page cannot say of itself.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_INDEX = "device.html"
_PAGE = (_INDEX, "device.css", "device.js")
_MODULES = ("page", "src", "transform")

#: What the page runs slices with, in the folder of the npm package and in ours.
_RUNTIME_FROM = "node_modules/onnxruntime-web/dist"
_RUNTIME = (
    *("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"),  # on the processor
    *("ort.webgpu.min.mjs", "ort-wasm-simd-threaded.asyncify.mjs", "ort-wasm-simd-threaded.asyncify.wasm"),  # on a GPU
)

_TYPES = {
    ".html": b"text/html; charset=utf-8",
    ".css": b"text/css; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".mjs": b"text/javascript; charset=utf-8",
    ".wasm": b"application/wasm",
}

#: On every file, since a worker goes by those of its own script. The cross-origin ones isolate the page, which is what
#: browsers ask for before they give WebAssembly threads.
_ALWAYS = [
    (b"content-security-policy", CONTENT_SECURITY_POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-embedder-policy", b"require-corp"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-cache"),
]

#: Status, headers, body.
Response = tuple[int, list[tuple[bytes, bytes]], bytes]


@dataclass(frozen=True)
class _File:
    body: bytes
    content_type: bytes
    etag: bytes


class WebPage:
    """Some 42 MB of files in memory, nearly all of it onnxruntime-web. Immutable, so calls may overlap.

    Args:
        folder: ``clients/web`` of a checkout.

    Raises:
        ConfigError: the page is not there. Without onnxruntime-web alone a warning is logged: the page works at cut 0.
    """

    def __init__(self, folder: Path = FOLDER) -> None:
        found = {name: folder / name for name in _PAGE}
        for room in _MODULES:
            found |= {f"{room}/{path.name}": path for path in sorted((folder / room).glob("*.js"))}
        runtime = {f"ort/{name}": folder / _RUNTIME_FROM / name for name in _RUNTIME}
        if all(path.is_file() for path in runtime.values()):
            found |= runtime
        else:
            logger.warning(
                "http.web: onnxruntime-web is not in %s, so browsers run no slices and the server runs all (cut 0); "
                "`make web` installs it",
                folder / _RUNTIME_FROM,
            )
        try:
            self._files: Mapping[str, _File] = {name: _read(path) for name, path in found.items()}
        except OSError as error:
            raise ConfigError(
                f"http.web: {error.filename}: {error.strerror}; the page comes with a checkout of the repository "
                "(pip install -e .) and not with an installed package: start from there, or leave out http.web"
            ) from None

    @property
    def names(self) -> frozenset[str]:
        """What there is under ``device/``; the page itself is also at the folder."""
        return frozenset(self._files)

    def answer(self, name: str, if_none_match: bytes = b"") -> Response | None:
        """The file of this name, or 304 where the client has it already; None: there is no such file.

        Args:
            name: what follows ``device/``, decoded; empty: the page.
            if_none_match: the header.
        """
        file = self._files.get(name or _INDEX)
        if file is None:
            return None
        headers = [*_ALWAYS, (b"etag", file.etag)]
        known = [tag.strip().removeprefix(b"W/") for tag in if_none_match.split(b",")]
        if file.etag in known or b"*" in known:
            return 304, headers, b""
        return 200, [(b"content-type", file.content_type), *headers], file.body


def _read(path: Path) -> _File:
    body = path.read_bytes()
    return _File(body, _TYPES[path.suffix], b'"%s"' % hashlib.sha256(body).hexdigest()[:32].encode())
