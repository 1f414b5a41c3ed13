"""The loop with a trained backbone, as its users run it: what runs, what does not, and what a kill leaves."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TWO_ROUNDS, Project, ran, with_changes
from tasks import HOLD, files_of, kill_after_a_checkpoint, write_site, write_tiny_qwen

from bgpm.stage import read_params
from bgpm.training import in_effect
from stages import score, train

ROOT = Path(__file__).parents[2]
TRAINED = {
    "training__mode": "lora", "training__steps": 12, "training__checks": 6, "training__batch_size": 4,
    "training__holdout": 0.0, "training__lora__rank": 2, "training__learning_rate": 0.001,
    "backbone__path": "tiny/qwen",
}  # fmt: skip


def changed(**changes: Any) -> dict[str, Any]:
    """What counts of training once these settings of params.yaml are changed, as in `Project.params`."""
    return in_effect(with_changes(read_params(ROOT / "params.yaml"), **changes), ROOT)


def test_while_the_backbone_is_frozen_no_other_setting_of_training_counts() -> None:
    assert changed() == {"mode": "frozen"}
    assert changed(training__learning_rate=0.5, training__keep="all", backbone__max_tokens=64) == {"mode": "frozen"}


def test_of_a_trained_backbone_everything_counts_but_where_it_is_computed() -> None:
    base = changed(training__mode="lora")
    where = {
        "deepspeed": "configs/deepspeed/zero2.json",
        "accumulation": 2,
        "gradient_checkpointing": True,
        "keep": "all",
    }
    for key, value in where.items():
        assert changed(training__mode="lora", **{f"training__{key}": value}) == base, key
    assert changed(training__mode="lora", launcher__kind="torchrun", launcher__processes=8) == base
    for key, value in {"training__learning_rate": 0.5, "backbone__max_tokens": 64, "features__states__pca": 8}.items():
        assert changed(training__mode="lora", **{key: value}) != base, key
    assert len(base["code"]) == 64


@pytest.mark.slow
def test_the_whole_loop_trains_its_backbone_and_only_what_changed_runs_again(
    fresh_project: Project, tmp_path: Path
) -> None:
    project = fresh_project.clone(tmp_path / "project")
    write_tiny_qwen(project.folder / "tiny/qwen")
    project.params(seeds=[0], baseline="entropy", report__resamples=100, **TRAINED)
    first = ran(project.dvc("repro").stdout)
    assert {"start-train", "train@entropy-round0", "evaluate@entropy-round0", "report"} <= set(first)
    models = [project.folder / "data" / name / "model/seed-0" for name in ("start", "entropy/round-1")]
    for model in models:
        assert (model / "backbone/adapter_model.safetensors").is_file()
        assert (model / "backbone/head.safetensors").is_file()
    pools = [np.load(model / "features/pool/responses.npy") for model in models]
    frozen = np.load(project.folder / "data/features/pool/responses.npy")
    assert pools[0].shape == pools[1].shape == frozen.shape
    assert not np.allclose(pools[0], frozen, atol=1e-3)
    assert not np.allclose(pools[0], pools[1], atol=1e-3)
    assert not list((project.folder / ".checkpoints").iterdir())
    program = (
        "import runpy, sys; sys.argv = sys.argv[1:]\n"
        "runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)\n"
        "assert not {'transformers', 'peft', 'accelerate'} & set(sys.modules)"
    )
    before = project.read("data/entropy/round-0/scores.parquet")
    cold = Project(project.folder, cold=True)
    cold.run("python", "-c", program, "stages.score", "entropy", "0")
    assert project.read("data/entropy/round-0/scores.parquet") == before
    # where it runs is not what it computes
    project.params(training__accumulation=2, launcher__processes=4)
    assert set(ran(project.dvc("repro").stdout)) == {"check", "report"}
    project.params(training__accumulation=1)  # its rounding is another
    # killed in the middle of training, by the whole group, as a machine that goes down
    kept = files_of(project.folder / "data/entropy/round-1/model")
    evaluation = project.read("data/entropy/round-1/evaluation/curve.csv")
    hold = write_site(project.folder, HOLD)
    command = ["repro", "--force", "--single-item", "train@entropy-round0"]
    kill_after_a_checkpoint(["dvc", *command], project.folder, cold.env, "entropy-1-0-*")
    hold.unlink()
    assert not (project.folder / "data/entropy/round-1/model/seed-0").exists()
    again = project.dvc(*command)  # forced again: a plain repro has no need to: the cache knows the result
    assert "resuming at update" in again.stderr
    assert files_of(project.folder / "data/entropy/round-1/model") == kept
    assert project.read("data/entropy/round-1/evaluation/curve.csv") == evaluation
    assert set(ran(project.dvc("repro").stdout)) <= {"check", "report"}


@pytest.mark.slow
def test_settings_of_training_rerun_nothing_while_the_backbone_is_frozen(
    finished_project: Project, tmp_path: Path
) -> None:
    project = finished_project.clone(tmp_path / "project")
    changes = {"training__learning_rate": 0.5, "training__keep": "all", "training__lora__rank": 3}
    project.params(**changes, launcher__processes=2)
    assert set(ran(project.dvc("repro").stdout)) == {"check", "report"}
    assert project.read("data/training.json") == b'{\n  "mode": "frozen"\n}\n'
    assert project.read("data/texts.json") == b"null\n"


@pytest.mark.slow
def test_all_labels_train_one_model_without_the_loop_and_only_when_asked(
    finished_project: Project, tmp_path: Path
) -> None:
    from bgpm.data.tables import read_table

    project = finished_project.clone(tmp_path / "project")
    assert ran(project.dvc("repro").stdout) == []
    write_tiny_qwen(project.folder / "tiny/qwen")
    project.run("make", "offline/dvc.yaml")
    project.params(backbone__path="tiny/qwen", training__mode="full", training__steps=4, seeds=[0])
    done = ran(project.dvc("repro", "offline/dvc.yaml").stdout)
    assert {name.rpartition(":")[2] for name in done} == {
        "check", "embed@pool", "embed@benchmark", "features", "offline-label", "offline-train", "offline-evaluate",
    }  # fmt: skip
    truth = read_table(project.folder / "data/truth/pool.parquet")
    labels = read_table(project.folder / "data/offline/labels.parquet")
    assert len(labels["label"]) == np.isfinite(truth["label"]).sum()
    assert dict(zip(labels["pair_id"], labels["label"], strict=True)) == {
        name: label for name, label in zip(truth["pair_id"], truth["label"], strict=True) if np.isfinite(label)
    }
    assert b",heldout,all,accuracy," in project.read("data/offline/evaluation/curve.csv")
    assert (project.folder / "data/offline/model/seed-0/backbone/model.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(("keep", "weights"), [("last", False), ("all", True)])
def test_only_the_last_round_keeps_all_weights_unless_told_to(
    finished_project: Project, tmp_path: Path, inside: Callable[[Project], None], keep: str, weights: bool
) -> None:
    project = Project(tmp_path / "project")
    shutil.copytree(finished_project.folder, project.folder, ignore=shutil.ignore_patterns(".git", ".dvc"))
    project.params(rounds=TWO_ROUNDS, training__mode="full", training__steps=1, training__keep=keep)
    labels = project.folder / "data/entropy/round-1/labels.parquet"
    from bgpm.data.tables import read_table, where, write_table

    table = read_table(labels)
    write_table(labels, where(table, table["seed"] == 1))
    inside(project)
    train.main("entropy", "1")  # of two rounds
    folder = project.folder / "data/entropy/round-1/model/seed-1"
    assert (folder / "backbone/model.safetensors").is_file() == weights
    assert (folder / "backbone/head.safetensors").is_file()
    score.main("entropy", "1")  # reads features, not weights
