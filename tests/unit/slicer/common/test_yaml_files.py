"""Files of YAML that cannot be what was meant are refused in one line; none hangs, floods or ends in a traceback."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from actors.fleet.config import load_fleet
from deployments.config import load_config
from deployments.costs.profile_files import load_cost_profile as load_costs
from deployments.doctor.cli import members_of
from slicer.common import yaml_loader
from slicer.common.yaml_files import parse_json, parse_yaml, read_yaml
from slicer.errors import ConfigError, HeadTailError
from slicer.models import zoo
from slicer.profiles.device_profile import load_device_profile

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join(['*' + before] * 9)}]\n" for before, name in zip("abcdef", "bcdefg", strict=True)
)

WRONG: dict[str, tuple[bytes, str]] = {
    "latin-1": (b'a: 1\nmodels: [{name: "d\xe9"}]', "line 2: byte 0xe9 is not UTF-8"),
    "utf-16": ("a: 1".encode("utf-16"), "it is UTF-16"),
    "nul": (b"a: 1\nb: \0", "line 2: U+0000"),
    "surrogate": (rb'a: "\ud800"', "half of a surrogate pair"),
    "no such character": (rb'a: "\UFFFFFFFF"', "cannot be read as YAML"),
    "impossible date": (b"token: 2020-99-99", "line 1: cannot be read as YAML: no such date"),
    "5000 digits": (b"num_replicas: " + b"9" * 5000, "a number of 5000 digits"),
    "deep list": (b"models: " + b"[" * 20000 + b"]" * 20000, "levels deep"),
    "deep mapping": (b"? " * 20000, "levels deep"),
    "infinite": (b"a: .inf", "infinite"),
    "minus infinite": (b"a: -.inf", "infinite"),
    "none": (b"a: .nan", "infinite"),
    "1e400": (b"a: 1e400", "infinite"),
    "bomb": (BOMB.encode(), "more than 50000 values"),
    "many": (b"a: [" + b"1," * 600 + b"]", "more than 500 values"),
    "holds itself": (b"a: &a [*a]", "holds itself"),
    "no anchor": (b"a: *secret", "an alias (*) without its anchor"),
    "doubled key": (b"a: 1\nb: 2\na: 3", "line 3: cannot be read as YAML: key 'a' is there already, in line 1"),
    "doubled number": (b"{0.5: 1, 0.50: 2}", "key 0.5 is there already"),
    "key on": (b"on: x", "'on' as a key"),
    "key null": (b"~: x", "as a key"),
    "key list": (b"[a]: x", "a list or a mapping as a key"),
    "two documents": (b"a: 1\n---\nb: 2", "several documents"),
    "tab": (b"a:\n\tb: 1", "indent with spaces"),
    "python tag": (b"a: !!python/object/apply:os.system [true]", "a tag (!)"),
    "own tag": (b"a: !secret x", "a tag (!)"),
    "wrong tag": (b"a: !!int x", "no such int"),
    "sexagesimal": (b"a: 1:30", "colons"),
    "octal": (b"a: 010", "octal"),
    "merge of a number": (b"<<: 5", "merge"),
    "unfinished": (b"a: [", "cannot be read as YAML"),
    "too large": (b"#" * (1 << 21), "more than 1 MiB"),
}
READERS: tuple[Callable[[Any], Any], ...] = (
    load_config,
    load_fleet,
    lambda path: load_device_profile(str(path)),
    load_costs,
    lambda path: zoo.resolve(str(path)),
    lambda path: members_of(str(path)),
)


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_file_is_refused_in_one_line_with_its_name(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, says = WRONG[case]
    if case == "many":
        monkeypatch.setattr(yaml_loader, "MAX_NODES", 500)  # the real number of values takes a second to read
    file = tmp_path / "file.yaml"
    file.write_bytes(content)
    for read in READERS:
        with pytest.raises(HeadTailError) as caught:
            read(file)
        message = str(caught.value)
        assert "\n" not in message and len(message) < 1000, read
        assert str(file) in message and says in message, read
        assert "secret" not in message


@pytest.mark.parametrize("content", [b"", b"[1, 2]", b"text", b"5", b"1: 2", b"null"])
def test_what_is_no_mapping_of_words_is_no_fleet(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "fleet.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"fleet\.yaml: (a fleet is a mapping|keys must be words)"):
        load_fleet(file)


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.yaml"
    os.mkfifo(pipe)
    for path, says in {
        str(pipe): "is no regular file",
        "/dev/zero": "is no regular file",
        str(tmp_path): "is a directory",
        str(tmp_path / "absent.yaml"): "there is no such file",
        "a\0b": "cannot be read",
        "x" * 5000: "cannot be read",
    }.items():
        with pytest.raises(ConfigError) as caught:
            read_yaml(path)
        assert says in str(caught.value) and len(str(caught.value)) < 1000


def test_what_is_meant_is_read() -> None:
    text = (
        b"\xef\xbb\xbfbase: &b {x: 1e-3, y: 2}\nmore: {<<: *b, y: 3}\nday: 2026-11-20\n0.5: yes\nn: 1_000\nt: '010'\n"
    )
    assert parse_yaml(text, "text") == {
        "base": {"x": 0.001, "y": 2},
        "more": {"x": 0.001, "y": 3},
        "day": "2026-11-20",
        0.5: True,
        "n": 1000,
        "t": "010",
    }


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"a": NaN}', "NaN is no finite"),
        ('{"a": 1e400}', "no finite"),
        ('{"a": 1, "a": 2}', "'a' is there twice"),
        ("9" * 5000, "5000 digits"),
        ("[" * 100000, "levels deep"),
        ("[" * 50 + "]" * 50, "levels deep"),
        ("x" * 5000, "is not JSON"),
    ],
)
def test_json_has_the_same_limits(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_json(text, "--kwargs")
    assert says in str(caught.value) and len(str(caught.value)) < 500


def test_an_unknown_key_or_word_names_the_nearest(tmp_path: Path) -> None:
    file = tmp_path / "file.yaml"
    for text, read, says in [
        ("models: [{name: a, stratgy: x}]", load_config, "stratgy: unknown key; did you mean 'strategy'?"),
        ("acelerator: cpu", load_config, "acelerator: unknown key; did you mean 'accelerator'?"),
        ("accelerator: cuds", load_config, "did you mean 'cuda'?"),
        ("models: [{name: a, strategy: per_tial}]", load_config, "did you mean 'per_tail'?"),
        ("groups: [{name: a, cut: 1, codek: int8}]", load_fleet, "did you mean 'codec'?"),
        ("models: [{name: no}]", load_config, "put it in quotes if text is meant"),
        ("token: 123456789", load_config, "token"),
    ]:
        file.write_text(text)
        with pytest.raises(ConfigError) as caught:
            read(file)
        assert says in str(caught.value) and "123456789" not in str(caught.value)
