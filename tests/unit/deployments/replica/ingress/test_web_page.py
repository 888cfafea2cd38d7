"""The page that makes a browser a device: which files there are, what they say, and which other pages may ask."""

from __future__ import annotations

import asyncio
import logging
import posixpath
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.config import parse_config
from deployments.replica.ingress import web_page
from deployments.replica.ingress.cors import Cors
from deployments.replica.ingress.http_ingress import Ingress
from deployments.replica.ingress.web_page import WebPage
from deployments.replica.preflight import check_here
from slicer.errors import ConfigError

TOKEN = b"Bearer secret"
ORIGIN = "https://cameras.example.org"


class Server:
    """Nothing of it is asked here but whether it lives."""

    def __init__(self) -> None:
        self.models: dict[str, object] = {}

    async def check_health(self) -> None: ...


def make(folder: Path, *, runtime: bool = True) -> Path:
    """A folder as `clients/web` is, with files that must not be reached beside those that may."""
    files = ["device.html", "device.css", "device.js", "page/chart.js", "src/server.js", "transform/tables.js"]
    files += ["package.json", "page/secret.json", "src/deep/x.js", "tests/a.test.js", ".npmrc", "../secret.js"]
    dist = "node_modules/onnxruntime-web/dist"
    if runtime:
        files += [f"{dist}/{name}" for name in web_page._RUNTIME] + [f"{dist}/ort.all.min.mjs"]
    for name in files:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"the text of {name}")
    return folder


FILES = {
    "device.html": "text/html",
    "device.css": "text/css",
    "device.js": "text/javascript",
    "page/chart.js": "text/javascript",
    "src/server.js": "text/javascript",
    "transform/tables.js": "text/javascript",
    "ort/ort.wasm.min.mjs": "text/javascript",
    "ort/ort-wasm-simd-threaded.mjs": "text/javascript",
    "ort/ort-wasm-simd-threaded.wasm": "application/wasm",
    "ort/ort.webgpu.min.mjs": "text/javascript",
    "ort/ort-wasm-simd-threaded.asyncify.mjs": "text/javascript",
    "ort/ort-wasm-simd-threaded.asyncify.wasm": "application/wasm",
}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> WebPage:
    return WebPage(make(tmp_path_factory.mktemp("root") / "web"))


@pytest.fixture
def app(page: WebPage) -> Ingress:
    return Ingress(Server(), token="secret", page=page)  # type: ignore[arg-type]


def ask(
    app: Ingress, path: str, method: str = "GET", headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of one request without a body."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b""}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    given = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    scope = {"type": "http", "method": method, "path": path, "root_path": "/app", "query_string": b"", "headers": given}
    asyncio.run(app(scope, receive, send))
    start, content = sent
    found = {name.decode(): value.decode() for name, value in start["headers"]}
    assert len(found) == len(start["headers"]), "a header stands twice"
    return start["status"], found, content["body"]


def test_the_files_are_those_that_the_page_loads_and_no_other(page: WebPage) -> None:
    assert page.names == set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_a_file_comes_without_a_token_with_its_type_and_with_what_keeps_it_apart(app: Ingress, name: str) -> None:
    status, headers, body = ask(app, f"/app/device/{name}")
    assert (status, headers["content-length"]) == (200, str(len(body)))
    assert body.decode().endswith(name.replace("ort/", ""))
    assert headers["content-type"].split(";")[0] == FILES[name]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-opener-policy"] == "same-origin"
    assert headers["cross-origin-embedder-policy"] == "require-corp"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["cache-control"] == "no-cache"
    assert "frame-ancestors 'none'" in headers["content-security-policy"]


def test_the_policy_is_the_page_s_own_and_that_nobody_frames_it() -> None:
    html = (web_page.FOLDER / "device.html").read_text()
    (own,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]+)"', html)
    assert f"{own}; frame-ancestors 'none'" == web_page.CONTENT_SECURITY_POLICY


