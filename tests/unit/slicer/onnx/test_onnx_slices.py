"""A model's slices as ONNX files: as exact as float32 allows at every boundary and batch, or refused by name."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx as onnx_library
import onnxruntime as ort
import pytest
import torch
from torch import nn

from slicer import onnx, shards, slice_model
from slicer.core.protocol.onnx_index import FILE, load_index
from slicer.errors import ConfigError, NotExportable, ShardError
from slicer.onnx import graph, make, quantized, runtime
from slicer.slicing.sliced_model import SlicedModel
from tests.paths import ROOT

HERE = f"{__name__}:" if "." in __name__ else "tests.unit.slicer.onnx.test_onnx_slices:"
VIT: dict[str, Any] = {"img_size": 32, "patch_size": 16, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 5}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("vit_tiny_patch16_224", VIT),
    "swin: windows, masks, merging": (
        "swin_tiny_patch4_window7_224",
        {"img_size": 16, "patch_size": 2, "embed_dim": 12, "window_size": 4, "num_classes": 5}
        | {"depths": [2, 1], "num_heads": [2, 4]},
    ),
    "eva02: rotary embedding": ("eva02_tiny_patch14_224", VIT),
}


def session(path: Path) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


class Export:
    """A model, and a folder that was made of it once."""

    def __init__(self, name: str, directory: Path) -> None:
        architecture, options = MODELS[name]
        self.name = name
        self.sliced = slice_model(architecture, 2, **options)
        self.directory = directory
        self.manifest, self.index = onnx.export(self.sliced, directory, int8=True)


#: Exporting one takes half a minute, so `make test` has the first.
_FIRST, *_OTHERS = MODELS


@pytest.fixture(scope="module", params=[_FIRST, *(pytest.param(name, marks=pytest.mark.long) for name in _OTHERS)])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Export:
    return Export(request.param, tmp_path_factory.mktemp("onnx"))


@torch.no_grad()
def test_each_slice_and_the_whole_chain_are_torchs_at_every_boundary_and_batch(exported: Export) -> None:
    sessions = [session(exported.directory / file.file) for file in exported.index.files(0, 2)]
    for batch in (1, 2, 3, 8, 13):
        wanted = torch.randn(batch, *exported.sliced.input_shape, generator=torch.Generator().manual_seed(batch))
        chained = wanted.numpy()
        for index, (part, run) in enumerate(zip(exported.index.slices, sessions, strict=True)):
            alone = run.run([part.output], {part.input: wanted.numpy()})[0]
            chained = run.run([part.output], {part.input: chained})[0]
            wanted = exported.sliced.span(index, index + 1)(wanted)
            scale = wanted.abs().max().item()
            assert alone.shape == chained.shape == (batch, *part.output_shape)
            np.testing.assert_allclose(alone, wanted.numpy(), rtol=0, atol=1e-5 * scale)
            np.testing.assert_allclose(chained, wanted.numpy(), rtol=0, atol=1e-5 * scale)


def test_int8_is_smaller_close_and_not_the_same(exported: Export) -> None:
    pixels = torch.randn(2, *exported.sliced.input_shape, generator=torch.Generator().manual_seed(1)).numpy()
    exact, small = pixels, pixels
    for part in exported.index.slices:
        assert part.int8 is not None and part.int8.sha256 != part.fp32.sha256
        assert part.fp32.max_difference <= 1e-5 < part.int8.max_difference < 0.1
        (exact,) = session(exported.directory / part.fp32.file).run([part.output], {part.input: exact})
        (small,) = session(exported.directory / part.int8.file).run([part.output], {part.input: small})
        assert 0 < np.abs(exact - small).max() < 0.1 * np.abs(exact).max()
    files = exported.index.files(0, 2), exported.index.files(0, 2, int8=True)
    assert sum(file.size_bytes for file in files[1]) < sum(file.size_bytes for file in files[0])


def test_the_index_says_what_lies_in_the_folder(exported: Export) -> None:
    directory, index = exported.directory, load_index(exported.directory)
    assert index == exported.index and index.opset == 18
    assert index.manifest == exported.manifest.digest == shards.load_manifest(directory).digest
    assert hashlib.sha256((directory / FILE).read_bytes()).hexdigest() == index.digest
    for file in index.all_files:
        data = (directory / file.file).read_bytes()
        assert (hashlib.sha256(data).hexdigest(), len(data)) == (file.sha256, file.size_bytes)
    assert [part.input for part in index.slices] == ["pixels", "activation"]
    assert {part.output for part in index.slices} == {"output"}
    shapes = [index.slices[0].input_shape, *(part.output_shape for part in index.slices)]
    assert shapes == [exported.sliced.shape_at(cut) for cut in range(3)]
    assert {path.name for path in directory.iterdir()} == {
        *(file.file for file in index.all_files),
        *(shard.file for shard in exported.manifest.shards),
        FILE,
        "manifest.json",
    }


def test_a_file_holds_onnxs_own_operators_a_free_batch_and_no_trace_of_this_machine(exported: Export) -> None:
    for file in exported.index.all_files:
        data = (exported.directory / file.file).read_bytes()
        model = onnx_library.load_from_string(data)
        assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"} and not model.functions
        assert model.ir_version <= 10 and ("", 18) in [(entry.domain, entry.version) for entry in model.opset_import]
        for (value,) in (model.graph.input, model.graph.output):
            assert value.type.tensor_type.shape.dim[0].dim_param == "batch"
        for word in (b".py", b"site-packages", str(ROOT).encode(), torch.__version__.encode(), b"stack_trace"):
            assert word not in data


def test_the_same_slice_gives_the_same_bytes(exported: Export) -> None:
    architecture, options = MODELS[exported.name]
    again = slice_model(architecture, 2, verify=False, **options)
    part = exported.index.slices[1]
    model = graph.build(again.span(1, 2), part.input_shape, part.input, part.output)
    for file, found in ((part.fp32, model), (part.int8, quantized.quantize(model))):
        assert file is not None
        assert hashlib.sha256(graph.to_bytes(found)).hexdigest() == file.sha256


class Block(nn.Module):
    """Exact in torch; as ONNX it is what `how` says."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.mix = how, nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.mix(x)
        if self.how == "no operator":
            return torch.special.bessel_j0(y)
        if self.how == "a loop over the batch":
            return torch.stack([row * 2 for row in y])
        return y


