"""Stage train: a model for each seed, from the base, on all labels so far."""

from __future__ import annotations

import numpy as np
from tqdm import tqdm

from bgpm.data.tables import read_table, where
from bgpm.heads import Head
from bgpm.loop.pool import read_pool
from bgpm.loop.train import train
from bgpm.posteriors import Posterior
from bgpm.registry import build
from bgpm.stage import FEATURES, POOL, read_params, round_dir, run, setting, whole_folder, write_json


def main(arm: str, k: str = "0") -> None:
    params = read_params()
    head = build(Head, setting(params, "model"), setting(params, f"models.{setting(params, 'model')}"), "models")
    kind = setting(params, "posterior")
    posterior = build(Posterior, kind, setting(params, f"posteriors.{kind}"), "posteriors")
    here = round_dir(arm, k)
    pool = read_pool(POOL, FEATURES / "pool")
    labels = read_table(here / "labels.parquet")
    told = ~np.isnan(labels["label"])  # where everybody abstained there is nothing to learn
    with whole_folder(here / "model") as folder:
        summary = {}
        for seed in tqdm(np.unique(labels["seed"]).tolist(), desc=f"train {arm} round {k}", unit="seed", disable=None):
            mine = where(labels, told & (labels["seed"] == seed))
            fitted = train(posterior, head, pool, mine, seed=seed)
            fitted.save(folder / f"seed-{seed}")
            summary[f"seed-{seed}"] = {"labels": len(mine["label"]), **fitted.summary()}
        write_json(folder / "summary.json", summary)


if __name__ == "__main__":
    run(main)
