"""The shipped digits as files on the devices' nodes: other images must be there already, at the same path."""

from __future__ import annotations

from collections.abc import Sequence

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.fleet.device_actor import DeviceInfo
from slicer.core.common.error_text import last_line
from slicer.core.images.folders import LabelledImages
from slicer.errors import ImageError
from slicer.models.images import write_digits


def write_where_missing(images: LabelledImages, devices: Sequence[DeviceInfo]) -> None:
    """Write the digits on every node that is another machine than this one, under the same path.

    Raises:
        ImageError: a node cannot hold them there; names the node.
    """
    here = ray.util.get_node_ip_address()
    directory = str(images.files[0].parents[1])
    others = {info.node_ip: info.node_id for info in devices if info.node_ip != here}
    write = ray.remote(_write)
    for address, node_id in others.items():
        task = write.options(
            num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False)
        ).remote(directory)
        try:
            ray.get(task, timeout=120)
        except Exception as error:
            said = last_line(error)
            raise ImageError(f"the digits cannot be written to {directory} on node {address} ({said})") from error


def _write(directory: str) -> None:
    write_digits(directory)
