"""Which Rays run on this machine, and which one is meant where nobody gives an address.

Ray itself takes any of several (Ray 2.60: ``auto`` is the first of a set), so that a job goes where nobody sent it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from slicer.errors import ServerError


def running_rays() -> dict[str, Path]:
    """The GCS address of each, and the folder that it keeps its files in."""
    from ray._private import services

    found: dict[str, Path] = {}
    for process in services.psutil.process_iter(["cmdline"]):  # psutil leaves out what it may not read
        arguments = process.info["cmdline"] or []
        if services._is_raylet_process(arguments):
            flags = dict(argument.partition("=")[::2] for argument in arguments)
            if (address := flags.get("--gcs-address", "")) not in ("", "None"):
                found[address] = Path(flags.get("--temp_dir", ""))
    return found


def meant(last: str | None, rays: Mapping[str, Path], folder: Path) -> str:
    """The address of the one that is meant: the one that `ray start` started last, unless others run and it does not;
    the only one; or, of several, the only one that keeps its files in this process's folder.

    Args:
        last: of the one that `ray start` started last. rays: as `running_rays` finds them. folder: where Ray keeps the
            files of this process (RAY_TMPDIR).

    Raises:
        ServerError: there is none, or it cannot be told which one.
    """
    if last is not None and (last in rays or not rays):
        return last
    if not rays:
        raise ServerError(
            "no Ray runs on this machine: start one with `ray start --head`, or give --address HOST:6379 of another"
        )
    own = [address for address, of_ray in rays.items() if of_ray == folder]
    for candidates in (list(rays), own):
        if len(candidates) == 1:
            return candidates[0]
    raise ServerError(f"several Rays run here: give --address, one of {', '.join(sorted(rays))}")
