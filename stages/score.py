"""Stage score: what a label for each unlabelled pair would be worth under the round's model."""

from __future__ import annotations

import numpy as np

from bgpm.acquisition import Acquisition
from bgpm.data.tables import as_pairs, concatenate, read_table, where, write_table
from bgpm.posteriors import load
from bgpm.registry import build
from bgpm.stage import FEATURES, POOL, generator, read_params, round_dir, run, seeds_of, setting
from bgpm.types import Candidates, Features


def main(arm: str, k: str) -> None:
    acquisition = build(Acquisition, arm, setting(read_params(), f"acquisitions.{arm}"), "acquisitions")
    here = round_dir(arm, k)
    features = Features(*(np.load(FEATURES / "pool" / f"{name}.npy") for name in ("responses", "prompts")))
    table = read_table(POOL / "pairs.parquet")
    bought = read_table(here / "labels.parquet", ["seed", "pair"])
    out = []
    for seed in seeds_of(here / "model"):
        bought_rows = bought["pair"][bought["seed"] == seed]
        open_rows = np.setdiff1d(np.flatnonzero(table["split"] == "pool"), bought_rows)
        pairs = as_pairs(where(table, open_rows))
        model = load(here / "model" / f"seed-{seed}")
        moments = model.moments(features, pairs)
        candidates = Candidates(
            pairs,
            moments.mean.numpy(),
            moments.variance.numpy(),
            moments.tau,
            features,
            table["key"][open_rows],
            lambda model=model, pairs=pairs: model.kernel(features, pairs),
            moments.error_rate,
            as_pairs(where(table, bought_rows)),
        )
        values = acquisition(candidates, generator=generator("score", arm, seed, int(k)))
        out.append(
            {
                "seed": np.full(len(open_rows), seed),
                "pair": open_rows,
                "mean": candidates.mean,
                "variance": candidates.variance,
                "tau": np.full(len(open_rows), moments.tau),
                "error_rate": np.full(len(open_rows), moments.error_rate),
                "value": values,
                "uniform": np.full(len(open_rows), acquisition.uniform),
            }
        )
    write_table(here / "scores.parquet", concatenate(out))


if __name__ == "__main__":
    run(main)
