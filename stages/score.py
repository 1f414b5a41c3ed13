"""Stage score: what a label for each unlabelled pair would be worth under the round's model."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bgpm.acquisition import Acquisition
from bgpm.data.tables import concatenate, read_table, write_table
from bgpm.errors import LaunchError
from bgpm.launch import LauncherSettings, end_with_stage, launch, must_launch, process_group, refuse_launched
from bgpm.loop.pool import read_pool
from bgpm.loop.score import score, shared_moments
from bgpm.posteriors import load
from bgpm.registry import build, parse
from bgpm.stage import POOL, features_dir, generator, read_params, round_dir, run, seeds_of, setting


def main(arm: str, k: str, out: str | None = None) -> None:
    """``python -m stages.score entropy 3``; processes that a launcher starts are given the file to write."""
    params = read_params()
    acquisition = build(Acquisition, arm, setting(params, f"acquisitions.{arm}"), "acquisitions")
    if out is not None:
        end_with_stage()
        return work(acquisition, arm, k, Path(out))
    launcher = parse(LauncherSettings, setting(params, "launcher"), "launcher")
    refuse_launched()
    path = round_dir(arm, k) / "scores.parquet"
    pairs = int((read_table(POOL / "pairs.parquet", ["split"])["split"] == "pool").sum())
    if pairs < launcher.score_from or not must_launch(launcher):
        return work(acquisition, arm, k, path)
    path.unlink(missing_ok=True)
    launch(launcher, "stages.score", [arm, k, str(path)])
    if not path.exists():
        raise LaunchError(f"launcher: {launcher.kind} ended well but {path} is not there; see what it printed")
    return None


def work(acquisition: Acquisition, arm: str, k: str, path: Path) -> None:
    """Score, alone or as one of several processes, of which the first writes."""
    here = round_dir(arm, k)
    labels = read_table(here / "labels.parquet", ["seed", "pair"])
    out = []
    with process_group() as group:
        for seed in seeds_of(here / "model"):
            pool = read_pool(POOL, features_dir(here / "model", seed, "pool"))
            model, bought = load(here / "model" / f"seed-{seed}"), labels["pair"][labels["seed"] == seed]
            moments = None if group is None else shared_moments(model, pool, bought, group)
            if group is not None and moments is None:
                continue
            drawn = generator("score", arm, seed, int(k))
            scores = score(acquisition, model, pool, bought, generator=drawn, moments=moments)
            out.append({"seed": np.full(len(scores["pair"]), seed), **scores})
    if out:
        write_table(path, concatenate(out))


if __name__ == "__main__":
    run(main)
