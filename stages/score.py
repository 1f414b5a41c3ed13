"""Stage score: what a label for each unlabelled pair would be worth under the round's model."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bgpm.acquisition import Acquisition
from bgpm.data.tables import concatenate, pool_size, read_table, write_table
from bgpm.errors import LaunchError
from bgpm.launch import (
    LauncherSettings,
    end_with_stage,
    launch,
    must_launch,
    process_group,
    rank_world,
    refuse_launched,
)
from bgpm.loop.pool import Pool, read_pool
from bgpm.loop.score import score, shared_moments
from bgpm.posteriors import Fitted, load
from bgpm.registry import build
from bgpm.sections import Sections
from bgpm.stage import ARMS, POOL, features_dir, generator, round_dir, run, seeds_of
from bgpm.types import ScoreMoments
from bgpm.values import read_json


class Score(Sections):
    launcher: LauncherSettings  # no dependency: it says where the work is done


def main(arm: str, k: str, out: str | None = None) -> None:
    """``python -m stages.score entropy 3``; processes that a launcher starts are given the file to write."""
    stands = read_json(ARMS / f"{arm}.json")  # `auto` stands for another function
    acquisition = build(Acquisition, stands["acquisition"], stands["settings"], "acquisitions")
    if out is not None:
        end_with_stage()
        return work(acquisition, arm, k, Path(out))
    launcher = Score.read().launcher
    refuse_launched()
    path = round_dir(arm, k) / "scores.parquet"
    pairs = pool_size(POOL)
    if pairs < launcher.score_from or not must_launch(launcher):
        return work(acquisition, arm, k, path)
    path.unlink(missing_ok=True)
    launch(launcher, f"{__package__}.score", [arm, k, str(path)])
    if not path.exists():
        raise LaunchError(f"launcher: {launcher.kind} ended well but {path} is not there; see what it printed")
    return None


def work(acquisition: Acquisition, arm: str, k: str, path: Path) -> None:
    """Score, alone or as one of several processes, of which the first writes."""
    here = round_dir(arm, k)
    labels = read_table(here / "labels.parquet", ["seed", "pair"])
    seeds = seeds_of(here / "model")

    def of(seed: int) -> tuple[Fitted, Pool, np.ndarray]:
        pool = read_pool(POOL, features_dir(here / "model", seed, "pool"))
        return load(here / "model" / f"seed-{seed}"), pool, labels["pair"][labels["seed"] == seed]

    moments: dict[int, ScoreMoments | None] = dict.fromkeys(seeds)
    with process_group() as group:
        if group is not None:
            moments = {seed: shared_moments(*of(seed), group) for seed in seeds}
    if rank_world()[0] != 0:
        return
    out = []
    for seed in seeds:
        model, pool, acquired = of(seed)
        drawn = generator("score", arm, seed, int(k))
        scores = score(acquisition, model, pool, acquired, generator=drawn, moments=moments[seed])
        size = len(scores["pair"])
        told = np.full(size, acquisition.kind, dtype=object)
        out.append({"seed": np.full(size, seed), **scores, "acquisition": told})
    write_table(path, concatenate(out))


if __name__ == "__main__":
    run(main)
