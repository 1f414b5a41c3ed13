"""Stage evaluate: extend the learning curve by one round, on held-out prompts and on the benchmark."""

from __future__ import annotations

import logging

import numpy as np

from bgpm.data.sheets import csv_rows, csv_text
from bgpm.data.tables import as_pairs, concatenate, read_table, where, write_table
from bgpm.evaluation.benchmark import published_results
from bgpm.evaluation.curve import length_rule
from bgpm.loop.evaluate import measure
from bgpm.loop.pool import read_labelled
from bgpm.posteriors import load
from bgpm.stage import (
    BENCHMARK,
    POOL,
    TRUTH,
    features_dir,
    read_params,
    round_dir,
    run,
    seeds_of,
    setting,
    whole_folder,
    write_json,
)

log = logging.getLogger("bgpm")

COLUMNS = ["seed", "round", "labels", "split", "section", "metric", "value"]
FIGURES = ["seed", "figure", "series", "x", "y", "count"]


def main(arm: str, k: str = "0") -> None:
    xstest = setting(read_params(), "benchmark.xstest_weights")
    here, number = round_dir(arm, k), int(k)
    words = np.array([len(text.split()) for text in read_table(POOL / "responses.parquet", ["text"])["text"]])
    pool_pairs = as_pairs(read_table(POOL / "pairs.parquet", ["first", "second", "prompt"]))
    gap = words[pool_pairs.first] - words[pool_pairs.second]
    labels = read_table(here / "labels.parquet")
    curve, prompts, figures, published = [], [], [], {}
    for seed in seeds_of(here / "model"):
        heldout = read_labelled(POOL, TRUTH / "heldout.parquet", features_dir(here / "model", seed, "pool"))
        on = features_dir(here / "model", seed, "benchmark")
        benchmark = read_labelled(BENCHMARK, TRUTH / "benchmark.parquet", on)
        mine = where(labels, labels["seed"] == seed)
        model = load(here / "model" / f"seed-{seed}")
        point = measure(model, heldout, benchmark, xstest=xstest)
        rows = list(point.rows)
        if heldout.decided:
            by_length = length_rule(gap[mine["pair"]], mine["label"], gap[heldout.rows], heldout.label)
            rows.append(("heldout", "all", "length_rule", by_length))
        else:
            log.warning("%s, round %d: no held-out labels yet: run `bgpm annotate --heldout`", arm, number)
        curve += [(seed, number, len(mine["label"]), *row) for row in rows]
        place = {"seed": seed, "round": number}
        answers = point.answers
        prompts.append({name: np.full(len(answers["prompt"]), value) for name, value in place.items()} | answers)
        figures += [(seed, *row) for row in point.figures]
        published[seed] = published_results(f"bgpm/{arm}-round-{number}-seed-{seed}", point.score, benchmark)
    with whole_folder(here / "evaluation") as folder:
        if number > 0:
            before = round_dir(arm, number - 1) / "evaluation"
            with (before / "curve.csv").open(encoding="utf-8", newline="") as file:
                curve = [tuple(row.values()) for row in csv_rows(file)] + curve
            prompts = [read_table(before / "prompts.parquet"), *prompts]
        with (folder / "curve.csv").open("w", encoding="utf-8", newline="") as file:
            file.write(csv_text(COLUMNS, curve))
        write_table(folder / "prompts.parquet", concatenate(prompts))
        with (folder / "figures.csv").open("w", encoding="utf-8", newline="") as file:
            file.write(csv_text(FIGURES, figures))
        for seed, results in published.items():
            if results is not None:
                write_json(folder / "rewardbench" / f"seed-{seed}.json", results)


if __name__ == "__main__":
    run(main)
