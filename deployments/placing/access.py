"""How a person reaches an application by HTTP: its address, where the token is, and a command that can be pasted.

A token that was made at the start lies in a file of mode 0600 of whoever started it, as Jupyter's does; it is never
written to a terminal or a log.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from slicer.core.codecs.registry import IMAGE_CODECS
from slicer.core.protocol.messages import ServedModel

#: Where files with tokens lie.
FOLDER = "~/.cache/headtail"


@dataclass(frozen=True)
class Access:
    """The way in of an application that runs.

    Attributes:
        url: of the application; empty: it has no HTTP.
        predict_url: takes an image file; empty: no model of it takes images, or there is no HTTP.
        token: that is asked for: none, one that was made at the start, or one that the user has given.
        token_file: that holds one that was made; None: there is no such one, or the file could not be written.
    """

    url: str = ""
    predict_url: str = ""
    token: Literal["none", "made", "given"] = "none"
    token_file: Path | None = None

    def curl(self) -> str:
        """Of an image file; for a shell of this user on this machine. Empty where there is no `predict_url`."""
        if not self.predict_url:
            return ""
        secret = "$HEADTAIL_TOKEN"
        if self.token_file is not None:
            secret = f"$(cat {shlex.quote(str(self.token_file))})"
        header = "" if self.token == "none" else f'-H "Authorization: Bearer {secret}" '
        return f"curl --data-binary @photo.jpg {header}{shlex.quote(self.predict_url)}"

    def about_token(self) -> str:
        """Where it is, in words; never the token itself."""
        if self.token == "none":
            return "none is asked for"
        if self.token == "given":
            return "as set by the file or HEADTAIL_TOKEN"
        if self.token_file is not None:
            return f"made at the start, in {self.token_file}; or set HEADTAIL_TOKEN before the start"
        return f"made at the start, but {FOLDER} cannot be written: set HEADTAIL_TOKEN before the start"


def access(url: str, name: str, token: str, *, made: bool, served: Sequence[ServedModel]) -> Access:
    """The way in of the application `name`; writes the file of a token that was made.

    Args:
        url: of the application; empty: it has no HTTP.
        token: that requests must bring; empty: none.
        made: the token was made at the start.
        served: its models, all of them.
    """
    if not url:
        return Access()
    file = None
    if token and made:
        with contextlib.suppress(OSError):
            file = write_token(name, token)
    kind: Literal["none", "made", "given"] = "none" if not token else "made" if made else "given"
    return Access(url, predict_url(url, served), kind, file)


def predict_url(url: str, served: Sequence[ServedModel]) -> str:
    """Of the first classifier that takes images, which is named where there are several models; empty: none does."""
    model = next((one.name for one in served if one.classifies and set(one.codecs) & set(IMAGE_CODECS)), None)
    if model is None:
        return ""
    return f"{url}/predict" if len(served) == 1 else f"{url}/predict?model={quote(model, safe='')}"


def token_path(name: str) -> Path:
    """The file of the application `name`."""
    return Path(FOLDER).expanduser() / f"token-{name}"


def write_token(name: str, token: str) -> Path:
    """Write it for this user alone, in place of an earlier one; nobody sees half of it. Raises OSError."""
    path = token_path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, draft = tempfile.mkstemp(prefix=".token-", dir=path.parent)  # of mode 0600
    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(token + "\n")
        Path(draft).replace(path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise
    return path


def remove_token(path: Path | None, token: str) -> None:
    """Once its application has gone; the file of another one that has taken the name since stays."""
    with contextlib.suppress(OSError):
        if path is not None and path.read_text(encoding="ascii").strip() == token:
            path.unlink()
