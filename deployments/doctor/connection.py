"""How every command connects to Ray: a cluster that runs, or one of its own; a failure is one line with its remedy."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from deployments.doctor import facts, running_rays
from slicer.core.common.error_text import first_line
from slicer.errors import ServerError


def _not_an_opt_out(record: logging.LogRecord) -> bool:
    """Drops Ray's warning that a token protects a new Ray, and how to go without it: as it should be, and bad advice.

    That a token was made, or that there is no protection, is still said.
    """
    return not record.getMessage().startswith("Token authentication is enabled")


def connect(
    address: str | None, *, own: bool = True, before_own: Callable[[], None] | None = None, **options: Any
) -> Any:
    """`ray.init`, told what to do where it fails; what Ray and gRPC write meanwhile stays off the terminal then.

    Args:
        address: ``host:port``; ``auto``: whatever runs here; ``local``: a new Ray; None: RAY_ADDRESS, else what
            `ray start` started here, else a new Ray.
        own: whether a new Ray will do.
        before_own: called before a new Ray is started, and only then; what it raises is passed on, and none is started.
        options: further ones of `ray.init`.

    Returns:
        What `ray.init` returns.

    Raises:
        ServerError: no cluster, one that refuses this process, or one of another version.
    """
    import ray
    from ray._private.authentication import authentication_token_setup

    given = address if address not in (None, "auto") else os.environ.get("RAY_ADDRESS", "")
    if given and re.fullmatch(r"[^/]+:\d+", given) and not facts.reachable(given):
        raise ServerError(
            f"nothing answers at {given}: give the GCS address of a Ray that runs, host:6379, open that port to here, "
            "or start one: ray start --head"
        )
    target, address = _settle(address, own)
    # By it Ray says what becomes of its tokens (Ray 2.60). The same function again is not added again.
    logging.getLogger("ray._private.authentication.authentication_token_setup").addFilter(_not_an_opt_out)
    if target is None and before_own is not None:
        before_own()
    with _kept_quiet() as noise:
        try:
            if address == "auto":
                # Ray uses the token of this machine for a Ray that it finds here by itself, and for no other address;
                # but of several it finds any.
                authentication_token_setup.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
                address = target
            return ray.init(address=address, **options)
        except Exception as error:  # ConnectionError, ValueError, RuntimeError, and Ray's own AuthenticationError
            failure = error
    with contextlib.suppress(Exception):
        ray.shutdown()
    raise ServerError(diagnose(target, f"{failure}\n{noise[0]}", failure)) from failure


def _settle(address: str | None, own: bool) -> tuple[str | None, str | None]:
    """``host:port`` that will be connected to, None for a new Ray; and ``auto`` where it was found here, else what to
    tell `ray.init`."""
    from ray._common.utils import get_default_ray_temp_dir
    from ray._private import services

    if address == "local" or (address is None and os.environ.get("RAY_ADDRESS") == "local"):
        return None, "local"
    of_environment = os.environ.get("RAY_ADDRESS") or None
    if address is None and of_environment == "auto":
        address = "auto"
    given = next((one for one in (address, of_environment) if one not in (None, "auto")), None)
    # "auto" is never left to Ray, which takes any of several. Without an address it is what `ray start` started last.
    named = given or services.find_bootstrap_address(None)
    try:
        found: str | None = services.canonicalize_bootstrap_address(named) if named else None
    except ValueError as error:
        raise ServerError(f"address {named!r} is none: give HOST:6379, auto or local") from error
    if not given and (address == "auto" or (found is None and not own)):
        found = running_rays.meant(found, running_rays.running_rays(), Path(get_default_ray_temp_dir()))
    if found is None:
        return None, address
    if not given and "://" not in found and not facts.reachable(found):
        # Ray remembers in a file what `ray start` started last; that one has ended without `ray stop`.
        if own and address is None:
            print(f"the Ray that ran here at {found} has ended, so a new one is started", file=sys.stderr, flush=True)
            return None, "local"
        raise ServerError(
            f"the Ray that was started here last, at {found}, has ended: start one with `ray start --head`, or give "
            "--address HOST:6379 of another"
        )
    return found, "auto" if address == "auto" or not given else found


def diagnose(target: str | None, said: str, error: BaseException) -> str:
    """Why `ray.init` failed and what to do, in one line.

    Args:
        target: ``host:port``; None: a Ray of its own was to be started.
        said: all that Ray wrote.
        error: what it raised.
    """
    first = first_line(error)
    if target is None:
        return f"no Ray could be started here: {first}; headtail doctor looks at this machine"
    text = said.lower()
    if "version mismatch" in text:
        found = re.findall(r"(Ray|Python): ([\w.+]+)", said)
        ours = {"Ray": _ray_version(), "Python": sys.version.split()[0]}
        theirs = ", ".join(f"{what} {version}" for what, version in found[:2])
        here = ", ".join(f"{what} {version}" for what, version in ours.items())
        return f"the Ray at {target} has {theirs or 'other versions'}, this process {here}: use the same on both"
    if "unauthenticated" in text or "authentication" in text or "invalidauthtoken" in text:
        return f"the Ray at {target} wants {_token_remedy()}"
    return (
        f"what answers at {target} is no Ray that can be joined ({first}): give the GCS address, host:6379; "
        "`ray status` and headtail doctor say more"
    )


def _token_remedy() -> str:
    path = os.environ.get("RAY_AUTH_TOKEN_PATH") or str(Path("~") / ".ray" / "auth_token")
    if not facts.has_token():
        return f"a token, and there is none here: copy {path} from that machine, and export RAY_AUTH_MODE=token"
    if os.environ.get("RAY_AUTH_MODE", "").lower() != "token":
        return f"a token, which is here ({path}), but not in use: export RAY_AUTH_MODE=token"
    return f"another token than the one here: copy {path} from that machine"


def _ray_version() -> str:
    import ray

    return str(ray.__version__)


@contextlib.contextmanager
def _kept_quiet() -> Iterator[list[str]]:
    """Collects what this process writes to its standard error, C++ included; written there after all if all is well.

    Yields:
        A list that holds the text as its only entry, once the block has ended.
    """
    kept = [""]
    sys.stderr.flush()
    original = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield kept
        finally:
            sys.stderr.flush()
            os.dup2(original, 2)
            os.close(original)
            file.seek(0)
            kept[0] = file.read().decode(errors="replace")
    import ray

    if ray.is_initialized():
        sys.stderr.write(kept[0])
