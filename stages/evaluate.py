"""Stage evaluate: extend the learning curve by one round, on held-out prompts and on the benchmark."""

from __future__ import annotations

import csv

import numpy as np

from bgpm.data.tables import as_pairs, concatenate, read_table, rows_of, where, write_table
from bgpm.evaluation.curve import benchmark_rows, correct, heldout_rows, length_rule
from bgpm.posteriors import load
from bgpm.stage import BENCHMARK, FEATURES, POOL, TRUTH, read_params, round_dir, run, seeds_of, setting, whole_folder
from bgpm.types import Features

COLUMNS = ["seed", "round", "labels", "split", "section", "metric", "value"]


def main(arm: str, k: str = "0") -> None:
    xstest = setting(read_params(), "benchmark.xstest_weights")
    here, number = round_dir(arm, k), int(k)
    heldout = _Split("pool", "heldout")
    benchmark = _Split("benchmark", "benchmark")
    words = np.array([len(text.split()) for text in read_table(POOL / "responses.parquet", ["text"])["text"]])
    pool_pairs = as_pairs(read_table(POOL / "pairs.parquet", ["first", "second", "prompt"]))
    gap = words[pool_pairs.first] - words[pool_pairs.second]
    labels = read_table(here / "labels.parquet")
    curve, prompts = [], []
    for seed in seeds_of(here / "model"):
        model = load(here / "model" / f"seed-{seed}")
        mine = where(labels, labels["seed"] == seed)
        moments = model.moments(heldout.features, heldout.pairs)
        rows = list(heldout_rows(moments, heldout.label, heldout.section))
        rows.append(
            (
                "heldout",
                "all",
                "length_rule",
                length_rule(gap[mine["pair"]], mine["label"], gap[heldout.rows], heldout.label),
            )
        )
        rows += benchmark_rows(
            model.moments(benchmark.features, benchmark.pairs),
            benchmark.label,
            benchmark.section,
            benchmark.subset,
            xstest=xstest,
        )
        rows += [("model", "all", name, float(v)) for name, v in model.summary().items() if not isinstance(v, str)]
        curve += [(seed, number, len(mine["label"]), *row) for row in rows]
        prompts.append(
            _by_prompt(seed, number, heldout.pairs.prompt, correct(moments.mean.numpy(), heldout.label, tie=0.5))
        )
    with whole_folder(here / "evaluation") as folder:
        if number > 0:
            before = round_dir(arm, number - 1) / "evaluation"
            with (before / "curve.csv").open(encoding="utf-8", newline="") as file:
                curve = [tuple(row.values()) for row in csv.DictReader(file)] + curve
            prompts = [read_table(before / "prompts.parquet"), *prompts]
        with (folder / "curve.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([COLUMNS, *curve])
        write_table(folder / "prompts.parquet", concatenate(prompts))


class _Split:
    """The pairs of one split with their labels and the features of their texts."""

    def __init__(self, folder: str, split: str) -> None:
        root = {"pool": POOL, "benchmark": BENCHMARK}[folder]
        table = read_table(root / "pairs.parquet")
        truth = read_table(TRUTH / f"{split}.parquet", ["pair_id", "label"])
        known = truth["pair_id"][~np.isnan(truth["label"])]
        self.rows = rows_of(table["pair_id"], known, str(root / "pairs.parquet"))
        table = where(table, self.rows)
        self.label = truth["label"][~np.isnan(truth["label"])]
        self.pairs, self.section, self.subset = as_pairs(table), table["section"], table["subset"]
        self.features = Features(*(np.load(FEATURES / folder / f"{name}.npy") for name in ("responses", "prompts")))


def _by_prompt(seed: int, k: int, prompt: np.ndarray, right: np.ndarray) -> dict[str, np.ndarray]:
    """Pairs and right answers of each prompt: what a bootstrap over prompts needs."""
    decided = ~np.isnan(right)
    names, inverse = np.unique(prompt[decided], return_inverse=True)
    return {
        "seed": np.full(len(names), seed),
        "round": np.full(len(names), k),
        "prompt": names,
        "pairs": np.bincount(inverse, minlength=len(names)).astype(np.float64),
        "right": np.bincount(inverse, weights=right[decided], minlength=len(names)),
    }


if __name__ == "__main__":
    run(main)
