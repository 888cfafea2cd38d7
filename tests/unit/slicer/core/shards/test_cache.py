"""The shard cache: never above its limit, never a file in use lost, never a wrong byte handed out."""

from __future__ import annotations

import gc
import hashlib
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slicer import load_span, slice_model
from slicer.core.protocol.messages import ShardInfo
from slicer.core.shards.cache import Get, ShardCache
from slicer.core.shards.manifest import Manifest, load_manifest
from slicer.core.shards.spec import ModelSpec
from slicer.errors import CutError, ShardError
from slicer.shards.save import export


def model(*contents: bytes) -> tuple[Manifest, dict[str, bytes]]:
    """A manifest of slices with these bytes, and what a server would deliver for each."""
    shards = tuple(
        ShardInfo(f"slice_{i + 1}.safetensors", hashlib.sha256(content).hexdigest(), len(content))
        for i, content in enumerate(contents)
    )
    n = len(contents)
    boundaries = tuple(map(str, range(n - 1)))
    shapes, dtypes, axes = ((1,),) * (n + 1), ("float32",) * (n + 1), (0,) * (n + 1)
    manifest = Manifest(ModelSpec("any"), "2", "1", boundaries, shapes, dtypes, shards, ("0" * 64,) * n, axes)
    return manifest, {shard.sha256: content for shard, content in zip(shards, contents, strict=True)}


class Server:
    """Delivers shards in small pieces and remembers what was asked for."""

    def __init__(self, contents: dict[str, bytes]) -> None:
        self.contents = contents
        self.asked: list[str] = []

    def get(self, shard: ShardInfo) -> Iterator[bytes]:
        self.asked.append(shard.file)
        content = self.contents[shard.sha256]
        for start in range(0, len(content), 7):
            yield content[start : start + 7]


def stored(cache: ShardCache) -> int:
    return sum(path.stat().st_size for path in (cache.directory / "files").iterdir())


def forbidden(shard: ShardInfo) -> Iterable[bytes]:
    raise AssertionError(f"{shard.file} was fetched although it is here")


def test_a_fetched_span_is_its_manifest_and_its_files_and_nothing_else(tmp_path: Path) -> None:
    manifest, contents = model(b"one" * 9, b"two" * 9, b"three" * 9)
    directory = ShardCache(tmp_path, 1000).fetch(manifest, 1, 3, Server(contents).get)
    assert load_manifest(directory) == manifest
    names = sorted(path.name for path in directory.iterdir())
    assert names == ["manifest.json", "slice_2.safetensors", "slice_3.safetensors"]
    assert (directory / "slice_2.safetensors").read_bytes() == b"two" * 9


def test_load_span_works_from_the_cache(tmp_path: Path) -> None:
    sliced = slice_model("vit_tiny_patch16_224", 3, img_size=32, embed_dim=24, depth=3, num_heads=2)
    manifest = export(sliced, tmp_path / "server")
    cache = ShardCache(tmp_path / "cache", 10_000_000)
    span = cache.fetch(manifest, 0, 2, lambda shard: [(tmp_path / "server" / shard.file).read_bytes()])
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(load_span(span, 0, 2)(x), sliced.head(2)(x))


def test_what_is_here_is_not_fetched_again_and_spans_share_files(tmp_path: Path) -> None:
    manifest, contents = model(b"a" * 50, b"b" * 50)
    server = Server(contents)
    cache = ShardCache(tmp_path, 1000)
    cache.fetch(manifest, 0, 1, server.get)
    cache.fetch(manifest, 0, 2, server.get)
    ShardCache(tmp_path, 1000).fetch(manifest, 0, 2, forbidden)
    assert server.asked == ["slice_1.safetensors", "slice_2.safetensors"]
    assert cache.size_bytes() == stored(cache) == 100


def test_equal_slices_are_stored_once(tmp_path: Path) -> None:
    manifest, contents = model(b"same" * 10, b"same" * 10)
    server = Server(contents)
    cache = ShardCache(tmp_path, 40)
    directory = cache.fetch(manifest, 0, 2, server.get)
    assert len(server.asked) == 1 and stored(cache) == 40
    assert (directory / "slice_2.safetensors").read_bytes() == b"same" * 10


# Verification


def test_a_damaged_transfer_is_repeated_once(tmp_path: Path) -> None:
    manifest, _ = model(b"right" * 10)
    answers = [b"wrong" * 10, b"right" * 10]
    directory = ShardCache(tmp_path, 1000).fetch(manifest, 0, 1, lambda shard: [answers.pop(0)])
    assert (directory / "slice_1.safetensors").read_bytes() == b"right" * 10


