"""A model's slices as files: what is loaded is exactly what was exported, or it is refused by name."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from slicer import load_span, slice_model
from slicer.core.shards.manifest import FILE, Manifest, load_manifest
from slicer.errors import CutError, ShardError
from slicer.models import zoo
from slicer.shards import tensor_file
from slicer.shards.load import load_sliced
from slicer.shards.save import export
from slicer.slicing.slice_model import SlicedModel, slice_spec

VIT: dict[str, Any] = {"img_size": 32, "patch_size": 16, "embed_dim": 24, "depth": 3, "num_heads": 2, "num_classes": 5}
SWIN: dict[str, Any] = {"img_size": 32, "patch_size": 2, "embed_dim": 12, "window_size": 4, "num_classes": 5}

#: One model of every kind of state that is not in a state_dict, or shared, or oddly typed.
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("vit_tiny_patch16_224", VIT),
    "deit distilled: two classifiers": ("deit_tiny_distilled_patch16_224", VIT),
    "swin: attn_mask and position index": (
        "swin_tiny_patch4_window7_224",
        {**SWIN, "depths": [2, 2], "num_heads": [2, 4]},
    ),
    "swinv2: tables made when built": ("swinv2_tiny_window8_256", {**SWIN, "depths": [2, 2], "num_heads": [2, 4]}),
    "eva02: rotary embedding": ("eva02_tiny_patch14_224", {**VIT, "patch_size": 16, "num_heads": 2, "embed_dim": 24}),
    "dinov3: rotary embedding by periods": ("vit_small_patch16_dinov3", {**VIT, "num_heads": 3, "embed_dim": 48}),
    "beit: position index": ("beit_base_patch16_224", VIT),
    "cait: class attention": ("cait_xxs24_224", VIT),
    "own module that cannot be built on meta": ("shards_test_own:picky", {"offset": 2}),
    "own module": ("shards_test_own:tower", {"width": 6}),
}

OWN = '''
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self, width, offset):
        super().__init__()
        self.mix = nn.Conv2d(width, width, 3, padding=1)
        self.scale = torch.linspace(0.5, 1.5, width).reshape(-1, 1, 1) + offset    # neither parameter nor buffer
        self.register_buffer("shift", torch.arange(width).float().reshape(-1, 1, 1), persistent=False)

    def forward(self, x):
        return self.mix(x).relu() * self.scale + self.shift

class Tower(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 4, stride=4)
        self.blocks = nn.Sequential(*(Block(width, i) for i in range(3)))
        self.head = nn.Linear(width, 2)
        self.unused = nn.Parameter(torch.ones(7))

    def forward(self, x):
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))

def wide():
    """80 MB in 20 blocks of a million weights."""
    model = Tower(3)
    model.stem = nn.Conv2d(3, 1024, 4, stride=4)
    model.blocks = nn.Sequential(*(Wide() for _ in range(20)))
    model.head = nn.Linear(1024, 2)
    model.input_shape = (3, 4, 4)
    return model

class Wide(nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = nn.Conv2d(1024, 1024, 1)

    def forward(self, x):
        return self.mix(x)

class Picky(Tower):
    """Looks at values while it is built and while it runs, so it can be neither built nor traced on meta."""

    def __init__(self, offset):
        super().__init__(6)
        self.gain = float(torch.linspace(0, 1, 3)[1]) + offset
        self.register_buffer("sign", torch.tensor(-1.0), persistent=False)

    def forward(self, x):
        return super().forward(x) * (self.gain if self.sign < 0 else 0.0)

def picky(offset):
    model = Picky(offset)
    model.input_shape = (3, 16, 16)
    return model

def tower(width):
    model = Tower(width)
    model.input_shape = (3, 16, 16)
    return model
'''


@pytest.fixture(scope="module", autouse=True)
def own(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("own")
    (folder / "shards_test_own.py").write_text(OWN)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield folder


def small(seed: int = 0, num_slices: int = 3) -> SlicedModel:
    return slice_model("vit_tiny_patch16_224", num_slices, seed=seed, **VIT)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, own: Any) -> tuple[SlicedModel, Path]:
    sliced = small()
    directory = tmp_path_factory.mktemp("exported") / "shards"
    export(sliced, directory)
    return sliced, directory


@pytest.fixture
def copy(exported: tuple[SlicedModel, Path], tmp_path: Path) -> Path:
    target = tmp_path / "copy"
    target.mkdir()
    for file in exported[1].iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


# What is loaded is what was exported


@pytest.mark.parametrize("kind", MODELS)
def test_every_span_gives_the_very_same_bits(kind: str, tmp_path: Path) -> None:
    name, kwargs = MODELS[kind]
    sliced = slice_model(name, 3, **kwargs)
    export(sliced, tmp_path)
    n = sliced.num_slices
    x = torch.randn(2, *sliced.input_shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        activations = [x]
        for index in range(n):
            activations.append(sliced.span(index, index + 1)(activations[-1]))
        for start in range(n + 1):
            for end in range(start, n + 1):
                loaded = load_span(tmp_path, start, end)
                assert torch.equal(loaded(activations[start]), activations[end]), f"span {start}:{end}"
                assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
        whole = load_sliced(tmp_path)
        assert torch.equal(whole.module(x), sliced.module(x))
        assert torch.equal(whole.tail(2)(whole.head(2)(x)), activations[-1])
    assert [cut.name for cut in whole.cuts] == [cut.name for cut in sliced.cuts]


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_half_precision_stays_what_it_is(dtype: str, tmp_path: Path) -> None:
    sliced = slice_model("vit_tiny_patch16_224", 2, dtype=dtype, **VIT)
    manifest = export(sliced, tmp_path)
    head = load_span(tmp_path, 0, 1)
    assert {p.dtype for p in head.parameters()} == {zoo.DTYPES[dtype]}
    x = torch.randn(1, 3, 32, 32).to(zoo.DTYPES[dtype])
    assert torch.equal(head(x), sliced.head(1)(x))
    assert set(manifest.dtypes) == {str(zoo.DTYPES[dtype]).removeprefix("torch.")}


def test_a_whole_model_loaded_from_shards_can_be_exported_again_and_is_the_same(
    exported: tuple[SlicedModel, Path], tmp_path: Path
) -> None:
    assert export(load_sliced(exported[1]), tmp_path) == load_manifest(exported[1])


def test_nothing_of_a_loaded_model_stays_on_meta(tmp_path: Path) -> None:
    export(slice_model("shards_test_own:tower", 2, width=6), tmp_path)
    module = load_sliced(tmp_path).module
    assert not any(tensor.is_meta for tensor in [*module.parameters(), *module.buffers()])


def test_only_the_files_of_the_span_are_opened(copy: Path, exported: tuple[SlicedModel, Path]) -> None:
    (copy / "slice_1.safetensors").unlink()
    (copy / "slice_3.safetensors").unlink()
    x = torch.randn(1, *exported[0].shape_at(1))
    assert torch.equal(load_span(copy, 1, 2)(x), exported[0].span(1, 2)(x))
    with pytest.raises(ShardError, match=r"slice_3\.safetensors"):
        load_span(copy, 1, 3)


def test_loaded_weights_are_memory_of_their_own(copy: Path) -> None:
    span = load_span(copy, 0, 1)
    before = [p.clone() for p in span.parameters()]
    for file in copy.glob("*.safetensors"):  # a mapped file would change under the weights
        with file.open("r+b") as handle:
            handle.seek(-64, 2)
            handle.write(b"\xff" * 64)
    assert all(torch.equal(a, b) for a, b in zip(before, span.parameters(), strict=True))


def test_spans_can_be_loaded_inside_inference_mode_and_by_several_threads(copy: Path) -> None:
    results: list[nn.Module] = []

    def load() -> None:
        with torch.inference_mode():
            results.append(load_span(copy, 0, 2))

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    x = torch.randn(1, 3, 32, 32)
    assert len(results) == 3
    assert all(torch.equal(module(x), results[0](x)) for module in results)


@pytest.mark.parametrize(("start", "end"), [(2, 1), (0, 4), (-1, 1), (4, 4)])
def test_a_span_that_the_export_lacks_is_refused(copy: Path, start: int, end: int) -> None:
    with pytest.raises(CutError, match=f"{start}:{end}"):
        load_span(copy, start, end)


# The manifest


def test_the_digest_follows_from_the_content_and_nothing_else(tmp_path: Path, own: Any) -> None:
    first = export(small(), tmp_path / "a")
    assert export(small(), tmp_path / "b" / "deep").digest == first.digest
    for file in first.shards:
        assert (tmp_path / "a" / file.file).read_bytes() == (tmp_path / "b" / "deep" / file.file).read_bytes()
    assert export(small(seed=1), tmp_path / "c").digest != first.digest
    assert export(small(num_slices=2), tmp_path / "d").digest != first.digest


def test_where_the_checkpoint_lay_does_not_matter(tmp_path: Path) -> None:
    digests = set()
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        file = tmp_path / folder / "weights.pth"
        torch.save(small().module.state_dict(), file)
        sliced = slice_spec(zoo.resolve("vit_tiny_patch16_224", kwargs=VIT, checkpoint=str(file)), 3)
        manifest = export(sliced, tmp_path / folder / "out")
        assert "weights.pth" not in manifest.to_json() and manifest.spec.checkpoint is None
        digests.add(manifest.digest)
    assert len(digests) == 1


def test_a_manifest_says_what_is_in_it(exported: tuple[SlicedModel, Path]) -> None:
    sliced, directory = exported
    manifest = load_manifest(directory)
    assert manifest.spec == sliced.spec
    assert manifest.boundaries == ("blocks.0", "blocks.1")
    assert manifest.shapes == tuple(sliced.shape_at(cut) for cut in range(4))
    assert manifest.dtypes == ("float32",) * 4
    assert [shard.file for shard in manifest.shards] == [f"slice_{i}.safetensors" for i in (1, 2, 3)]
    assert [shard.size_bytes for shard in manifest.shards] == [
        (directory / shard.file).stat().st_size for shard in manifest.shards
    ]
    assert manifest.num_slices == 3
    assert Manifest.from_json(manifest.to_json()) == manifest


def test_an_input_shape_that_was_given_while_slicing_is_what_devices_preprocess_to(tmp_path: Path) -> None:
    manifest = export(slice_model("shards_test_own:tower", 2, input_shape=(3, 16, 24), width=6), tmp_path)
    assert manifest.shapes[0] == (3, 16, 24)
    assert zoo.data_config(manifest.spec)["input_size"] == (3, 16, 24)
    assert load_sliced(tmp_path).spec == manifest.spec


def edited(text: str, **changes: Any) -> str:
    document = json.loads(text)
    for path, value in changes.items():
        place = document
        *parents, last = path.split("__")
        for key in parents:
            place = place[int(key) if key.isdigit() else key]
        place[int(last) if last.isdigit() else last] = value
    return json.dumps(document)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "",
        lambda text: "[]",
        lambda text: text[:-40],
        lambda text: "[" * 100_000,
        lambda text: edited(text, format=1),
        lambda text: edited(text, programs=[]),
        lambda text: edited(text, programs__0="none"),
        lambda text: edited(text, reads=[["only one"]]),
        lambda text: edited(text, surprise=1),
        lambda text: edited(text, shards=[]),
        lambda text: edited(text, boundaries=["blocks.0"]),
        lambda text: edited(text, shards__0__file="../../etc/passwd"),
        lambda text: edited(text, shards__0__file="slice_2.safetensors"),
        lambda text: edited(text, shards__0__sha256="0"),
        lambda text: edited(text, shards__0__size_bytes=-1),
        lambda text: edited(text, spec__unknown=1),
        lambda text: edited(text, shapes=3),
    ],
)
def test_a_damaged_manifest_is_refused_by_name(copy: Path, change: Callable[[str], str]) -> None:
    (copy / FILE).write_text(change((copy / FILE).read_text()))
    with pytest.raises(ShardError, match=rf"copy/{re.escape(FILE)} is no valid manifest"):
        load_span(copy, 0, 1)


def test_an_export_without_manifest_is_no_export(copy: Path) -> None:
    (copy / FILE).unlink()
    with pytest.raises(ShardError, match="run it again"):
        load_span(copy, 0, 1)


# Damaged and foreign files


def refuse(directory: Path, says: str) -> None:
    for load in (lambda: load_span(directory, 1, 2), lambda: load_sliced(directory)):
        with pytest.raises(ShardError) as caught:
            load()
        assert "slice_2.safetensors" in str(caught.value) and says in str(caught.value)
        assert "export the model again" in str(caught.value)


def test_a_missing_shard_is_refused(copy: Path) -> None:
    (copy / "slice_2.safetensors").unlink()
    refuse(copy, "No such file")


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_a_truncated_shard_is_refused(copy: Path, keep: int) -> None:
    file = copy / "slice_2.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    refuse(copy, "truncated")


def test_a_longer_shard_is_refused(copy: Path) -> None:
    with (copy / "slice_2.safetensors").open("ab") as file:
        file.write(b"x")
    refuse(copy, "not the exported file")


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_any_altered_byte_is_noticed(copy: Path, where: float, flip: int) -> None:
    shard = load_manifest(copy).shards[1]
    content = bytearray((copy / shard.file).read_bytes())
    content[int(where * len(content))] ^= flip
    bad = copy / "bad.safetensors"
    bad.write_bytes(content)
    with pytest.raises(ShardError, match=r"bad\.safetensors was altered or belongs to another export"):
        tensor_file.read(bad, shard)


def test_the_shard_of_another_export_is_refused(copy: Path, tmp_path: Path) -> None:
    export(small(seed=1), tmp_path / "other")  # same shapes, so the same sizes
    (copy / "slice_2.safetensors").write_bytes((tmp_path / "other" / "slice_2.safetensors").read_bytes())
    refuse(copy, "altered or belongs to another export")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"spec__kwargs__embed_dim": 30}, "activations have shapes"),
        ({"spec__kwargs__num_classes": 6}, "activations have shapes"),
        ({"spec__kwargs__qkv_bias": False}, r"attn\.qkv\.bias is left over in the shards"),
        ({"spec__kwargs__qk_norm": True}, r"is missing in the shards"),
        ({"spec__kwargs__mlp_ratio": 2}, r"in the shards and torch\.float32"),
        ({"boundaries__0": "layers.9"}, r"layers\.9.*is no boundary"),
        ({"spec__architecture": "vit_of_the_future"}, "Unknown model"),
    ],
)
def test_a_timm_that_builds_another_model_is_noticed(copy: Path, changes: dict[str, Any], says: str) -> None:
    (copy / FILE).write_text(edited((copy / FILE).read_text(), **changes, timm="9.9"))
    for load in (lambda: load_span(copy, 1, 2), lambda: load_sliced(copy)):
        with pytest.raises(ShardError, match=says) as caught:
            load()
        assert "exported with timm 9.9" in str(caught.value)


# Exporting


def test_a_module_without_a_name_is_refused_with_the_remedy(tmp_path: Path) -> None:
    sliced = slice_model(small().module, 2)
    with pytest.raises(ShardError, match=r"package\.module:function"):
        export(sliced, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_export_that_is_there_is_kept_and_damaged_files_are_replaced(copy: Path) -> None:
    good = (copy / "slice_1.safetensors").stat().st_ino
    (copy / "slice_2.safetensors").write_bytes(b"damaged")
    export(small(), copy)
    load_sliced(copy)
    assert (copy / "slice_1.safetensors").stat().st_ino == good


def test_another_export_is_never_overwritten(copy: Path) -> None:
    before = {file.name: file.read_bytes() for file in copy.iterdir()}
    with pytest.raises(ShardError, match="holds another export"):
        export(small(seed=1), copy)
    assert {file.name: file.read_bytes() for file in copy.iterdir()} == before


def test_an_interrupted_export_is_no_export_and_can_be_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = tensor_file.write

    def stop_at_the_third(path: Path, tensors: Any) -> None:
        if path.name == "slice_3.safetensors":
            raise KeyboardInterrupt
        original(path, tensors)

    monkeypatch.setattr(tensor_file, "write", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        export(small(), tmp_path)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    export(small(), tmp_path)
    load_sliced(tmp_path)


def test_several_may_export_the_same_at_once(tmp_path: Path) -> None:
    digests: list[str] = []
    models = [small() for _ in range(3)]
    threads = [threading.Thread(target=lambda m=m: digests.append(export(m, tmp_path / "x").digest)) for m in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(digests) == 3 and len(set(digests)) == 1
    load_sliced(tmp_path / "x")
    names = sorted(path.name for path in (tmp_path / "x").iterdir())
    assert names == [FILE, "slice_1.safetensors", "slice_2.safetensors", "slice_3.safetensors"]


def test_a_directory_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ShardError, match="can be written"):
        export(small(), tmp_path / "file" / "x")


def test_a_tensor_type_that_the_files_lack_is_refused_by_name(tmp_path: Path) -> None:
    sliced = slice_model("vit_tiny_patch16_224", 2, **VIT)
    sliced.module.norm.weight = nn.Parameter(torch.zeros(24, dtype=torch.complex128), requires_grad=False)
    broken = replace(sliced.spec) if sliced.spec else None
    assert broken is not None
    with pytest.raises(ShardError, match=r"norm\.weight \(torch\.complex128\)"):
        export(sliced, tmp_path)


# Memory

MEASURE = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from slicer.shards import load_manifest, load_span

def status(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))

warm, directory, start, end = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
load_span(warm, 0, 1)                                  # imports and code paths, with a tiny model
Path("/proc/self/clear_refs").write_text("5")          # forget the peak so far
before = status("VmRSS")
span = load_span(directory, start, end)
print(status("VmHWM") - before, sum(s.size_bytes for s in load_manifest(directory).shards[start:end]))
"""


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory, own: Path) -> Path:
    """20 MB per slice: holding the whole model for one slice, or three slices twice, would break the bound."""
    directory = tmp_path_factory.mktemp("wide")
    export(slice_model("shards_test_own:wide", 4, verify=False), directory)
    return directory


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux to reset the peak")
@pytest.mark.parametrize(("start", "end"), [(0, 1), (1, 4)])
def test_loading_takes_no_more_memory_than_the_files(
    wide: Path, exported: tuple[SlicedModel, Path], own: Path, start: int, end: int
) -> None:
    command = [sys.executable, "-c", MEASURE, str(exported[1]), str(wide), str(start), str(end)]
    path = os.pathsep.join([str(own), *sys.path])
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, env={**os.environ, "PYTHONPATH": path}, check=True
    )
    grown, files = map(int, done.stdout.split())
    assert files == pytest.approx(21e6 * (end - start), rel=0.1)
    assert grown <= 1.1 * files + 32e6


def test_the_package_offers_its_functions_whatever_was_imported_before() -> None:
    import slicer
    import slicer.shards.load
    import slicer.shards.save

    for name in slicer.shards.__all__:
        assert callable(getattr(slicer.shards, name))
    assert slicer.shards.export is export and slicer.shards.load_span is slicer.load_span