def test_the_folder_is_the_page_and_its_name_leads_there(app: Ingress) -> None:
    assert ask(app, "/app/device/")[2] == ask(app, "/app/device/device.html")[2]
    status, headers, body = ask(app, "/app/device")
    assert (status, headers["location"], body) == (307, "device/", b"")  # so a proxy's prefix stays


def test_what_a_browser_has_already_is_not_sent_again(app: Ingress) -> None:
    _, headers, _ = ask(app, "/app/device/device.js")
    tag = headers["etag"]
    assert re.fullmatch(r'"[0-9a-f]{32}"', tag)
    for known in (tag, f"W/{tag}", f'"old", {tag}', "*"):
        status, again, body = ask(app, "/app/device/device.js", headers={"if-none-match": known})
        assert (status, again["etag"], again["cache-control"], body) == (304, tag, "no-cache", b"")
        assert "content-length" not in again
    assert ask(app, "/app/device/device.css", headers={"if-none-match": tag})[0] == 200


@pytest.mark.parametrize(
    "path",
    [
        *("package.json", ".npmrc", "page/secret.json", "src/deep/x.js", "tests/a.test.js", "page", "page/", "src/"),
        *("../secret.js", "page/../../secret.js", "page/../device.js", "./device.js", "device.html/", "/device.html"),
        *(
            "%2e%2e/secret.js",
            "..%2fsecret.js",
            "..\\secret.js",
            "/etc/passwd",
            "device.js\0",
            "\0",
            "device.js\0.html",
        ),
        *("ort/ort.all.min.mjs", "ort/../device.js", "DEVICE.HTML", "device.js ", "file:///etc/passwd", "C:/x"),
    ],
)
def test_nothing_else_is_reached(app: Ingress, path: str) -> None:
    status, headers, body = ask(app, f"/app/device/{path}")
    assert (status, headers["content-type"]) == (404, "application/json")
    assert b"the text" not in body and b"root:" not in body


PIECES = ["..", "/", "\\", ".", "%2e", "%2f", "\0", "device", "page", "src", "chart", ".js", "secret"]


@given(st.lists(st.sampled_from(PIECES)).map("".join))
@settings(max_examples=200, deadline=None)
def test_whatever_the_path_only_listed_files_are_given(page: WebPage, name: str) -> None:
    assert (page.answer(name) is not None) == (name in {"", *FILES})


def test_the_page_is_only_read(app: Ingress) -> None:
    assert ask(app, "/app/device/", "POST")[0] == 405
    assert ask(app, "/app/device/", "HEAD")[0] == 200


def test_everything_else_still_wants_the_token(app: Ingress) -> None:
    for path in ("/app/v2/models", "/app/describe", "/app/devices/", "/app/devic"):
        assert ask(app, path)[0] == 401
    assert ask(app, "/app/v2/models", headers={"authorization": TOKEN.decode()})[0] == 200


def test_without_the_key_there_is_no_page() -> None:
    assert not parse_config({}).http.web
    app = Ingress(Server())  # type: ignore[arg-type]
    for path in ("/app/device", "/app/device/", "/app/device/device.js"):
        assert ask(app, path)[0] == 404


def test_without_onnxruntime_the_page_is_there_and_the_start_says_what_is_missing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "headtail.server"):
        page = WebPage(make(tmp_path / "web", runtime=False))
    assert page.names == {name for name in FILES if not name.startswith("ort/")}
    assert "make web" in caplog.text and "cut 0" in caplog.text


def test_without_its_files_the_server_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"device.html: No such file.*checkout.*leave out http.web"):
        WebPage(tmp_path)
    monkeypatch.setattr(WebPage.__init__, "__defaults__", (tmp_path,))
    check_here(parse_config({}))
    with pytest.raises(ConfigError, match=r"http.web"):
        check_here(parse_config({"http": {"web": True}}))


