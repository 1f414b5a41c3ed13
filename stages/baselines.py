"""Stage baselines: what length and vocabulary alone would score, trained on every label of the pool."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from bgpm.data.tables import read_table
from bgpm.evaluation.baselines import TextSplit, baselines
from bgpm.evaluation.labelled_pairs import read_split
from bgpm.sections import Sections
from bgpm.stage import BENCHMARK, DATA, POOL, TRUTH, run, write_json


class Baselines(Sections):
    xstest: str = Field(alias="benchmark.xstest_weights")


def main() -> None:
    settings = Baselines.read()
    splits = [_split(POOL, "pool"), _split(POOL, "heldout"), _split(BENCHMARK, "benchmark")]
    write_json(DATA / "baselines.json", baselines(*splits, xstest=settings.xstest))


def _split(folder: Path, name: str) -> TextSplit:
    """The labelled pairs of one split with their texts."""
    texts = read_table(folder / "responses.parquet", ["text"])["text"].tolist()
    return TextSplit(read_split(folder, TRUTH / f"{name}.parquet"), texts)


if __name__ == "__main__":
    run(main)
