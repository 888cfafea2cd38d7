"""How much does a device's process grow by its head? Loading head(k), and after switching cuts up and down.

    python benchmarks/serving/head_memory.py                                 ViT-B/16 with random weights, four slices
    python benchmarks/serving/head_memory.py --model digits_vit

A real device (`actors.device.device.Device`, native) in a fresh process of its own, whose server is a folder of
shards: they are fetched in pieces, cached, checked and loaded as ever. Nothing is emulated. Grown is the resident set
against that of the process with everything imported and the device made, before it joins; allowed are the shards'
bytes, 10 % and 32 MB.

One process per k joins with cut k, and computes an image after that. Two more join with the first cut of --switch and
move through the others: one never computes; the other computes an image before each move, as a real device does. What
its first image took (activations, torch's own buffers, code that is paged in) is no weight, so it is allowed on top.

Prints a table for people, then one JSON document as the last line; --out gets it, too.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
from PIL import Image

from actors.device.config import DeviceConfig
from actors.device.device import Device
from actors.report.tables import Table
from benchmarks.common.command_line import integers, new_parser
from benchmarks.common.process_memory import memory_bytes
from benchmarks.common.results import ROOT, machine, manifest, publish
from slicer.core.codecs import activations
from slicer.core.network.server import Server
from slicer.core.planning.cut_planner import Choice
from slicer.core.protocol.messages import Answer, Refusal, Request, ServedModel
from slicer.core.shards.manifest import Manifest, load_manifest
from slicer.profiles.device_profile import NATIVE

SLACK = 0.10
SLACK_BYTES = 32_000_000


class Folder(Server):
    """A server that only has shards, in a folder."""

    def __init__(self, directory: Path, manifest: Manifest) -> None:
        self._files = {shard.sha256: directory / shard.file for shard in manifest.shards}
        n = manifest.num_slices
        self._served = ServedModel(
            "model", manifest.digest, manifest.to_json(), n, tuple(range(n)), "per_tail", tuple(activations.CODECS)
        )

    async def describe(self, model: str) -> ServedModel:
        return self._served

    async def infer(self, requests: Sequence[Request]) -> list[Answer]:
        return [Refusal(request.id, "overloaded", "a folder of shards answers nothing") for request in requests]

    async def shard(self, sha256: str, offset: int, length: int) -> bytes:
        with self._files[sha256].open("rb") as file:
            file.seek(offset)
            return file.read(length)

    async def close(self) -> None: ...


def child(shards: Path, cuts: Sequence[int], image: str, computes: bool) -> None:
    """In the fresh process: join with the first cut, move through the others; one JSON document on stdout."""
    manifest = load_manifest(shards)
    sizes = [shard.size_bytes for shard in manifest.shards]
    with tempfile.TemporaryDirectory() as cache:
        config = DeviceConfig(
            name="device-0",
            group="device",
            model="model",
            cut=cuts[0],
            profile=NATIVE,
            cache_directory=cache,
            cache_max_bytes=1 << 34,
        )
        device = Device(config, Folder(shards, manifest))
        print(json.dumps(asyncio.run(_child(device, sizes, cuts, image, computes))))


async def _child(
    device: Device, sizes: Sequence[int], cuts: Sequence[int], image: str, computes: bool
) -> list[dict[str, Any]]:
    before, own_before = memory_bytes()
    found: list[dict[str, Any]] = []
    work = 0

    def note(what: str, cut: int) -> None:
        now, own = memory_bytes()
        head = sum(sizes[:cut])
        allowed = round((1 + SLACK) * head) + SLACK_BYTES + work
        figures = {"head_bytes": head, "grown_bytes": now - before, "own_grown_bytes": own - own_before}
        within = now - before <= allowed
        found.append({"what": what, "cut": cut, **figures, "allowed_bytes": allowed, "within": within})

    await device.start()
    note("joined", cuts[0])
    if computes:
        await device.compute(image, device.cut.choice)
        work = memory_bytes()[0] - before - found[0]["grown_bytes"]
        note("computed", cuts[0])
    for cut in cuts[1:]:
        await device.cut.move(Choice(cut, "fp32"))
        note("moved", cut)
        if computes:
            await device.compute(image, device.cut.choice)
    await device.close()
    return found


def run(shards: Path, cuts: Sequence[int], image: str, computes: bool) -> list[dict[str, Any]]:
    command = [sys.executable, __file__, "--child", str(shards), "--switch", ",".join(map(str, cuts)), "--image", image]
    command += ["--computes"] * computes
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}  # as a device actor's
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(done.stderr)
    lines: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return lines


def table(document: dict[str, Any]) -> str:
    header = ["process", "what", "cut", "head MB", "grown MB", "of them its own", "allowed", "within"]
    rows = []
    for name, lines in document["processes"].items():
        for line in lines:
            sizes = (line[key] for key in ("head_bytes", "grown_bytes", "own_grown_bytes", "allowed_bytes"))
            rows.append([name, line["what"], str(line["cut"]), *(f"{size / 1e6:.1f}" for size in sizes)])
            rows[-1].append("yes" if line["within"] else "NO")
    return Table(f"{document['model']}: a device's process by its head (native)", header, rows).text()


def parser() -> argparse.ArgumentParser:
    p = new_parser(__doc__)
    p.add_argument("--model", default="vit_base_patch16_224")
    p.add_argument("--slices", type=int, default=4)
    p.add_argument("--switch", type=integers, default="1,3,1,4,2,4,0,4,1,2,1", help="cuts of the process that moves")
    p.add_argument("--out", type=Path, help="default: benchmarks/results/head-memory_MACHINE-CPUScpu_DATE.json")
    p.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    p.add_argument("--image", help=argparse.SUPPRESS)
    p.add_argument("--computes", action="store_true", help=argparse.SUPPRESS)
    return p


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    if args.child:
        child(args.child, args.switch, args.image, args.computes)
        return 0
    with tempfile.TemporaryDirectory(prefix="headtail-head-") as folder:
        shards, image = Path(folder) / "shards", str(Path(folder) / "image.png")
        pixels = np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8)
        Image.fromarray(pixels).save(image)
        export = [sys.executable, "-m", "slicer.cli", args.model, "--slices", str(args.slices), "--export", str(shards)]
        subprocess.run(export, check=True, capture_output=True, cwd=ROOT)
        processes = {f"joins with {cut}": run(shards, [cut], image, True) for cut in range(args.slices + 1)}
        processes["moves"] = run(shards, args.switch, image, False)
        processes["moves, computes"] = run(shards, args.switch, image, True)
    lines = [line for process in processes.values() for line in process]
    document = {
        "benchmark": "head_memory",
        "emulated": [],
        "model": args.model,
        "allowed": "bytes of the head's shards + 10 % + 32 MB; and what the first image took, after it",
        "within": all(line["within"] for line in lines),
        "most_beyond_head_bytes": {
            name: max(line["grown_bytes"] - line["head_bytes"] for line in process)
            for name, process in processes.items()
        },
        "processes": processes,
        "manifest": manifest(args, seeds=[0], without=("out", "child", "image", "computes")),
    }
    print(table(document))
    publish(document, args.out, f"head-memory_{machine()}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
