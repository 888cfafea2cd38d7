"""Old module names lead to the new modules, with a warning."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from slicer.common.old_names import OLD_NAMES
from tests.paths import ROOT


@pytest.mark.parametrize("old", OLD_NAMES)
def test_an_old_name_is_the_new_module_and_warns(old: str) -> None:
    sys.modules.pop(old, None)
    with pytest.warns(FutureWarning, match=f"{old} is now {OLD_NAMES[old]}"):
        module = importlib.import_module(old)
    assert module is importlib.import_module(OLD_NAMES[old])
    assert module.__spec__ is not None and module.__spec__.name == OLD_NAMES[old]


def test_a_room_that_moved_is_one_room_under_both_names() -> None:
    code = (
        "from slicer.codecs.registry import CODECS as old\n"
        "from slicer.core.codecs.registry import CODECS as new\n"
        "from slicer.protocol import messages\n"
        "import slicer.core.protocol.messages as now\n"
        "print(old is new, messages is now)\n"
    )
    done = subprocess.run([sys.executable, "-W", "always", "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("True True\n", 0), done.stderr
    assert "slicer.codecs.registry is now slicer.core.codecs.registry" in done.stderr


def test_names_that_examples_of_strategies_and_links_import() -> None:
    code = (
        "from deployments.scheduler import Policy, Row, Step, SHARED\n"
        "from deployments.policies import make_policy\n"
        "from deployments.executors import Executor, TorchExecutor\n"
        "from actors.device import Device, Computed, Choice\n"
        "from actors.links import Link\n"
        "from actors.head import Computed\n"
        "from actors.records import Record\n"
        "from slicer.planner import Choice\n"
        "import deployments.scheduler; print(deployments.scheduler.Policy is Policy)\n"
    )
    done = subprocess.run([sys.executable, "-W", "always", "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "True\n"
    assert done.stderr.count("FutureWarning: ") == 5, done.stderr
    assert "<string>:1" in done.stderr, "the line that imports is named"


def test_there_is_no_other_old_name() -> None:
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("deployments.nothing")
