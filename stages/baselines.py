"""Stage baselines: what length and vocabulary alone would score, trained on every label of the pool."""

from __future__ import annotations

from pathlib import Path

from bgpm.data.tables import read_table
from bgpm.evaluation.baselines import TextSplit, baselines
from bgpm.evaluation.labelled_pairs import read_split
from bgpm.stage import BENCHMARK, DATA, POOL, TRUTH, read_params, run, setting, write_json


def main() -> None:
    xstest = setting(read_params(), "benchmark.xstest_weights")
    splits = [_split(POOL, "pool"), _split(POOL, "heldout"), _split(BENCHMARK, "benchmark")]
    write_json(DATA / "baselines.json", baselines(*splits, xstest=xstest))


def _split(folder: Path, name: str) -> TextSplit:
    """The labelled pairs of one split with their texts."""
    texts = read_table(folder / "responses.parquet", ["text"])["text"].tolist()
    return TextSplit(read_split(folder, TRUTH / f"{name}.parquet"), texts)


if __name__ == "__main__":
    run(main)