@pytest.mark.parametrize(
    ("delivered", "says"),
    [(b"wrong" * 10, "sha256"), (b"right" * 9, "45 bytes instead of 50"), (b"right" * 11, "more than its 50 bytes")],
)
def test_a_shard_that_comes_damaged_twice_is_refused_and_leaves_nothing(
    tmp_path: Path, delivered: bytes, says: str
) -> None:
    manifest, _ = model(b"right" * 10)
    asked = []
    cache = ShardCache(tmp_path, 1000)
    with pytest.raises(ShardError, match=r"slice_1\.safetensors came damaged twice") as caught:
        cache.fetch(manifest, 0, 1, lambda shard: asked.append(shard) or [delivered])
    assert says in str(caught.value)
    assert len(asked) == 2 and stored(cache) == 0


def test_an_endless_delivery_is_cut_off(tmp_path: Path) -> None:
    manifest, _ = model(b"right" * 10)

    def endless(shard: ShardInfo) -> Iterator[bytes]:
        while True:
            yield b"x" * 1000

    with pytest.raises(ShardError, match="more than its 50 bytes"):
        ShardCache(tmp_path, 1000).fetch(manifest, 0, 1, endless)


def test_a_file_that_was_damaged_on_disk_is_fetched_again(tmp_path: Path) -> None:
    manifest, contents = model(b"right" * 10)
    cache = ShardCache(tmp_path, 1000)
    directory = cache.fetch(manifest, 0, 1, Server(contents).get)
    (directory / "slice_1.safetensors").resolve().write_bytes(b"wrong" * 10)
    cache.fetch(manifest, 0, 1, Server(contents).get)
    assert (directory / "slice_1.safetensors").read_bytes() == b"right" * 10


def test_what_the_source_raises_passes_through_and_leaves_nothing(tmp_path: Path) -> None:
    manifest, contents = model(b"right" * 10)
    cache = ShardCache(tmp_path, 50)

    def gone(shard: ShardInfo) -> Iterator[bytes]:
        yield b"righ"
        raise ConnectionError("server gone")

    with pytest.raises(ConnectionError, match="server gone"):
        cache.fetch(manifest, 0, 1, gone)
    assert stored(cache) == 0
    cache.fetch(manifest, 0, 1, Server(contents).get)


# The limit


def one_file(letter: str, size: int = 40) -> tuple[Manifest, Get]:
    manifest, contents = model(letter.encode() * size)
    return manifest, Server(contents).get


def test_the_least_recently_used_leaves_first(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, 100)
    a, b, c = (one_file(letter) for letter in "abc")
    for manifest, get in (a, b, a):  # a was used last
        cache.release(cache.fetch(manifest, 0, 1, get))
        _age(tmp_path)
    cache.fetch(c[0], 0, 1, c[1])
    assert stored(cache) == 80
    cache.fetch(a[0], 0, 1, forbidden)
    with pytest.raises(ShardError, match="is full"):  # b left, and a and c are in use
        cache.fetch(b[0], 0, 1, b[1])


def _age(tmp_path: Path) -> None:
    """Let a second pass for every file, without waiting for it."""
    for path in (tmp_path / "files").iterdir():
        stamp = path.stat().st_mtime_ns - 10**9
        os.utime(path, ns=(stamp, stamp))


def test_a_span_larger_than_the_cache_is_refused_before_anything_is_fetched(tmp_path: Path) -> None:
    manifest, _ = model(b"a" * 60, b"b" * 60)
    with pytest.raises(ShardError, match=r"span 0:2 of any has 120 bytes.*holds 100; raise its limit"):
        ShardCache(tmp_path, 100).fetch(manifest, 0, 2, forbidden)


def test_spans_in_use_never_leave(tmp_path: Path) -> None:
    first, second = ShardCache(tmp_path, 100), ShardCache(tmp_path, 100)
    a, b = one_file("a", 60), one_file("b", 60)
    held = first.fetch(a[0], 0, 1, a[1])
    with pytest.raises(ShardError, match="60 of 100 bytes are in use"):
        second.fetch(b[0], 0, 1, b[1])
    assert (held / "slice_1.safetensors").read_bytes() == b"a" * 60
    first.release(held)
    second.fetch(b[0], 0, 1, b[1])
    assert not held.exists() and stored(first) == 60


def test_a_span_fetched_twice_is_in_use_until_it_was_released_twice(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, 100)
    a, b = one_file("a", 60), one_file("b", 60)
    for _ in range(2):
        held = cache.fetch(a[0], 0, 1, a[1])
    cache.release(held)
    with pytest.raises(ShardError, match="in use"):
        cache.fetch(b[0], 0, 1, b[1])
    cache.release(held)
    cache.fetch(b[0], 0, 1, b[1])


