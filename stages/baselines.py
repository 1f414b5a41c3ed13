"""Stage baselines: what length and vocabulary alone would score, trained on every label of the pool."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bgpm.data.tables import as_pairs, read_table, rows_of, where
from bgpm.evaluation.baselines import Split, baselines
from bgpm.stage import BENCHMARK, DATA, POOL, TRUTH, read_params, run, setting, write_json


def main() -> None:
    xstest = setting(read_params(), "benchmark.xstest_weights")
    splits = [_split(POOL, "pool"), _split(POOL, "heldout"), _split(BENCHMARK, "benchmark")]
    write_json(DATA / "baselines.json", baselines(*splits, xstest=xstest))


def _split(folder: Path, name: str) -> Split:
    """The labelled pairs of one split with their texts; none where no label is recorded."""
    table = read_table(folder / "pairs.parquet")
    truth = read_table(TRUTH / f"{name}.parquet", ["pair_id", "label"])
    truth = where(truth, ~np.isnan(truth["label"]))
    table = where(table, rows_of(table["pair_id"], truth["pair_id"], str(folder / "pairs.parquet")))
    texts = read_table(folder / "responses.parquet", ["text"])["text"].tolist()
    return Split(as_pairs(table), truth["label"], table["section"], table["subset"], texts)


if __name__ == "__main__":
    run(main)
