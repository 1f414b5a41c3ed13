"""Stage select: the batch worth labelling together, one batch a seed."""

from __future__ import annotations

import logging
from functools import partial

import numpy as np

from bgpm.data.tables import concatenate, read_table, where, write_table
from bgpm.loop.pool import read_pool
from bgpm.loop.select import select
from bgpm.posteriors import load
from bgpm.sections import Sections
from bgpm.selection import Selection
from bgpm.sizes import Size, pairs_of
from bgpm.stage import POOL, features_dir, generator, round_dir, run, seeds_of

log = logging.getLogger("bgpm")


class Select(Sections):
    selection: Selection
    batch_size: Size


def main(arm: str, k: str) -> None:
    settings = Select.read()
    here = round_dir(arm, k)
    scores = read_table(here / "scores.parquet")
    batches = []
    for seed in seeds_of(here / "model"):
        pool = read_pool(POOL, features_dir(here / "model", seed, "pool"))
        mine = where(scores, scores["seed"] == seed)
        wanted = pairs_of(settings.batch_size, len(pool.open))
        if len(mine["pair"]) < wanted:
            log.warning(
                "%s, round %s, seed %d: the pool has only %d pairs left to label", arm, k, seed, len(mine["pair"])
            )
        model = partial(load, here / "model" / f"seed-{seed}")
        drawn = generator("select", arm, seed, int(k))
        batch = select(settings.selection, pool, mine, model, wanted, generator=drawn)
        batches.append({"seed": np.full(len(batch["pair"]), seed), **batch})
    write_table(here / "batch.parquet", concatenate(batches))


if __name__ == "__main__":
    run(main)
