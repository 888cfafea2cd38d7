"""`headtail slice`: what it prints, what it writes, and how it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from slicer import load_span, slice_model
from slicer.cli.slice_command import PLAN_FLAGS, command, main
from slicer.common import command_line
from slicer.core.protocol.onnx_index import load_index
from slicer.core.shards.manifest import load_manifest
from tests.paths import ROOT

TINY = '{"img_size": 32, "embed_dim": 24, "depth": 4, "num_heads": 2}'


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(arguments) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def test_the_table_says_what_every_slice_costs(capsys: pytest.CaptureFixture[str]) -> None:
    lines = run(capsys, "digits_vit").splitlines()
    assert lines[0].startswith("digits_vit: 4 slices, 17 boundaries, input 3x32x32, 44.2 MFLOPs per image")
    assert lines[0].endswith("weights from digits_vit.safetensors")
    columns = ["slice", "units", "parameters", "weights", "FLOPs", "share", "activation", "out", "fp32", "fp16", "int8"]
    assert lines[2].split() == columns
    assert lines[3].split() == ["input", "3x32x32", "12.3", "kB", "6.14", "kB", "3.07", "kB"]
    # 16 tokens of width 96: 1536 numbers of 4, 2 and 1 bytes. Three blocks of 112,032 parameters hold 336 k.
    cost = ["S2", "blocks.3-5", "336", "k", "1.34", "MB", "10.9", "M", "25%"]
    assert lines[5].split() == [*cost, "16x96", "6.14", "kB", "3.07", "kB", "1.54", "kB"]
    assert lines[7].startswith("S4     blocks.9-11")


def test_json_holds_the_same_in_exact_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    document = json.loads(run(capsys, "digits_swin", "--slices", "3", "--json"))
    sliced = slice_model("digits_swin", 3)
    assert document["num_slices"] == 3 and document["input_shape"] == [3, 32, 32]
    assert document["cuts"] == [cut.name for cut in sliced.cuts]
    for row, part in zip(document["slices"], sliced.slices, strict=True):
        assert row["slice"] == f"S{part.index + 1}"
        assert (row["units"], row["shape_out"]) == (list(part.units), list(part.shape))
        assert (row["parameters"], row["weight_bytes"], row["flops"]) == (
            part.parameters,
            part.weight_bytes,
            part.flops,
        )
    assert document["slices"][-1]["activation_bytes"] == {"fp32": 40, "fp16": 20, "int8": 10}


def test_at_cuts_after_blocks_and_named_boundaries(capsys: pytest.CaptureFixture[str]) -> None:
    document = json.loads(run(capsys, "vit_tiny_patch16_224", "--kwargs", TINY, "--at", "0,norm", "--json"))
    assert document["cuts"] == ["blocks.0", "norm"]


def test_all_slices_at_every_boundary(capsys: pytest.CaptureFixture[str]) -> None:
    document = json.loads(run(capsys, "vit_tiny_patch16_224", "--kwargs", TINY, "--slices", "all", "--json"))
    assert document["num_slices"] == document["boundaries"] + 1


def test_boundaries_lists_every_place_to_cut(capsys: pytest.CaptureFixture[str]) -> None:
    lines = run(capsys, "vit_tiny_patch16_224", "--kwargs", TINY, "--boundaries").splitlines()
    assert lines[0].startswith(f"vit_tiny_patch16_224: {len(lines) - 3} boundaries; --at takes")
    assert ["blocks.1", "1", "5x24", "480", "B", "240", "B", "120", "B"] in [line.split() for line in lines]


def test_img_size_and_dtype_reach_the_model(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("vit_tiny_patch16_224", "--kwargs", TINY, "--img-size", "64", "--json")
    wide = json.loads(run(capsys, *arguments))
    half = json.loads(run(capsys, *arguments, "--dtype", "fp16"))
    assert wide["input_shape"] == [3, 64, 64]
    assert 2 * half["slices"][0]["weight_bytes"] == wide["slices"][0]["weight_bytes"]


def test_export_writes_shards_that_load_span_takes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = run(capsys, "digits_vit", "--slices", "2", "--export", str(tmp_path / "shards"))
    manifest = load_manifest(tmp_path / "shards")
    assert f"to {tmp_path / 'shards'}, manifest {manifest.digest[:12]}" in out.splitlines()[-1]
    load_span(tmp_path / "shards", 0, 1)


def test_an_export_has_the_labels_that_are_given_or_known_and_its_digest_has_not(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    shards = tmp_path / "shards"
    run(capsys, "digits_vit", "--slices", "2", "--export", str(shards))
    assert json.loads((shards / "labels.json").read_text()) == list("0123456789")
    digest = load_manifest(shards).digest
    (tmp_path / "own.txt").write_text("\n".join("abcdefghij"))
    run(capsys, "digits_vit", "--slices", "2", "--export", str(shards), "--labels", str(tmp_path / "own.txt"))
    assert json.loads((shards / "labels.json").read_text()) == list("abcdefghij")
    assert load_manifest(shards).digest == digest, "devices go on with their heads"
    run(capsys, "vit_tiny_patch16_224", "--kwargs", TINY, "--export", str(tmp_path / "random"))
    assert not (tmp_path / "random" / "labels.json").exists()


def test_json_names_the_export(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    document = json.loads(run(capsys, "digits_vit", "--json", "--export", str(tmp_path / "shards")))
    manifest = load_manifest(tmp_path / "shards")
    assert document["export"]["manifest"] == manifest.digest
    assert document["export"]["files"] == {shard.file: shard.size_bytes for shard in manifest.shards}


def test_onnx_files_lie_beside_the_shards_and_the_report_names_them(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    small = '{"img_size": 32, "embed_dim": 24, "depth": 1, "num_heads": 2}'
    arguments = ("vit_tiny_patch16_224", "--kwargs", small, "--slices", "1", "--format", "onnx", "--int8")
    document = json.loads(run(capsys, *arguments, "--export", str(tmp_path), "--json"))
    index = load_index(tmp_path)
    assert document["export"]["onnx"] == index.digest
    assert index.manifest == document["export"]["manifest"] == load_manifest(tmp_path).digest
    assert document["export"]["files"].keys() == {"slice_1.safetensors", "slice_1.onnx", "slice_1.int8.onnx"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["digits_vit", "--format", "onnx"], "--format onnx is for the files of an export; give --export DIR"),
        (["digits_vit", "--export", "x", "--int8"], "--int8 is for ONNX files; give --export DIR --format onnx"),
        (["vit_tinyy_patch16_224"], "did you mean vit_tiny_patch16_224"),
        (["digits_vit", "--slices", "99"], "cut into 1 to 18 slices"),
        (["digits_vit", "--at", "99"], "at=99 is no boundary"),
        (["digits_vit", "--at", "5,2"], "does not come after"),
        (["digits_vit", "--checkpoint", "absent.pth"], "no such file"),
        (["no_such_module:model"], "cannot import no_such_module"),
        (["vit_tiny_patch16_224", "--kwargs", '{"wings": 2}'], "wings"),
        (["digits_vit", "--export", "/dev/null/x"], "can be written"),
        (["digits_vit", "--slices", "2", "--at", "3"], "--slices 2: --at says where to cut"),
        (["digits_vit", "--slices", "4", "--at", "3"], "--slices 4: --at says where to cut"),
        (["digits_vit", "--boundaries", "--at", "3"], "--at: --boundaries lists every place"),
        (["digits_vit", "--boundaries", "--export", "x"], "--boundaries and --export: one at a time"),
        (["digits_vit", "--plan", "x", "--profile", "y"], "--profile and --plan: one at a time"),
        (["digits_vit", "--batches", "1,2"], "--batches is for measuring; give --profile FILE"),
        (["digits_vit", "--labels", "x.txt"], "--labels is for the files of an export; give --export DIR"),
        (["digits_vit", "--export", "x", "--labels", "absent.txt"], "absent.txt: there is no such file"),
        (["digits_vit", "--threads", "1", "--export", "x"], "--threads is for measuring; give --profile FILE"),
        (["digits_vit", "--seed", "0"], "--seed 0 is for random weights"),
        (["vit_tiny_patch16_224", "--pretrained", "--seed", "3"], "--seed 3 is for random weights"),
        *[
            (["digits_vit", f"--{flag.replace('_', '-')}", "wifi" if flag == "link" else "0"], "give --plan PROFILE")
            for flag in PLAN_FLAGS
        ],
        (["digits_vit", "--slices", "0"], "0"),
        (["vit_tiny_patch16_224", "--seed", "100000000000000000000"], "seed must be an integer of 64 bits"),
        (["vit_tiny_patch16_224", "--img-size", "-5"], "img_size"),
        (["vit_tiny_patch16_224", "--img-size", "99999999"], "from 1 to 16384"),
        (["vit_tiny_patch16_224", "--kwargs", '{"img_size": "224"}'], "img_size '224'"),
        (["vit_tiny_patch16_224", "--kwargs", '{"patch_size": 0}'], "cannot be built"),
        (["vit_tiny_patch16_224", "--kwargs", '{"num_classes": -1}'], "num_classes"),
        (["vit_tiny_patch16_224", "--kwargs", '{"in_chans": 0}'], "in_chans"),
        (["digits_vit", "--profile", "/no/such/folder/p.yaml"], "cannot be written"),
        (["digits_vit", "--profile", "/tmp"], "cannot be written"),
        (["digits_vit", "--plan", "fast-bord"], "did you mean 'fast-board'"),
        (["digits_vit", "--plan", "pyproject.toml"], "pyproject.toml"),
        (["absent.yaml"], "there is no such file"),
    ],
)
def test_wrong_input_is_one_message_on_stderr_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("headtail slice: ") and says in captured.err
    assert "Traceback" not in captured.err


def test_no_flag_has_a_default_that_could_be_taken_for_a_wish_and_the_planners_are_known_to_be_its() -> None:
    flags = command_line.values(command, ["digits_vit"])
    assert {name for name, value in flags.items() if value is not None} == {"model"}
    plan = {option.name for option in command.params if getattr(option, "group", "").startswith("Plan")}
    assert plan == {"plan", *PLAN_FLAGS}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "MODEL"),
        (["digits_vit", "--slices", "many"], "'many' is neither a number nor all"),
        (["digits_vit", "--kwargs", "depth=3"], "is not JSON"),
        (["digits_vit", "--kwargs", "[3]"], "is not a JSON object"),
        (["digits_vit", "--dtype", "int4"], "fp16"),
        (["digits_vit", "--threads", "0"], "from 1 to 1024"),
        (["digits_vit", "--threads", "-1"], "from 1 to 1024"),
        (["digits_vit", "--threads", "9999999999999"], "from 1 to 1024"),
        (["digits_vit", "--batches", "0"], "no list of batch sizes"),
        (["digits_vit", "--batches", "1,9999999"], "no list of batch sizes"),
        (["digits_vit", "--kwargs", '{"a": NaN}'], "no finite number"),
        (["digits_vit", "--kwargs", '{"a": 1, "a": 2}'], "there twice"),
        (["digits_vit", "--seed", "1.5"], "is not a valid integer"),
        (["digits_vit", "--img-size", "x"], "is not a valid integer"),
    ],
)
def test_wrong_options_are_explained(capsys: pytest.CaptureFixture[str], arguments: list[str], says: str) -> None:
    assert main(arguments) == 2
    assert says in capsys.readouterr().err


def test_it_runs_as_a_module_and_finds_own_models_in_the_current_folder(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from timm.models.vision_transformer import VisionTransformer\n"
        "def small():\n"
        "    return VisionTransformer(img_size=224, patch_size=32, embed_dim=24, depth=2, num_heads=2)\n"
    )
    environment: dict[str, Any] = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-m", "slicer.cli", "mine:small", "--slices", "2"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("mine:small: 2 slices")