def test_the_page_of_this_repository_has_all_that_it_imports() -> None:
    page = WebPage()
    for name in [name for name in page.names if name.endswith(".js")]:
        found = page.answer(name)
        assert found is not None
        for imported in re.findall(rb'from "([^"]+)"', found[2]):
            assert posixpath.normpath(posixpath.join(posixpath.dirname(name), imported.decode())) in page.names


def cross(origin: str | None, method: str = "GET", **more: str) -> tuple[int, dict[str, str]]:
    """What a browser's question from a page of `origin` is answered with."""
    app = Ingress(Server(), token="secret", cors=Cors([ORIGIN]))  # type: ignore[arg-type]
    headers = {**({} if origin is None else {"origin": origin}), **{key.replace("_", "-"): more[key] for key in more}}
    status, found, _ = ask(app, "/app/v2/models", method, headers)
    return status, {name: value for name, value in found.items() if name in ("vary",) or name.startswith("access-")}


def test_a_page_of_a_listed_origin_may_ask_and_read_answers_and_errors() -> None:
    seen = {
        "vary": "origin",
        "access-control-allow-origin": ORIGIN,
        "access-control-expose-headers": "headtail, inference-header-content-length, retry-after",
    }
    assert cross(ORIGIN, authorization=TOKEN.decode()) == (200, seen)
    assert cross(ORIGIN) == (401, seen)
    status, headers = cross(ORIGIN, "OPTIONS", access_control_request_method="POST")
    assert status == 204
    assert headers == {
        **seen,
        "access-control-allow-methods": "GET, HEAD, POST",
        "access-control-allow-headers": "authorization, content-type, inference-header-content-length",
        "access-control-max-age": "600",
    }


@pytest.mark.parametrize(
    "origin",
    [
        None,
        "null",
        "*",
        "http://cameras.example.org",
        f"{ORIGIN}:8443",
        f"{ORIGIN}.evil.org",
        ORIGIN.upper(),
        f"{ORIGIN}/",
    ],
)
def test_no_other_origin_is_told_anything(origin: str | None) -> None:
    assert cross(origin, authorization=TOKEN.decode()) == (200, {"vary": "origin"})
    assert cross(origin, "OPTIONS", access_control_request_method="POST") == (401, {"vary": "origin"})


def test_by_default_no_origin_is_known(app: Ingress) -> None:
    assert parse_config({}).http.cors_origins == ()
    for method in ("GET", "OPTIONS"):
        headers = {"origin": ORIGIN, "access-control-request-method": "POST"}
        status, found, _ = ask(app, "/app/v2/models", method, headers)
        assert status == 401
        assert not [name for name in found if name.startswith("access-") or name == "vary"]


def test_a_question_that_is_no_preflight_gets_past_no_token() -> None:
    assert cross(ORIGIN, "OPTIONS")[0] == 401


@pytest.mark.parametrize("origin", [ORIGIN, "http://10.0.0.7:8000", "https://[::1]:8443", "http://localhost"])
def test_an_origin_is_taken_as_browsers_write_it(origin: str) -> None:
    assert parse_config({"http": {"cors_origins": [origin]}}).http.cors_origins == (origin,)


@pytest.mark.parametrize(
    "origin",
    [
        *(
            "*",
            "null",
            "",
            "cameras.example.org",
            "https://",
            "https://*.example.org",
            "ftp://x",
            "https://x/",
            "https://x/a",
        ),
        *(
            "https://X",
            "https://x:443",
            "http://x:80",
            "https://x:0",
            "https://x:99999",
            "https://u@x",
            "https://x?",
            "https://é",
        ),
    ],
)
def test_an_origin_that_no_browser_writes_is_refused(origin: str) -> None:
    with pytest.raises(ConfigError, match="write https://host"):
        parse_config({"http": {"cors_origins": [origin]}})


@pytest.mark.parametrize("key", [{"web": True}, {"cors_origins": [ORIGIN]}])
def test_without_http_neither_makes_sense(key: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="enabled: false"):
        parse_config({"http": {"enabled": False, **key}})
