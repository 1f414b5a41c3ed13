"""Two processes, with and without DeepSpeed, against one: the same labels an update, the same model."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file
from tasks import Workspace, files_of

from bgpm.training import Task
from bgpm.training.batches import held_out
from bgpm.training.run import _labels, run

pytestmark = [pytest.mark.slow, pytest.mark.distributed]
CONFIGS = Path(__file__).parents[2] / "configs/deepspeed"


@pytest.fixture(scope="session")
def deepspeed() -> None:
    if importlib.util.find_spec("deepspeed") is None:
        pytest.skip("deepspeed is not installed: `make install-dev`")


def finish(space: Workspace, task: Task) -> str:
    process = space.start("train", task, 2)
    try:
        output, _ = process.communicate(timeout=600)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, output[-6000:]
    return output


def backbone(task: Task) -> Path:
    return Path(task.out) / "backbone"


def distance(one: Path, other: Path, start: Path) -> float:
    """How far two checkpoints are apart, against how far the first went from the base."""
    a, b, base = (load_file(folder / "model.safetensors") for folder in (one, other, start))
    assert set(a) == set(b)
    base = {name.removeprefix("model."): value for name, value in base.items()}
    apart = sum(float((a[name] - b[name]).double().square().sum()) for name in a)
    moved = sum(float((a[name] - base[name]).double().square().sum()) for name in a)
    assert moved > 0
    return (apart / moved) ** 0.5


def divided(space: Workspace, name: str, stage: int | None) -> Task:
    deepspeed = str(CONFIGS / f"zero{stage}.json") if stage else None
    return space.task(name, mode="full", learning_rate=1e-3, steps=16, checks=8, deepspeed=deepspeed)


@pytest.fixture(scope="session")  # in folders of the session
def alone(qwen: Workspace) -> Task:
    task = divided(qwen, "alone", None)
    run("train", task)
    return task


@pytest.fixture(scope="session")  # in folders of the session
def zero2(qwen: Workspace, deepspeed: None) -> Task:
    task = divided(qwen, "zero2", 2)
    finish(qwen, task)
    return task


@pytest.mark.parametrize("stage", [None, pytest.param(1, marks=pytest.mark.repeat), 2, 3])
def test_two_processes_train_what_one_trains(
    qwen: Workspace, alone: Task, stage: int | None, request: pytest.FixtureRequest
) -> None:
    if stage == 2:
        task = request.getfixturevalue("zero2")
    else:
        if stage:
            request.getfixturevalue("deepspeed")
        task = divided(qwen, f"zero{stage}", stage)
        finish(qwen, task)
    assert distance(backbone(alone), backbone(task), Path(qwen.backbone.path)) < 0.02
    one, other = (load_file(backbone(t) / "head.safetensors")["head.weight"] for t in (alone, task))
    assert (one - other).abs().max() < 1e-3 * one.abs().max()


def test_two_processes_stop_by_the_held_out_loss_of_one(qwen: Workspace) -> None:
    """Labels that do not fill the last batch of two count once."""
    losses = []
    for name, ranks in (("held-out-by-one", 1), ("held-out-by-two", 2)):
        task = qwen.task(name, mode="full", learning_rate=1e-12, steps=2, checks=1, holdout=0.3)
        if ranks == 1:
            run("train", task)
        else:
            finish(qwen, task)
        losses.append(json.loads((backbone(task) / "head.json").read_text())["summary"]["stopping_loss"])
    out = held_out(_labels(task).pairs.prompt, 0.3, seed=0).sum()
    assert out % 8  # passes of 8 labels, and of 4 and 4
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_two_processes_share_a_base_in_bfloat16_and_train_the_adapters_that_one_trains(
    qwen: Workspace, deepspeed: None
) -> None:
    """ZeRO-3 divides the frozen base too; weights in bfloat16 here, and autocast from float32 there."""
    found = {}
    for name, config in (("lora-alone", None), ("lora-zero3", str(CONFIGS / "zero3.json"))):
        task = qwen.task(name, mode="lora", bf16=True, deepspeed=config)
        if config is None:
            run("train", task)
        else:
            finish(qwen, task)
        found[name] = load_file(backbone(task) / "adapter_model.safetensors")
    one, other = found.values()
    assert set(one) == set(other)
    grown = [name for name in one if "lora_B" in name]  # from 0
    apart, moved = (
        sum(float(value.double().square().sum()) for value in values)
        for values in ([one[name] - other[name] for name in grown], [one[name] for name in grown])
    )
    assert (apart / moved) ** 0.5 < 0.2


def test_a_killed_run_of_two_processes_goes_on_and_ends_as_an_undisturbed_one(qwen: Workspace, zero2: Task) -> None:
    task = divided(qwen, "killed2", 2)
    process = qwen.start("train", task, 2, hold=True)
    deadline = time.monotonic() + 300
    side = Path(task.side)
    try:
        while not list(side.glob("killed2-*/checkpoint-*/complete")):
            assert process.poll() is None, process.communicate()[0][-6000:]
            assert time.monotonic() < deadline
            time.sleep(0.005)
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # the launcher's group; its processes end with it
        process.communicate()
    assert not backbone(task).exists()
    assert "resuming at update" in finish(qwen, task)
    assert files_of(backbone(task)) == files_of(backbone(zero2))
