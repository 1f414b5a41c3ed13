"""Stage start: choose the pairs of the seed set, one set a seed, without looking at any label."""

from __future__ import annotations

import numpy as np

from bgpm.data.tables import concatenate, write_table
from bgpm.loop.pool import read_pool
from bgpm.loop.start import seed_batch
from bgpm.sections import Sections
from bgpm.selection import StartSettings
from bgpm.stage import FEATURES, POOL, START, generator, run


class Start(Sections):
    start: StartSettings
    seeds: list[int]


def main() -> None:
    settings = Start.read()
    pool = read_pool(POOL, FEATURES / "pool")
    batches = []
    for seed in settings.seeds:
        batch = seed_batch(settings.start, pool, generator=generator("start", seed))
        batches.append({"seed": np.full(len(batch["pair"]), seed), **batch})
    write_table(START / "batch.parquet", concatenate(batches))


if __name__ == "__main__":
    run(main)
