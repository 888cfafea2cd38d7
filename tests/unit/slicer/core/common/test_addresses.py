"""Names, addresses and tokens: one check each, for every command and both sides."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from actors.fleet.config import GroupConfig
from actors.load.config import LoadConfig
from deployments import cli as serve_cli
from deployments.config import ServerConfig, parse_config
from deployments.doctor import cli as doctor
from slicer.core.common.addresses import application_name, application_url, bearer_token
from slicer.core.network.http_transport import HttpTransport
from slicer.errors import ConfigError, HeadTailError

NO_NAMES = [
    "", " ", "a b", 'a"b', "a'b", "a/b", "../x", "..", ".", ".a", "-", "-a", "_a", "a\n", "a\tb", "a\\b", "a%b", "a$b",
    "a#b", "a:b", "a?b", "a;b", "a{b}", "käse", "名", "a\0", "a" * 64, "a" * 100_000,
]  # fmt: skip


@pytest.mark.parametrize("name", ["a", "headtail", "A-1", "cams.v2", "load_1", "0", "a" * 63, "default_backend"])
def test_a_name_of_letters_and_digits_is_taken(name: str) -> None:
    assert application_name(name) == name


@pytest.mark.parametrize("name", NO_NAMES, ids=ascii)
def test_a_name_that_is_not_safe_everywhere_is_refused_in_one_short_line(name: str) -> None:
    with pytest.raises(ConfigError, match="is no name for an application; use 1 to 63") as caught:
        application_name(name)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 300


@pytest.mark.parametrize("name", ["a b", 'a"b', "", "../x"])
def test_every_command_refuses_it_before_anything_starts(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert serve_cli.main(["--name", name]) == 2
    assert doctor.main(["--server", name]) == 2
    assert capsys.readouterr().err.count("is no name for an application") == 2
    with pytest.raises(ConfigError, match="is no name for an application"):
        LoadConfig(server=name, rate_rps=1.0, requests=1)


@pytest.mark.parametrize("url", ["http://h", "http://10.0.0.7:8000/headtail", "https://[::1]:8/a/b/", "http://h:1//"])
def test_an_address(url: str) -> None:
    assert application_url(url) == url.rstrip("/")


@pytest.mark.parametrize(
    "url",
    [
        "", "h:1", "http://", "http:///a", "ftp://h/a", "http://h:99999/a", "http://h:x/a", "http://h:0/a", "http://[::1",
        "http://h/a b", "http://h/a\n", "http://h/a?b=1", "http://h/a#b", "http://käse/a", "http://h/\0", " http://h",
    ],
    ids=ascii,
)  # fmt: skip
def test_what_is_no_address_is_refused_on_both_sides(url: str) -> None:
    with pytest.raises(ConfigError, match="is no address; write http"):
        HttpTransport(url)
    if url:
        with pytest.raises(ValueError, match="is no address; write http"):
            GroupConfig(name="a", cut=1, transport="http", url=url)
        with pytest.raises(ConfigError, match="is no address; write http"):
            parse_config({"http": {"url": url}})


@pytest.mark.parametrize("url", ["http://me:s3cret@h/a", "ftp://me:s3cret@h", "http://me:s3cret@h:99999/a"])
def test_a_password_in_an_address_is_refused_and_not_printed(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        application_url(url)
    assert "s3cret" not in str(caught.value)


#: What a server and a device make of a token; None: refused.
TOKENS: dict[str, str | None] = {
    "": "",
    "s3cret": "s3cret",
    "s3cret\n": "s3cret",
    "s3cret\r\n": "s3cret",
    "\t s3cret \t": "s3cret",
    "s3cret-._~+/==": "s3cret-._~+/==",
    "s3cret" * 150: "s3cret" * 150,
    "\n": None,
    "   ": None,
    "s3cret s3cret": None,
    "s3cret\ns3cret": None,
    "s3cret\r\nX: y": None,
    "s3cret\0": None,
    "s3cret\x7f": None,
    "s3crét": None,
    "s3cret\u2028": "s3cret",  # white space of another alphabet at the end
    "s3cret\u200b": None,
    "s3cret" * 1000: None,
}


def _of_server(token: str, monkeypatch: pytest.MonkeyPatch) -> str:
    return parse_config({"token": token}).token


def _of_servers_environment(token: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("HEADTAIL_TOKEN", token)
    return parse_config({}).token


def _of_device(token: str, monkeypatch: pytest.MonkeyPatch) -> str:
    return HttpTransport("http://h/a", token).connection._token


def _of_devices_environment(token: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("HEADTAIL_TOKEN", token)
    return HttpTransport("http://h/a").connection._token


@pytest.mark.parametrize("take", [_of_server, _of_servers_environment, _of_device, _of_devices_environment])
@pytest.mark.parametrize("token", TOKENS, ids=lambda token: ascii(token)[:30])
def test_both_sides_make_the_same_of_a_token_and_never_print_it(
    take: Callable[[str, pytest.MonkeyPatch], str], token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "\0" in token and "environment" in take.__name__:
        pytest.skip("no environment variable holds this")
    wanted = TOKENS[token]
    if wanted is not None:
        assert take(token, monkeypatch) == wanted
        return
    with pytest.raises(HeadTailError, match="token") as caught:
        take(token, monkeypatch)
    assert "s3cr" not in str(caught.value) and len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("token", [123456789, 1234.56789, True, None, ["12345678"], {"a": "12345678"}, b"12345678"])
def test_a_token_that_is_no_text_is_refused_and_not_printed(token: object) -> None:
    with pytest.raises(ConfigError, match=r"a token is text, not .*; write it in quotes") as caught:
        parse_config({"token": token})
    assert "1234" not in str(caught.value)
    with pytest.raises(ValueError) as raw:  # pydantic's own text, as a traceback would show it
        ServerConfig(token=token)  # type: ignore[arg-type]
    assert "1234" not in str(raw.value)
    with pytest.raises(ConfigError):
        bearer_token(token, "token")


def test_other_mistakes_beside_a_token_do_not_print_it(tmp_path: Path) -> None:
    for data in (
        {"token": "s3cret", "models": []},
        {"token": "s3cret", "num_replicas": 0},
        {"tokne": "s3cret"},
        {"http": {"token": "s3cret"}},
        {"http": ["s3cret"]},
        [{"token": "s3cret"}],
    ):
        with pytest.raises(ConfigError) as caught:
            parse_config(data)
        assert "s3cret" not in str(caught.value)
