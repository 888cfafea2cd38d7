"""A tab of a headless Chromium, driven by its DevTools protocol: no further package is needed."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import os
import re
import shutil
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp

#: Nothing of it asks the internet: no updates, no accounts.
_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions"),
    *("--remote-debugging-port=0", "--hide-scrollbars"),
)


def find_chromium() -> str | None:
    """HEADTAIL_CHROMIUM, or the first of the usual names on the path."""
    names = ("chromium", "chromium-browser", "google-chrome", "chromium-headless-shell")
    return os.environ.get("HEADTAIL_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)


class Tab:
    """One page. Calls one after another.

    Attributes:
        complaints: errors and warnings of the console, exceptions that nobody caught.
    """

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.complaints: list[str] = []
        self._socket = socket
        self._numbers = itertools.count(1)

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A method of the protocol; what the page complains of meanwhile is kept."""
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        while True:
            message = await self._socket.receive_json()
            if message.get("id") == number:
                assert "error" not in message, (method, message["error"])
                return dict(message["result"])
            self._note(message.get("method", ""), message.get("params", {}))

    def _note(self, event: str, said: dict[str, Any]) -> None:
        if event == "Runtime.consoleAPICalled" and said["type"] in ("error", "warning", "assert"):
            self.complaints.append(" ".join(str(one.get("value", one.get("description"))) for one in said["args"]))
        elif event == "Runtime.exceptionThrown":
            self.complaints.append(str(said["exceptionDetails"]))
        elif event == "Log.entryAdded" and said["entry"]["level"] in ("error", "warning"):
            self.complaints.append(f"{said['entry']['text']} {said['entry'].get('url', '')}")

    async def evaluate(self, expression: str) -> Any:
        """The value of an expression, of a promise what it is kept with."""
        found = await self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    async def until(self, condition: str) -> None:
        """Returns when an expression is true, looking whenever the page's document changes."""
        await self.evaluate(
            f"new Promise(resolve => {{ const look = () => ({condition}) && (watch.disconnect(), resolve());"
            "const watch = new MutationObserver(look);"
            "const all = {subtree: true, childList: true, attributes: true, characterData: true};"
            "watch.observe(document, all); look(); })"
        )

    async def give_file(self, selector: str, path: str | Path) -> None:
        """A file for an input of the page, as if a person had chosen it."""
        root = (await self.call("DOM.getDocument"))["root"]["nodeId"]
        node = (await self.call("DOM.querySelector", nodeId=root, selector=selector))["nodeId"]
        await self.call("DOM.setFileInputFiles", files=[str(path)], nodeId=node)

    async def picture(self, path: Path, width: int, *, dark: bool, height: int = 0) -> None:
        """A PNG of the whole page in a window so wide."""
        size = {"width": width, "height": height or 800, "deviceScaleFactor": 1, "mobile": False}
        await self.call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])
        await self.evaluate("new Promise(resolve => requestAnimationFrame(() => requestAnimationFrame(resolve)))")
        shot = await self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))


@contextlib.asynccontextmanager
async def open_tab(chromium: str, folder: Path, more_flags: Sequence[str] = ()) -> AsyncIterator[Tab]:
    """A tab of a browser of its own, whose files lie in `folder`."""
    flags = [*_FLAGS, *more_flags, f"--user-data-dir={folder}", "about:blank"]
    process = await asyncio.create_subprocess_exec(chromium, *flags, stderr=asyncio.subprocess.PIPE)
    assert process.stderr is not None
    try:
        said = b""
        while (found := re.search(rb"DevTools listening on ws://([^/\s]+)/", said)) is None:
            line = await process.stderr.readline()
            assert line, f"{chromium} ended: {said.decode(errors='replace')}"
            said += line
        rest = asyncio.create_task(process.stderr.read())  # else a full pipe would stop it
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://{found[1].decode()}/json/list") as answer:
                (page,) = [one for one in await answer.json(content_type=None) if one["type"] == "page"]
            async with session.ws_connect(page["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                tab = Tab(socket)
                for domain in ("Runtime", "Log", "Page", "DOM"):
                    await tab.call(f"{domain}.enable")
                yield tab
        rest.cancel()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()
