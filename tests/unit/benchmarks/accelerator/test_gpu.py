"""gpu.py end to end on the CPU with a tiny model, so that it works the first time where there is a GPU. No figures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.accelerator import gpu

TINY = [
    "--device",
    "cpu",
    "--models",
    "deployments.executors.emulated:chain",
    "--model-kwargs",
    '{"img_size": 8, "in_chans": 1}',
]
FEW = ["--strategies", "per_slice,continuous", "--slo-x", "40", "--seeds", "0,1", "--requests", "60", "--points", "2"]
SHORT = ["--dtype", "fp32", "--seconds", "0.3", "--repeats", "2", "--max-batch", "4", "--peak-tflops", "1"]


@pytest.mark.long
def test_profiles_prediction_load_and_memory_and_what_is_done_is_not_done_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--out", str(tmp_path), *TINY, *FEW, *SHORT]
    assert gpu.main([*command, "--part", "profiles", "--part", "load", "--minutes", "0"]) == 0
    cut_off = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert cut_off["finished"] is False
    profile = next(tmp_path.glob("profile_*.yaml"))
    written_s = profile.stat().st_mtime_ns
    assert gpu.main([*command, "--resume"]) == 0
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert document["finished"] is True
    assert document == json.loads((tmp_path / "gpu.json").read_text())
    assert profile.stat().st_mtime_ns == written_s, "the profile was not measured again"
    (found,) = document["models"].values()
    assert set(found["whole_ms"]) == {"1", "2", "4"}
    for strategy in ("per_slice", "continuous"):
        one = found["strategies"][strategy]
        assert len(one["40x"]["by_seed_rps"]) == len(one["40x"]["simulated_by_seed_rps"]) == 2
        assert one["saturated"]["rps"] > 0 and one["saturated"]["useful_over_peak"] is not None
        assert found["memory"][strategy]["process_peak"] > found["memory"][strategy]["weights"]


def test_the_gain_is_given_seed_by_seed_beside_the_simulated_one() -> None:
    strategies = {
        "per_tail": {"2x": {"by_seed_rps": [10.0, 10.0], "simulated_by_seed_rps": [10.0, 10.0]}},
        "continuous": {"2x": {"by_seed_rps": [20.0, 20.0], "simulated_by_seed_rps": [30.0, 30.0]}},
        "lazy": {"2x": {"simulated_by_seed_rps": [30.0, 30.0]}},
    }
    (gain,) = gpu.gains(strategies, ["2x"])
    assert (gain["over"], gain["ratio"], gain["simulated_ratio"]) == ("per_tail", 2.0, 3.0)
