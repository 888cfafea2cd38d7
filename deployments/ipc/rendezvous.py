"""How fronts and cores of one application on one node find each other: a folder of their user, a sub-folder per core.

::

    <temporary folder>/headtail-<user>/<application and node>/<core>/rows.sock      rows and what became of them
                                                                     questions.sock  what it is and has done
                                                                     facts           its models; there when it serves

The outer folder is of mode 0700 and its owner's alone, so nobody else on the host can speak to a core. Ray starts all
processes of a node in one container, so they see one file system.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgpack

from slicer.errors import ServerError

ROWS, QUESTIONS, FACTS = "rows.sock", "questions.sock", "facts"

#: What the kernel allows of a socket's path, the end included.
_LONGEST = 107


def meeting_place(*names: str) -> Path:
    """Where cores and fronts that are told the same names meet; made if it is not there.

    Raises:
        ServerError: somebody else's folder is in the way, or the temporary folder's name is too long for sockets.
    """
    outer = Path(tempfile.gettempdir()) / f"headtail-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        outer.mkdir(mode=0o700)
    status = outer.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise ServerError(
            f"{outer} is not a folder of this user alone (mode 0700): remove it, or set TMPDIR to another"
        )
    folder = outer / hashlib.blake2b("\0".join(names).encode(), digest_size=8).hexdigest()
    if len(str(folder / ("x" * 8) / QUESTIONS)) > _LONGEST:
        raise ServerError(f"{folder} is too long a name for sockets in it; set TMPDIR to a shorter one")
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def new_core(place: Path) -> Path:
    """A folder for one core."""
    return Path(tempfile.mkdtemp(prefix="", dir=place))


def publish(core: Path, facts: dict[str, Any]) -> None:
    """Let fronts find a core whose sockets listen."""
    draft = core / f"{FACTS}.new"
    draft.write_bytes(msgpack.packb(facts))
    draft.rename(core / FACTS)


def published(place: Path) -> Iterable[Path]:
    """The cores that are to be found here; a dead one may be among them."""
    return (facts.parent for facts in place.glob(f"*/{FACTS}"))


def facts_of(core: Path) -> dict[str, Any]:
    """What a core has published. Raises OSError when it has gone."""
    facts: dict[str, Any] = msgpack.unpackb((core / FACTS).read_bytes())
    return facts


def forget(core: Path) -> None:
    """Remove what a core leaves behind."""
    shutil.rmtree(core, ignore_errors=True)
