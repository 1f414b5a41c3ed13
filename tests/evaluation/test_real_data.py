"""A RewardBench-shaped file in a folder of one's own: ``BGPM_REAL_DATA=/some/folder pytest tests/evaluation``."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from bgpm.data.prepare import prepare
from bgpm.data.schema import BenchmarkSettings, PoolSettings
from bgpm.data.subsets import REWARDBENCH, SECTION_OF
from bgpm.data.tables import read_table, write_table
from bgpm.evaluation.baselines import TextSplit, benchmark_scores
from bgpm.evaluation.benchmark import benchmark_score
from bgpm.evaluation.labelled_pairs import read_split

FOLDER = Path(os.environ.get("BGPM_REAL_DATA", "."))
POOL, BENCHMARK = FOLDER / "human_tulu1_eval.jsonl.gz", FOLDER / "rewardbench_recon.jsonl.gz"


@pytest.mark.skipif(
    not BENCHMARK.exists() or not POOL.exists(), reason="set BGPM_REAL_DATA to a folder with both files"
)
def test_a_partial_rewardbench_is_scored_by_its_weights_and_says_what_it_lacks(tmp_path: Path) -> None:
    done = prepare(PoolSettings(path=str(POOL), heldout=0.3), BenchmarkSettings(path=str(BENCHMARK)))
    for name, table in done.benchmark.items():
        write_table(tmp_path / f"{name}.parquet", table)
    write_table(tmp_path / "truth.parquet", done.truth["benchmark"])
    data = TextSplit(
        read_split(tmp_path, tmp_path / "truth.parquet"), read_table(tmp_path / "responses.parquet")["text"].tolist()
    )
    split, words = data.split, data.words()
    score = benchmark_score(words, split, "code")
    print({name: round(value, 4) for name, value in score.sections.items()}, round(score.total, 4))
    there = Counter(split.subset.tolist())
    assert score.missing == {section: len(subsets.keys() - there.keys()) for section, subsets in REWARDBENCH.items()}
    right = Counter()
    for subset, gap, label in zip(split.subset, words, split.label, strict=True):
        right[subset] += gap != 0 and (gap > 0) == (label > 0.5)
    for section, value in score.sections.items():
        subsets = {name: count for name, count in REWARDBENCH[section].items() if name in there}
        by_hand = sum(count * right[name] / there[name] for name, count in subsets.items()) / sum(subsets.values())
        assert value == pytest.approx(by_hand, abs=1e-12)
    assert there.keys() <= SECTION_OF.keys()
    assert benchmark_scores(words, split, "code")["all"] == pytest.approx(np.mean(list(score.sections.values())))