@pytest.mark.parametrize("end", ["close", "forget"])
def test_a_closed_or_forgotten_cache_uses_nothing(tmp_path: Path, end: str) -> None:
    first = ShardCache(tmp_path, 100)
    a, b = one_file("a", 60), one_file("b", 60)
    first.fetch(a[0], 0, 1, a[1])
    if end == "close":
        first.close()
    else:
        del first
        gc.collect()
    ShardCache(tmp_path, 100).fetch(b[0], 0, 1, b[1])


def test_a_failed_fetch_holds_nothing(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, 100)
    a, b = one_file("a", 60), one_file("b", 60)
    cache.release(cache.fetch(a[0], 0, 1, a[1]))
    with pytest.raises(ShardError, match="damaged"):
        cache.fetch(b[0], 0, 1, lambda shard: [b"nonsense"])
    cache.fetch(b[0], 0, 1, b[1])


def test_the_limit_must_be_positive_and_the_span_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="max_bytes=0"):
        ShardCache(tmp_path, 0)
    with pytest.raises(CutError, match="0:2"):
        ShardCache(tmp_path, 10).fetch(model(b"a")[0], 0, 2, forbidden)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.lists(st.integers(1, 60), min_size=1, max_size=4), min_size=1, max_size=4),
    steps=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(1, 4), st.booleans()), max_size=20),
)
def test_whatever_is_fetched_and_released_the_limit_holds_and_what_is_held_is_right(
    sizes: list[list[int]], steps: list[tuple[int, int, int, bool]]
) -> None:
    models = [model(*(bytes([m * 16 + i]) * size for i, size in enumerate(shards))) for m, shards in enumerate(sizes)]
    held: list[tuple[Path, Manifest, int, int]] = []
    with tempfile.TemporaryDirectory() as folder:
        cache = ShardCache(folder, 120)
        for which, start, length, release in steps:
            if release and held:
                cache.release(held.pop(0)[0])
                continue
            manifest, contents = models[which % len(models)]
            start %= manifest.num_slices
            end = min(start + length, manifest.num_slices)
            try:
                held.append((cache.fetch(manifest, start, end, Server(contents).get), manifest, start, end))
            except ShardError:
                in_use = {s.sha256: s.size_bytes for _, m, a, b in held for s in m.shards[a:b]}
                wanted = {s.sha256: s.size_bytes for s in manifest.shards[start:end]}
                assert sum({**in_use, **wanted}.values()) > 120, "refused although there was room"
            assert stored(cache) <= 120
            for span, owner, a, b in held:
                for shard in owner.shards[a:b]:
                    content = (span / shard.file).read_bytes()
                    assert hashlib.sha256(content).hexdigest() == shard.sha256
        cache.close()


# Several processes


def test_several_that_want_the_same_fetch_it_once(tmp_path: Path) -> None:
    manifest, contents = model(b"a" * 70)
    server = Server(contents)
    begun, proceed = threading.Event(), threading.Event()

    def slow(shard: ShardInfo) -> Iterator[bytes]:
        begun.set()
        assert proceed.wait(60)
        yield from server.get(shard)

    found: list[Path] = []
    # Each has a cache object of its own, as each process would: the kernel's locks do not know threads.
    caches = [ShardCache(tmp_path, 100) for _ in range(4)]
    threads = [threading.Thread(target=lambda c=c: found.append(c.fetch(manifest, 0, 1, slow))) for c in caches]
    for thread in threads:
        thread.start()
    assert begun.wait(60)
    proceed.set()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and len(server.asked) == 1
    assert stored(caches[0]) == 70


HOLD = """
import sys
from pathlib import Path
from slicer.core.shards.cache import ShardCache
from slicer.core.shards.manifest import load_manifest

cache = ShardCache(sys.argv[1], 100)
cache.fetch(load_manifest(sys.argv[2]), 0, 1, lambda shard: [b"a" * 60])
print("held", flush=True)
sys.stdin.read()
"""


def test_a_span_held_by_another_process_stays_until_that_process_is_gone(tmp_path: Path) -> None:
    manifest, _ = model(b"a" * 60)
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "manifest.json").write_text(manifest.to_json())
    b = one_file("b", 60)
    cache = ShardCache(tmp_path / "cache", 100)
    command = [sys.executable, "-c", HOLD, str(tmp_path / "cache"), str(tmp_path / "m")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ShardError, match="in use"):
            cache.fetch(b[0], 0, 1, b[1])
        other.kill()
    cache.fetch(b[0], 0, 1, b[1])


def test_what_a_dead_process_had_half_fetched_is_removed_when_room_is_needed(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, 100)
    (tmp_path / "files" / f"{'0' * 64}.part").write_bytes(b"x" * 90)
    a = one_file("a", 60)
    cache.fetch(a[0], 0, 1, a[1])
    assert stored(cache) == 60
