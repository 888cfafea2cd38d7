"""The package headtail_device is slicer/core as it stands, and runs where nothing but its dependencies is installed."""

from __future__ import annotations

import ast
import email
import json
import os
import re
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from email.message import Message
from pathlib import Path

import pytest

from tests.paths import ROOT

CORE = ROOT / "slicer/core"
PROJECT = ROOT / "clients/python"

#: What the wheel holds beside slicer/core.
BESIDE = {"headtail_device/py.typed": ROOT / "slicer/py.typed", "headtail_device/LICENSE": ROOT / "LICENSE"}

#: Never loaded by a device on its own.
HEAVY = ("torch", "torchvision", "timm", "pydantic", "ray", "yaml", "scipy", "safetensors", "slicer")

#: Names under which distributions are imported, where they differ.
IMPORTED_AS = {"pillow": "PIL", "typing-extensions": "typing_extensions"}

#: Comes with a dependency that is built on it: aiohttp's addresses.
BROUGHT = {"yarl"}

#: The server's part of the protocol, shipped but not used: it alone needs protobuf.
SERVERS = Path("protocol/oip/grpc")

IMPORT_ALL = """
import importlib, json, sys
sys.path += json.loads(sys.argv[1])
for name in json.loads(sys.argv[2]):
    importlib.import_module(name)
import headtail_device
print(json.dumps({
    "file": headtail_device.__file__,
    "compiled": importlib.import_module("headtail_device.codecs.transform.compiled").COMPILED,
    "public": {name: callable(getattr(headtail_device, name)) for name in headtail_device.__all__},
    "loaded": sorted({name.partition(".")[0] for name in sys.modules}),
}))
"""


def sources() -> list[Path]:
    return sorted(path.relative_to(CORE) for path in CORE.rglob("*.py"))


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    """Made by the hook that pip calls."""
    directory = tmp_path_factory.mktemp("wheel")
    build = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"
    made = subprocess.run(
        [sys.executable, "-c", build, str(directory)], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stderr
    with zipfile.ZipFile(directory / made.stdout.split()[-1]) as opened:
        yield opened


@pytest.fixture(scope="session")
def metadata(wheel: zipfile.ZipFile) -> Message:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return email.message_from_bytes(wheel.read(name))


def test_the_wheel_holds_slicer_core_byte_for_byte_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    # As the checkout has them: what Python and editors leave there does not count, nor what is compiled.
    files = [path for path in CORE.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    files = [path for path in files if not path.name.startswith("_compiled.")]
    expected = {f"headtail_device/{path.relative_to(CORE).as_posix()}": path for path in files} | BESIDE
    code = [name for name in wheel.namelist() if ".dist-info/" not in name]
    assert sorted(code) == sorted(expected)
    assert [name for name in code if wheel.read(name) != expected[name].read_bytes()] == []


def test_every_module_imports_alone_and_loads_nothing_heavy(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    wheel.extractall(tmp_path)
    names = [
        ".".join(("headtail_device", *path.with_suffix("").parts)).removesuffix(".__init__")
        for path in sources()
        if path.parent != SERVERS
    ]
    paths = [str(tmp_path), *dict.fromkeys(sysconfig.get_paths()[kind] for kind in ("purelib", "platlib"))]
    # -S: without the .pth files by which site-packages brings this checkout.
    ran = subprocess.run(
        [sys.executable, "-I", "-S", "-c", IMPORT_ALL, json.dumps(paths), json.dumps(names)],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTHON")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert Path(found["file"]).is_relative_to(tmp_path)
    assert found["compiled"] is False
    assert found["public"] == dict.fromkeys(
        ["AsyncClient", "AsyncDevice", "ClassLogit", "ClassScore", "Client", "Device", "Prediction", "Result"], True
    )
    assert set(found["loaded"]) & {*HEAVY, "google", "grpc"} == set()


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """(module, dots before it) of every import, wherever it stands."""
    for node in ast.walk(ast.parse((CORE / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, 0) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or "", node.level


@pytest.mark.parametrize("path", sources(), ids=str)
def test_a_module_imports_its_own_by_relative_names_and_else_what_the_package_declares(
    path: Path, metadata: Message
) -> None:
    wanted = [re.split(r"[^A-Za-z0-9_-]", line)[0] for line in metadata.get_all("Requires-Dist", [])]
    declared = {IMPORTED_AS.get(name, name) for name in wanted} | BROUGHT
    declared |= {"google"} if path.parent == SERVERS else set()
    others = {module.partition(".")[0] for module, dots in imports(path) if dots == 0}
    assert others - set(sys.stdlib_module_names) - declared == set()
    # `from ...x` in a/b.py would leave the package; in the package's own top folder one dot is the most.
    assert max((dots for _, dots in imports(path)), default=0) <= len(path.parts)


def test_the_packages_say_the_same_of_version_and_python(metadata: Message) -> None:
    whole = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'version = "{metadata["Version"]}"' in whole
    (python,) = re.findall(r'requires-python = "(.*)"', whole)
    assert set(metadata["Requires-Python"].split(",")) == set(python.split(","))


@pytest.mark.parametrize("name", ["numpy", "pillow", "aiohttp", "typing_extensions", "onnxruntime", "av"])
def test_a_dependency_has_headtails_own_bounds(name: str) -> None:
    whole, own = (
        set(re.findall(rf'"({name}[<>=][^";]*)', (folder / "pyproject.toml").read_text(encoding="utf-8")))
        for folder in (ROOT, PROJECT)
    )
    assert len(own) == 1 and own == whole


def test_the_command_is_the_one_of_slicer_core(wheel: zipfile.ZipFile) -> None:
    (name,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    assert "headtail-device = headtail_device.standalone.command:main" in wheel.read(name).decode()
