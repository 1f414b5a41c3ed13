"""Stage start: choose the pairs of the seed set, one set a seed, without looking at any label."""

from __future__ import annotations

import numpy as np

from bgpm.data.tables import as_pairs, concatenate, read_table, where, write_table
from bgpm.registry import parse
from bgpm.selection import StartSettings, seed_set
from bgpm.stage import FEATURES, POOL, START, generator, read_params, run, setting
from bgpm.types import Features


def main() -> None:
    params = read_params()
    settings = parse(StartSettings, setting(params, "start"), "start")
    table = read_table(POOL / "pairs.parquet")
    rows = np.flatnonzero(table["split"] == "pool")
    pool = where(table, rows)
    features = Features(*(np.load(FEATURES / "pool" / f"{name}.npy") for name in ("responses", "prompts")))
    batches = []
    for seed in setting(params, "seeds"):
        chosen = seed_set(settings, features, as_pairs(pool), generator=generator("start", seed))
        k = len(chosen)
        batches.append(
            {
                "seed": np.full(k, seed),
                "rank": np.arange(k),
                "pair": rows[chosen],
                "pair_id": pool["pair_id"][chosen],
                **{name: np.full(k, np.nan) for name in ("gain", "value", "mean", "variance")},
            }
        )
    write_table(START / "batch.parquet", concatenate(batches))


if __name__ == "__main__":
    run(main)