class Tower(nn.Module):
    def __init__(self, how: str = "") -> None:
        super().__init__()
        self.blocks = nn.Sequential(Block(""), Block(how))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.blocks(x)
        return y


def tower(how: str) -> SlicedModel:
    return slice_model(f"{HERE}Tower", "all", input_shape=(3, 2, 4), how=how)


def test_an_export_again_drops_what_the_new_index_does_not_name(tmp_path: Path) -> None:
    manifest, first = onnx.export(tower(""), tmp_path, int8=True)
    second = onnx.export_beside(tower(""), manifest, tmp_path)
    assert second.files(0, 2) == first.files(0, 2) and load_index(tmp_path) == second
    assert sorted(path.name for path in tmp_path.glob("*.onnx")) == ["slice_1.onnx", "slice_2.onnx"]
    with pytest.raises(ShardError, match="no int8 form; export with --int8"):
        second.files(0, 1, int8=True)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("no operator", r"DispatchError: No ONNX function found for .*bessel_j0"),
        ("a loop over the batch", r"ValueError: .*tracing inferred a static shape of 2"),
    ],
)
def test_what_cannot_be_exported_is_refused_with_model_slice_and_reason(how: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(NotExportable, match=rf"Tower: slice 2 of 2 \(blocks\.1\) cannot be an ONNX file: {says}"):
        onnx.export(tower(how), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_graph_that_holds_the_examples_batch_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = torch.onnx.export
    monkeypatch.setattr(
        torch.onnx, "export", lambda *args, **options: real(*args, **options | {"dynamic_shapes": None})
    )
    with pytest.raises(NotExportable, match=r"slice 1 of 2 .* its input has a batch of 2, which must be free"):
        onnx.export(tower(""), tmp_path / "out")


def test_a_graph_that_fails_on_other_batches_only_when_it_runs_is_refused(tmp_path: Path) -> None:
    inputs = [onnx_library.helper.make_tensor_value_info("pixels", 1, ["batch", 3, 2, 4])]
    outputs = [onnx_library.helper.make_tensor_value_info("output", 1, ["batch", 3, 2, 4])]
    shape = onnx_library.numpy_helper.from_array(np.array([2, 3, 2, 4]), "shape")
    node = onnx_library.helper.make_node("Reshape", ["pixels", "shape"], ["output"])
    opsets = [onnx_library.helper.make_opsetid("", graph.OPSET)]
    model = onnx_library.helper.make_model(
        onnx_library.helper.make_graph([node], "slice", inputs, outputs, [shape]), opset_imports=opsets, ir_version=10
    )
    with pytest.raises(graph.Reason, match="it does not take a batch of 1"):
        runtime.Chain(runtime.examples(tower(""))).step(0, model.SerializeToString())


def test_a_slice_that_is_not_exact_is_refused_and_an_older_export_stays(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    onnx.export(tower(""), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def off(*args: Any) -> onnx_library.ModelProto:
        model = graph.build(*args)
        for weights in model.graph.initializer:
            values = onnx_library.numpy_helper.to_array(weights)
            weights.CopyFrom(onnx_library.numpy_helper.from_array(values * np.float32(1.0001), weights.name))
        return model

    monkeypatch.setattr(make, "build", off)
    with pytest.raises(NotExportable, match=r"slice 1 of 2 .* differ from torch's by .*, where 1e-05 is allowed"):
        onnx.export(tower(""), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_other_dtypes_than_float32_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NotExportable, match=r"Tower has float16 weights; .* --dtype fp32"):
        onnx.export(slice_model(f"{HERE}Tower", 2, input_shape=(3, 2, 4), dtype="fp16"), tmp_path / "out")


def test_a_slice_too_large_for_a_file_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(make, "MAX_WEIGHT_BYTES", 10)
    with pytest.raises(NotExportable, match=r"slice 1 of 2 .* its weights have 80 bytes, .* cut into more slices"):
        onnx.export(tower(""), tmp_path / "out")


def test_without_the_extra_the_command_that_installs_it_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ConfigError, match=r"ONNX files need onnxscript .* pip install 'headtail\[onnx\]'"):
        onnx.export(tower(""), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("reference", "found", "said"),
    [
        ([[2.0, -4.0]], [[2.0, -4.0]], 0.0),
        ([[2.0, -4.0]], [[2.0, -3.0]], 0.25),
        ([[2.0, -4.0]], [[2.0, np.nan]], np.inf),
        ([[2.0, -4.0]], [[2.0], [-4.0]], np.inf),
        ([[0.0, 0.0]], [[0.0, 0.0]], 0.0),
    ],
)
def test_a_difference_is_the_largest_as_a_part_of_the_references_size(reference: Any, found: Any, said: float) -> None:
    assert runtime.difference(np.array(reference, np.float32), np.array(found, np.float32)) == said
