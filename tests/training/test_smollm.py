"""The loop trains adapters on a real decoder with its own chat template: killed and resumed, merged and not."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import Project, tiny_benchmark, tiny_pool, up_to_seed_labels, working_in, write_jsonl
from safetensors.torch import load_file
from smollm import PACKAGE, SHA256, needs_package
from tasks import HOLD, UNCOMPILED, files_of, kill_after_a_checkpoint, write_site

from bgpm.backbones.embedding import load_backbone
from bgpm.inference import PreferenceModel
from bgpm.launch import LauncherSettings, command_line
from bgpm.training import Task
from stages import train

pytestmark = [pytest.mark.smollm, needs_package]
MODEL = Path("data/start/model")
ADAPTER = MODEL / "seed-0/backbone/adapter_model.safetensors"
QUESTION, ANSWERS = "What is the capital of France?", ["The capital of France is Paris.", "Bananas.", "It is Lyon."]


@pytest.fixture(scope="module")
def project(fresh_project: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A loop up to its seed labels, whose model is to have adapters on SmolLM2: two updates of two labels."""
    project = fresh_project.clone(tmp_path_factory.mktemp("smollm") / "project")
    write_jsonl(project.folder / "tiny/pool.jsonl", tiny_pool(6, 3))
    write_jsonl(project.folder / "tiny/benchmark.jsonl", tiny_benchmark()[:2])
    project.params(
        backbone__path=f"package:{PACKAGE}", backbone__sha256=SHA256, seeds=[0], baseline="entropy", batch_size=2,
        start__labels=6, training__mode="lora", training__steps=2, training__checks=2, training__batch_size=2,
        training__holdout=0.0, training__lora__rank=2, training__learning_rate=0.001, features__states__layers="last",
    )  # fmt: skip
    with working_in(project):
        up_to_seed_labels()
    return project


@pytest.fixture(scope="module")
def undisturbed(project: Project) -> Project:
    """Its model 0, of one process that nobody disturbed."""
    with working_in(project):
        train.main("start")
    return project


def copy_of(project: Project, folder: Path) -> Project:
    """A copy without its model."""
    copy = project.clone(folder, cold=True)
    shutil.rmtree(copy.folder / MODEL)
    return copy


def test_adapters_of_a_run_killed_in_the_middle_are_those_of_an_undisturbed_one(
    undisturbed: Project, tmp_path: Path
) -> None:
    project = copy_of(undisturbed, tmp_path / "project")
    hold = write_site(project.folder, HOLD)
    kill_after_a_checkpoint(["stages.train", "start"], project.folder, project.env, "start-0-0-*")
    hold.unlink()
    assert not (project.folder / MODEL).exists()
    again = project.stage("train", "start")
    assert "resuming at update 1 of 2" in again.stderr
    assert files_of(project.folder / MODEL) == files_of(undisturbed.folder / MODEL)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # by PEFT
def test_merged_adapters_score_as_unmerged_ones_do_and_not_as_the_base(undisturbed: Project) -> None:
    from peft import PeftModel

    model = PreferenceModel.load(MODEL, root=undisturbed.folder)
    assert model.trained
    assert model.base is not None
    base, apart = load_backbone(model.base), load_backbone(model.base)
    adapted = PeftModel.from_pretrained(apart.model, str((undisturbed.folder / ADAPTER).parent)).get_base_model()
    unmerged = dataclasses.replace(model, backbone=dataclasses.replace(apart, model=adapted))
    frozen = dataclasses.replace(model, backbone=base)
    merged, other, none = (m.matrix(QUESTION, ANSWERS).mean for m in (model, unmerged, frozen))
    scale = np.abs(merged).max()
    assert np.abs(merged - other).max() < 1e-4 * scale
    assert np.abs(merged - none).max() > 1e-2 * scale


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("stage", [2, 3])
def test_two_processes_under_deepspeed_train_the_adapters_of_one(
    undisturbed: Project, tmp_path: Path, stage: int
) -> None:
    """Ranks as the stage starts them; they do not embed what they have trained."""
    pytest.importorskip("deepspeed")
    project = copy_of(undisturbed, tmp_path / "project")
    project.params(training__deepspeed=f"configs/deepspeed/zero{stage}.json")
    write_site(project.folder, UNCOMPILED)
    project.env["DS_ACCELERATOR"] = "cpu"
    with working_in(project):
        asked = train.Train.read()
    task = Task(
        name="start-0-0", labels="data/start/labels.parquet", seed=0, out=str(MODEL / "seed-0"), pool="data/pool",
        benchmark="data/benchmark", features="data/features/pool", model=asked.model.model_dump(),
        posterior=asked.posterior.model_dump(), training=asked.training, backbone=asked.backbone,
        reduction=asked.features,
    )  # fmt: skip
    (project.folder / "task.json").write_text(task.model_dump_json(), encoding="utf-8")
    two = LauncherSettings(kind="torchrun", processes=2)
    project.run(*command_line(two, "bgpm.training.run", ["train", "task.json"]))
    one, other = (load_file(p.folder / ADAPTER) for p in (undisturbed, project))
    assert set(one) == set(other)
    grown = [name for name in one if "lora_B" in name]  # from 0
    apart, moved = (
        sum(float(value.double().square().sum()) for value in values)
        for values in ([one[name] - other[name] for name in grown], [one[name] for name in grown])
    )
    assert moved > 0
    assert (apart / moved) ** 0.5 < 0.01  # 7e-5 was measured
