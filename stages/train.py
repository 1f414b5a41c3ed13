"""Stage train: a model for each seed, from the base, on all labels so far; with its backbone unless that is frozen."""

from __future__ import annotations

import shutil

import numpy as np
from tqdm import tqdm

from bgpm.backbones import BackboneSettings
from bgpm.data.tables import read_table, where
from bgpm.features import FeatureSettings
from bgpm.launch import LauncherSettings
from bgpm.loop.pool import read_pool
from bgpm.loop.train import train
from bgpm.models import Model
from bgpm.posteriors import Posterior, load
from bgpm.sections import RoundSettings, Sections
from bgpm.stage import (
    BENCHMARK,
    FEATURES,
    POOL,
    READS,
    features_dir,
    round_dir,
    run,
    whole_folder,
    write_json,
)
from bgpm.training import Task, TrainingSettings, drop_weights, forget, work
from bgpm.values import read_json


class Train(Sections):
    goal: str
    model: Model
    posterior: Posterior
    # No dependencies: data/training.json has what of them counts, and `keep` below says which weights stay.
    training: TrainingSettings
    backbone: BackboneSettings
    features: FeatureSettings
    launcher: LauncherSettings
    rounds: list[RoundSettings]


def main(arm: str, k: str = "0") -> None:
    settings = Train.read()
    model, training = settings.model, settings.training
    goal = "model" if arm == "offline" else settings.goal
    posterior = settings.posterior.for_goal(goal, model, frozen=training.mode == "frozen")
    # A shorter run does not bring back weights that a longer one did not keep: `dvc repro -f -s` of its last `train`.
    last = arm == "offline" or int(k) == settings.rounds[-1].next
    here = round_dir(arm, k)
    labels = read_table(here / "labels.parquet")
    with whole_folder(here / "model") as folder:
        summary = {}
        for seed in tqdm(np.unique(labels["seed"]).tolist(), desc=f"train {arm} round {k}", unit="seed", disable=None):
            mine, own = where(labels, labels["seed"] == seed), folder / f"seed-{seed}"
            learnt = {}
            if training.mode != "frozen":
                task = Task(
                    name=f"{arm}-{k}-{seed}", labels=str(here / "labels.parquet"), seed=seed, out=str(own),
                    pool=str(POOL), benchmark=str(BENCHMARK), features=str(FEATURES / "pool"),
                    model=model.model_dump(), posterior=posterior.model_dump(),
                    training=training, backbone=settings.backbone, reduction=settings.features,
                )  # fmt: skip
                work(task, settings.launcher, folder)
                if training.mode == "full" and training.keep == "last" and not last:
                    drop_weights(own / "backbone")
                learnt = {"backbone": read_json(own / "backbone" / "head.json")["summary"]}
            if learnt and posterior.kind == "amortized":  # both of its networks were trained with the backbone
                fitted = load(own / "backbone" / "head")
            else:
                fitted = train(posterior, model, read_pool(POOL, features_dir(folder, seed, "pool")), mine, seed=seed)
            fitted.save(folder / f"seed-{seed}")
            summary[f"seed-{seed}"] = {"labels": int((~np.isnan(mine["label"])).sum()), **fitted.summary(), **learnt}
        write_json(folder / "summary.json", summary)
        if training.mode == "frozen":
            shutil.copyfile(FEATURES / "pool" / READS, folder / READS)
    forget(f"{arm}-{k}")


if __name__ == "__main__":
    run(main)
