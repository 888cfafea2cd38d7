"""How a person reaches an application: a command that works when it is pasted, and a token that nobody else sees."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from deployments.placing import access as module
from deployments.placing.access import Access, access, predict_url, remove_token, token_path, write_token
from slicer.core.protocol.messages import ServedModel

URL = "http://127.0.0.1:8000/pets"


def served(name: str = "pets", codecs: tuple[str, ...] = ("fp32", "jpeg")) -> ServedModel:
    return ServedModel(name, "digest", "{}", 4, (0, 1), "per_slice", codecs)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With a space and a quote in its name, as some have."""
    folder = tmp_path / "it's a home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    return folder


def words(command: str, **env: str) -> list[str]:
    """What a shell makes of a command: the arguments of curl."""
    shell = 'curl() { printf "%s\\n" "$@"; }; ' + command
    done = subprocess.run(["sh", "-c", shell], env={**os.environ, **env}, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_a_made_token_lies_in_a_file_of_its_user_alone_and_the_command_reads_it(home: Path) -> None:
    way_in = access(URL, "pets", "secret-1", made=True, served=[served()])
    assert way_in.token_file == home / ".cache" / "headtail" / "token-pets" == token_path("pets")
    assert stat.S_IMODE(way_in.token_file.stat().st_mode) == 0o600
    assert words(way_in.curl()) == [
        "--data-binary",
        "@photo.jpg",
        "-H",
        "Authorization: Bearer secret-1",
        f"{URL}/predict",
    ]
    assert "secret-1" not in way_in.curl() + way_in.about_token() + repr(way_in)


def test_a_given_token_is_the_users_own_and_none_needs_no_header(home: Path) -> None:
    given = access(URL, "pets", "secret-1", made=False, served=[served()])
    assert given.token_file is None and not token_path("pets").exists()
    assert "Authorization: Bearer mine" in words(given.curl(), HEADTAIL_TOKEN="mine")
    assert words(access(URL, "pets", "", made=True, served=[served()]).curl()) == [
        *("--data-binary", "@photo.jpg"),
        f"{URL}/predict",
    ]
    assert access("", "pets", "secret-1", made=True, served=[served()]) == Access(), "no HTTP, no file"
    assert not token_path("pets").exists()


def test_a_new_token_takes_the_place_of_the_old_one_whatever_its_mode() -> None:
    path = write_token("pets", "first")
    path.chmod(0o644)
    assert write_token("pets", "second") == path
    assert path.read_text() == "second\n" and stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [one.name for one in path.parent.iterdir()] == ["token-pets"]


def test_the_file_goes_with_its_application_only() -> None:
    path = write_token("pets", "second")
    remove_token(path, "first")
    assert path.exists(), "another application has taken the name since"
    remove_token(path, "second")
    assert not path.exists()
    remove_token(path, "second")
    remove_token(None, "second")


def test_where_no_file_can_be_written_it_is_said_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(name: str, token: str) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_token", full)
    way_in = access(URL, "pets", "secret-1", made=True, served=[served()])
    assert way_in.token_file is None and "set HEADTAIL_TOKEN before the start" in way_in.about_token()
    assert "$HEADTAIL_TOKEN" in way_in.curl()


def test_the_model_is_named_where_there_are_several_and_must_take_images() -> None:
    two = [served("plain", ("fp32",)), served("my pets & more")]
    assert predict_url(URL, [served()]) == f"{URL}/predict"
    assert predict_url(URL, two) == f"{URL}/predict?model=my%20pets%20%26%20more"
    assert words(access(URL, "pets", "", made=False, served=two).curl())[-1] == predict_url(URL, two)
    assert predict_url(URL, two[:1]) == "" and access(URL, "pets", "", made=False, served=two[:1]).curl() == ""
