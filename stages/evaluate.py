"""Stage evaluate: extend the learning curve by one round, on held-out prompts and on the benchmark."""

from __future__ import annotations

import csv
import logging

import numpy as np

from bgpm.data.tables import as_pairs, concatenate, read_table, where, write_table
from bgpm.evaluation.curve import length_rule
from bgpm.loop.evaluate import evaluate
from bgpm.loop.pool import read_labelled
from bgpm.posteriors import load
from bgpm.stage import BENCHMARK, FEATURES, POOL, TRUTH, read_params, round_dir, run, seeds_of, setting, whole_folder

log = logging.getLogger("bgpm")

COLUMNS = ["seed", "round", "labels", "split", "section", "metric", "value"]


def main(arm: str, k: str = "0") -> None:
    xstest = setting(read_params(), "benchmark.xstest_weights")
    here, number = round_dir(arm, k), int(k)
    heldout = read_labelled(POOL, TRUTH / "heldout.parquet", FEATURES / "pool")
    benchmark = read_labelled(BENCHMARK, TRUTH / "benchmark.parquet", FEATURES / "benchmark")
    words = np.array([len(text.split()) for text in read_table(POOL / "responses.parquet", ["text"])["text"]])
    pool_pairs = as_pairs(read_table(POOL / "pairs.parquet", ["first", "second", "prompt"]))
    gap = words[pool_pairs.first] - words[pool_pairs.second]
    labels = read_table(here / "labels.parquet")
    if not heldout.decided:
        log.warning("%s, round %d: no held-out labels yet: run `bgpm annotate --heldout`", arm, number)
    curve, prompts = [], []
    for seed in seeds_of(here / "model"):
        mine = where(labels, labels["seed"] == seed)
        model = load(here / "model" / f"seed-{seed}")
        rows, answers = evaluate(model, heldout, benchmark, xstest=xstest)
        if heldout.decided:
            by_length = length_rule(gap[mine["pair"]], mine["label"], gap[heldout.rows], heldout.label)
            rows.append(("heldout", "all", "length_rule", by_length))
        curve += [(seed, number, len(mine["label"]), *row) for row in rows]
        place = {"seed": seed, "round": number}
        prompts.append({name: np.full(len(answers["prompt"]), value) for name, value in place.items()} | answers)
    with whole_folder(here / "evaluation") as folder:
        if number > 0:
            before = round_dir(arm, number - 1) / "evaluation"
            with (before / "curve.csv").open(encoding="utf-8", newline="") as file:
                curve = [tuple(row.values()) for row in csv.DictReader(file)] + curve
            prompts = [read_table(before / "prompts.parquet"), *prompts]
        with (folder / "curve.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([COLUMNS, *curve])
        write_table(folder / "prompts.parquet", concatenate(prompts))


if __name__ == "__main__":
    run(main)
