"""Files of a model: in a folder, or on the Hugging Face hub and in its local cache.

The hub is asked only for what somebody named; without a route to it, the cache answers. Nothing of a model runs here.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from slicer.core.common.error_text import first_line, shown
from slicer.errors import ModelError

#: Names of weights, the preferred first; of torch's own format only tensors are read.
WEIGHTS: tuple[str, ...] = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")

_REPOSITORY = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
_REMEDY = (
    "give a folder with config.json, model.safetensors and preprocessor_config.json, or fill the cache on a machine "
    "with internet (hf download {name}) and point HF_HOME at a copy of it"
)


@dataclass(frozen=True)
class Source:
    """Where a model's files are.

    Attributes:
        name: without what differs between machines: ``ORG/NAME``, with ``@REVISION`` where one was named; of a folder,
            its own name.
        folder: None: on the hub.
    """

    name: str
    folder: Path | None = None

    def file(self, name: str) -> Path | None:
        """Its path on this machine; None where there is none of that name. May download. Raises ModelError."""
        if self.folder is not None:
            path = self.folder / name
            return path if path.is_file() else None
        return _of_hub(self.name, name)

    def json(self, name: str) -> dict[str, Any] | None:
        """A JSON mapping; None where there is none of that name. Raises ModelError."""
        path = self.file(name)
        if path is None:
            return None
        try:
            document = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            raise ModelError(f"model {self.name}: {name} cannot be read ({first_line(error)})") from error
        if not isinstance(document, dict):
            raise ModelError(f"model {self.name}: {name} is no JSON mapping")
        return document

    def weights(self) -> Path | None:
        """The file with the weights, or the index of several; None where there is none. May download."""
        return next((path for name in WEIGHTS if (path := self.file(name)) is not None), None)

    def missing(self, name: str) -> ModelError:
        """The error for a file that it cannot do without."""
        if self.folder is not None:
            return ModelError(
                f"model folder {self.folder}: it has no {name}; give the folder that save_pretrained wrote"
            )
        return ModelError(
            f"model {self.name}: neither the hub's repository, if it could be reached, nor the local cache has {name}; "
            f"{_REMEDY.format(name=self.name.partition('@')[0])}"
        )


def find_source(name: str) -> Source:
    """The folder of that path, or the hub's repository ``ORG/NAME`` or ``ORG/NAME@REVISION``; nothing is read.

    Raises:
        ModelError: it is neither.
    """
    folder = Path(name).expanduser()
    if name and folder.is_dir():
        return Source(folder.resolve().name, folder)
    if name.startswith((".", "/", "~")) or not _REPOSITORY.fullmatch(name):
        raise ModelError(f"model {shown(repr(name))}: there is no such folder, and it is no ORG/NAME of the hub")
    return Source(name)


def _of_hub(repository: str, name: str) -> Path | None:
    from huggingface_hub import errors, hf_hub_download

    found = _REPOSITORY.fullmatch(repository)
    assert found is not None, "find_source checked it"
    try:
        with offline_if_unreachable():
            return Path(hf_hub_download(found[1], name, revision=found[2]))
    except errors.LocalEntryNotFoundError as error:
        if name != "config.json":  # the rest of a repository that the cache holds in part
            return None
        raise ModelError(
            f"model {repository}: the hub cannot be reached, and the local cache has no {name}; "
            f"{_REMEDY.format(name=found[1])}"
        ) from error
    except errors.EntryNotFoundError:
        return None
    except Exception as error:
        raise ModelError(
            f"model {repository}: {name} cannot be had: {shown(first_line(error))}; {_REMEDY.format(name=found[1])}"
        ) from error


@contextlib.contextmanager
def offline_if_unreachable() -> Iterator[None]:
    """Without a route to the hub, let it look into its cache only: it would retry for most of a minute first."""
    from huggingface_hub import constants

    host = urlsplit(constants.ENDPOINT).hostname or "huggingface.co"
    proxied = any(os.environ.get(name) for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"))
    before = constants.HF_HUB_OFFLINE
    if not proxied:
        try:
            socket.getaddrinfo(host, 443)
        except OSError:
            constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
