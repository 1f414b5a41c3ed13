"""Stage score: what a label for each unlabelled pair would be worth under the round's model."""

from __future__ import annotations

import numpy as np

from bgpm.acquisition import Acquisition
from bgpm.data.tables import concatenate, read_table, write_table
from bgpm.loop.pool import read_pool
from bgpm.loop.score import score
from bgpm.posteriors import load
from bgpm.registry import build
from bgpm.stage import POOL, features_dir, generator, read_params, round_dir, run, seeds_of, setting


def main(arm: str, k: str) -> None:
    acquisition = build(Acquisition, arm, setting(read_params(), f"acquisitions.{arm}"), "acquisitions")
    here = round_dir(arm, k)
    labels = read_table(here / "labels.parquet", ["seed", "pair"])
    out = []
    for seed in seeds_of(here / "model"):
        pool = read_pool(POOL, features_dir(here / "model", seed, "pool"))
        model, bought = load(here / "model" / f"seed-{seed}"), labels["pair"][labels["seed"] == seed]
        scores = score(acquisition, model, pool, bought, generator=generator("score", arm, seed, int(k)))
        out.append({"seed": np.full(len(scores["pair"]), seed), **scores})
    write_table(here / "scores.parquet", concatenate(out))


if __name__ == "__main__":
    run(main)
