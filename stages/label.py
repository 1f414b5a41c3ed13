"""Stage label: ask the oracle for a batch's labels and add them to what is known."""

from __future__ import annotations

import numpy as np

from bgpm.data.tables import concatenate, read_table, write_table
from bgpm.errors import LabelsPendingError
from bgpm.oracles import Oracle, OracleFiles, Question
from bgpm.registry import build
from bgpm.stage import (
    ANNOTATIONS,
    POOL,
    START,
    TRUTH,
    WAITING,
    read_params,
    round_dir,
    run,
    setting,
    write_json,
)


def main(arm: str, k: str = "0") -> None:
    params = read_params()
    kind = setting(params, "oracle")
    oracle = build(Oracle, kind, setting(params, f"oracles.{kind}"), "oracles")
    here = round_dir(arm, k)
    files = OracleFiles(TRUTH / "pool.parquet", ANNOTATIONS, here / "batch.parquet", POOL)
    batch = read_table(files.batch)
    questions = [
        Question(pair_id, seed) for pair_id, seed in zip(batch["pair_id"], batch["seed"].tolist(), strict=True)
    ]
    try:
        verdicts = oracle(questions, files)
    except LabelsPendingError as error:
        if error.pairs:
            write_json(here / WAITING, {"pairs": error.pairs})
        raise
    first = arm == "start"
    bought = {
        "seed": batch["seed"],
        "round": np.full(len(questions), 0 if first else int(k) + 1),
        **{name: batch[name] for name in ("pair", "pair_id", "value", "mean", "variance")},
        "label": verdicts.label,  # NaN: everybody abstained; the row stays, so that the pair is not bought again
        "margin": verdicts.margin,
        "annotators": verdicts.annotators,
        "cost": verdicts.cost,
    }
    if first:
        write_table(START / "labels.parquet", bought)
    else:
        known = read_table(here / "labels.parquet", list(bought))
        write_table(round_dir(arm, int(k) + 1) / "labels.parquet", concatenate([known, bought]))
    (here / WAITING).unlink(missing_ok=True)


if __name__ == "__main__":
    run(main)
