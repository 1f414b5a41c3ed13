"""Stage select: the batch worth labelling together, one batch a seed."""

from __future__ import annotations

import logging

import numpy as np

from bgpm.data.tables import as_pairs, concatenate, read_table, where, write_table
from bgpm.posteriors import load
from bgpm.registry import build
from bgpm.selection import Selection
from bgpm.stage import FEATURES, POOL, generator, read_params, round_dir, run, seeds_of, setting
from bgpm.types import Candidates, Features

log = logging.getLogger("bgpm")


def main(arm: str, k: str) -> None:
    params = read_params()
    kind = setting(params, "selection")
    selection = build(Selection, kind, setting(params, f"selections.{kind}"), "selections")
    here = round_dir(arm, k)
    features = Features(*(np.load(FEATURES / "pool" / f"{name}.npy") for name in ("responses", "prompts")))
    table = read_table(POOL / "pairs.parquet")
    scores = read_table(here / "scores.parquet")
    if scores["uniform"].any():
        selection = build(Selection, "top_k", {}, "selections")  # a uniform draw stays uniform
    batches = []
    for seed in seeds_of(here / "model"):
        mine = where(scores, scores["seed"] == seed)
        pairs = as_pairs(where(table, mine["pair"]))
        candidates = Candidates(
            pairs,
            mine["mean"],
            mine["variance"],
            float(mine["tau"][0]) if len(pairs) else 1.0,
            features,
            table["key"][mine["pair"]],
            lambda seed=seed, pairs=pairs: load(here / "model" / f"seed-{seed}").kernel(features, pairs),
            float(mine["error_rate"][0]) if len(pairs) else 0.0,
        )
        wanted = setting(params, "batch_size")
        if len(pairs) < wanted:
            log.warning("%s, round %s, seed %d: the pool has only %d pairs left to label", arm, k, seed, len(pairs))
        batch = selection(
            candidates, mine["value"], min(wanted, len(pairs)), generator=generator("select", arm, seed, int(k))
        )
        picked = where(mine, batch.rows)
        batches.append(
            {
                "seed": picked["seed"],
                "rank": np.arange(len(batch.rows)),
                "pair": picked["pair"],
                "pair_id": table["pair_id"][picked["pair"]],
                "gain": batch.gains,
                "value": picked["value"],
                "mean": picked["mean"],
                "variance": picked["variance"],
            }
        )
    write_table(here / "batch.parquet", concatenate(batches))


if __name__ == "__main__":
    run(main)
