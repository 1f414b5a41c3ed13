"""configs/deepspeed: what they say is what their names say, and DeepSpeed reads them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

FILES = sorted((ROOT / "configs" / "deepspeed").glob("*.json"))
# What transformers' Trainer fills in where a file says "auto", whatever the model is.
FILLED = {
    "train_batch_size": 8, "train_micro_batch_size_per_gpu": 4, "gradient_accumulation_steps": 2,
    "gradient_clipping": 1.0,
}  # fmt: skip


def read(path: Path, bf16: bool = True) -> dict:
    config = json.loads(path.read_text(encoding="utf-8"))
    assert {key for key, value in config.items() if value == "auto"} == set(FILLED)
    assert config["bf16"] == {"enabled": "auto"}
    filled = {**config, **FILLED, "bf16": {"enabled": bf16}}
    assert "auto" not in json.dumps(filled)
    return filled


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_stage_is_that_of_the_name_and_the_traps_are_avoided(path: Path) -> None:
    config = read(path)
    zero = config["zero_optimization"]
    stage, _, offload = path.stem.removeprefix("zero").partition("_")
    assert zero["stage"] == int(stage)
    assert ("offload_optimizer" in zero, "offload_param" in zero) == (bool(offload), bool(offload))
    # The optimiser is the Trainer's AdamW: DeepSpeed's own would be compiled on the machine first.
    assert not {"optimizer", "scheduler"} & set(config)
    assert config["zero_allow_untested_optimizer"] is True
    assert config.get("zero_force_ds_cpu_optimizer", True) is not bool(offload)
    assert config.get("data_types") == ({"grad_accum_dtype": "fp32"} if zero["stage"] else None)
    assert zero.get("stage3_gather_16bit_weights_on_model_save", False) is (zero["stage"] == 3)


def test_there_is_a_file_for_every_stage() -> None:
    assert [path.stem for path in FILES] == ["zero0", "zero1", "zero2", "zero3", "zero3_offload"]


@pytest.mark.slow
def test_deepspeed_reads_every_file() -> None:
    pytest.importorskip("deepspeed", reason="deepspeed is not installed")
    code = (
        "import json, sys\n"
        "from deepspeed.runtime.config import DeepSpeedConfig\n"
        "print(json.dumps([[c.zero_config.stage, c.grad_accum_dtype] for c in\n"
        "                  map(DeepSpeedConfig, json.load(sys.stdin))]))"
    )
    filled = [read(path, bf16) for path in FILES for bf16 in (True, False)]
    done = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps(filled), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    stages = [c["zero_optimization"]["stage"] for c in filled]
    assert json.loads(done.stdout.splitlines()[-1]) == [[stage, "fp32" if stage else None] for stage in stages]
