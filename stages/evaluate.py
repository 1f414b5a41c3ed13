"""Stage evaluate: the labels of the whole pool as the round's model has them, and one more point of the learning curve.

It is measured on held-out prompts, on the benchmark and, where labels are recorded, on the pool.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from bgpm.data.feature_blocks import read_pair_numbers
from bgpm.data.sheets import csv_rows, csv_text
from bgpm.data.tables import as_pairs, concatenate, read_table, where, write_table
from bgpm.evaluation.benchmark import published_results
from bgpm.evaluation.curve import length_rule
from bgpm.evaluation.estimates import estimate_rows
from bgpm.evaluation.pool_labels import audited_rows, pool_rows
from bgpm.loop.evaluate import label_pool, measure
from bgpm.loop.pool import Pool, Table, read_labelled
from bgpm.posteriors import load
from bgpm.sections import Sections
from bgpm.stage import (
    BENCHMARK,
    POOL,
    TRUTH,
    features_dir,
    round_dir,
    run,
    seeds_of,
    whole_folder,
    write_json,
    write_text,
)

log = logging.getLogger("bgpm")

COLUMNS = ["seed", "round", "labels", "split", "section", "metric", "value"]
FIGURES = ["seed", "figure", "series", "x", "y", "count"]


class Evaluate(Sections):
    oracle: str
    xstest: str = Field(alias="benchmark.xstest_weights")


def main(arm: str, k: str = "0") -> None:
    settings = Evaluate.read()
    here, number = round_dir(arm, k), int(k)
    table = read_table(POOL / "pairs.parquet")
    # Of people and judges nobody knows what they would have said of pairs that they were not shown.
    truth = recorded(table) if settings.oracle == "recorded" else None
    gap = length_gap(table)
    labels = read_table(here / "labels.parquet")
    audits = None if arm == "offline" else read_table(here / "audits.parquet")
    curve, prompts, figures, published, whole = [], [], [], {}, []
    for seed in seeds_of(here / "model"):
        heldout = read_labelled(POOL, TRUTH / "heldout.parquet", features_dir(here / "model", seed, "pool"))
        on = features_dir(here / "model", seed, "benchmark")
        benchmark = read_labelled(BENCHMARK, TRUTH / "benchmark.parquet", on)
        mine = where(labels, labels["seed"] == seed)
        model = load(here / "model" / f"seed-{seed}")
        point = measure(model, heldout, benchmark, xstest=settings.xstest)
        rows = list(point.rows)
        if heldout.decided:
            by_length = length_rule(gap[mine["pair"]], mine["label"], gap[heldout.rows], heldout.label)
            rows.append(("heldout", "all", "length_rule", by_length))
        else:
            how = (
                "run `bgpm annotate --heldout`"
                if (table["split"] == "heldout").any()
                else "no prompt is held out (pool.heldout: 0)"
            )
            log.warning("%s, round %d: no held-out labels: %s", arm, number, how)
        if audits is not None:  # offline has acquired the whole pool
            numbers = read_pair_numbers(features_dir(here / "model", seed, "pool"))
            pool = Pool(table, heldout.features, numbers)
            own = label_pool(model, pool, mine, where(audits, audits["seed"] == seed))
            whole.append(
                {"seed": np.full(len(own.pair), seed), "pair_id": pool.table["pair_id"][own.pair], **vars(own)}
            )
            if truth is not None:
                rows += pool_rows(own, truth)
            rows += audited_rows(own, mine)
        if number > 0:  # the batch of this round says how good the model before it was
            batch = mine["round"] == number
            curve += [(seed, number - 1, int((~batch).sum()), *row) for row in estimate_rows(where(mine, batch))]
        curve += [(seed, number, len(mine["label"]), *row) for row in rows]
        place = {"seed": seed, "round": number}
        of_prompts = point.prompts
        prompts.append({name: np.full(len(of_prompts["prompt"]), value) for name, value in place.items()} | of_prompts)
        figures += [(seed, *row) for row in point.figures]
        published[seed] = published_results(f"bgpm/{arm}-round-{number}-seed-{seed}", point.score, benchmark)
    if number > 0:
        before = round_dir(arm, number - 1) / "evaluation"
        with (before / "curve.csv").open(encoding="utf-8", newline="") as file:
            curve = [tuple(row.values()) for row in csv_rows(file)] + curve
        prompts = [read_table(before / "prompts.parquet"), *prompts]
    write(here / "evaluation", curve, concatenate(prompts), figures, published)
    if whole:
        write_table(here / "pool_labels.parquet", concatenate(whole))


def write(
    path: Path, curve: list[tuple], prompts: Table, figures: list[tuple], published: dict[int, dict[str, Any] | None]
) -> None:
    """The learning curve up to this round, accuracies by prompt, the round's figures, and results as published."""
    with whole_folder(path) as folder:
        write_text(folder / "curve.csv", csv_text(COLUMNS, curve))
        write_table(folder / "prompts.parquet", prompts)
        write_text(folder / "figures.csv", csv_text(FIGURES, figures))
        for seed, results in published.items():
            if results is not None:
                write_json(folder / "rewardbench" / f"seed-{seed}.json", results)


def length_gap(table: Table) -> np.ndarray:
    """Words that response_a has more than response_b, of each pair."""
    words = np.array([len(text.split()) for text in read_table(POOL / "responses.parquet", ["text"])["text"]])
    pairs = as_pairs(table)
    return words[pairs.response_a] - words[pairs.response_b]


def recorded(table: Table) -> np.ndarray:
    """The recorded label of every pair that may be acquired, NaN where there is none."""
    truth = read_table(TRUTH / "pool.parquet", ["pair_id", "label"])
    label = dict(zip(truth["pair_id"], truth["label"].tolist(), strict=True))
    return np.array([label.get(pair_id, np.nan) for pair_id in table["pair_id"][table["split"] == "pool"]], np.float64)


if __name__ == "__main__":
    run(main)
