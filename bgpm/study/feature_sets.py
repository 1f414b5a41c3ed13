"""What features are worth: accuracy on unseen prompts of a model of uniformly drawn labels, by features and labels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from bgpm.data.tables import concatenate, read_table, where
from bgpm.evaluation.accuracy import correct
from bgpm.evaluation.labelled_pairs import read_split
from bgpm.evaluation.savings import Interval, Resamples, Trials, bca, resample
from bgpm.features import FeatureSettings
from bgpm.loop.evaluate import by_prompt
from bgpm.loop.pool import LabelledSplit, Pool, Table, with_features
from bgpm.loop.start import start
from bgpm.loop.train import train
from bgpm.models import Model
from bgpm.oracles.recorded import Recorded
from bgpm.posteriors import Posterior
from bgpm.selection import StartSettings
from bgpm.stage import STUDY, generator
from bgpm.study import StudyPlan
from bgpm.study.arm import oracle_labels
from bgpm.study.pools import features_of, fit_reduction, pool_numbers, states_of
from bgpm.study.seeds import of_all

COLUMNS = (
    "pool", "features", "model", "labels", "accuracy", "low", "high", "gain", "gain_low", "gain_high", "seeds",
    "default",
)  # fmt: skip


def read_set(pool: str, features: FeatureSettings) -> tuple[Pool, LabelledSplit]:
    """A pool of the study and its held-out pairs, with features fitted on the pool's unlabelled texts."""
    folder = STUDY / "tables" / pool
    tables = {kind: read_table(folder / f"{kind}.parquet") for kind in ("responses", "prompts")}
    states = states_of(STUDY / "embeddings", folder)
    numbers = pool_numbers(features, STUDY / "columns" / f"{pool}.parquet")
    found = features_of(fit_reduction(features, tables, states, numbers), tables, states, numbers)
    split = read_split(folder, folder / "truth-heldout.parquet")
    return Pool(read_table(folder / "pairs.parquet"), found), with_features(split, found)


def all_seeds(
    plan: StudyPlan, name: str, model: Model, posterior: Posterior, pool: Pool, heldout: LabelledSplit
) -> Table:
    """`accuracies` of every seed of the plan, with a column seed; ``name`` is the pool's."""
    folder, counts = STUDY / "tables" / name, plan.feature_sets.labels
    seeds = range(plan.first_seed, plan.first_seed + plan.seeds)
    found = [
        accuracies(model, posterior, pool, oracle_labels(folder, pool, Recorded(), seed), heldout, counts, seed=seed)
        for seed in tqdm(seeds, name, unit="seed", disable=None)
    ]
    return of_all(seeds, found)


def accuracies(
    model: Model,
    posterior: Posterior,
    pool: Pool,
    truth: Table,
    heldout: LabelledSplit,
    counts: Sequence[int],
    *,
    seed: int,
) -> Table:
    """Right responses on held-out prompts: labels, prompt, pairs, right. Every set of features has the same draws.

    Args:
        truth: Label and margin of every row of the pool's table.
        counts: Increasing label counts; those that the pool does not have are left out.
    """
    counts = [n for n in counts if n <= len(pool.open)]
    drawn = start(StartSettings(labels=counts[-1]), pool, generator=generator("start", seed))
    return along(model, posterior, pool, truth, heldout, drawn, counts, seed=seed)


def along(
    model: Model,
    posterior: Posterior,
    pool: Pool,
    truth: Table,
    heldout: LabelledSplit,
    acquired: np.ndarray,
    counts: Sequence[int],
    *,
    seed: int,
) -> Table:
    """As `accuracies`, of the first labels of rows of the pool in the order of their acquisition."""
    out = []
    for n in counts:
        rows = acquired[:n]
        labels = {"pair": rows} | {name: truth[name][rows] for name in ("label", "margin")}
        fitted = train(posterior, model, pool, labels, seed=seed)
        score = fitted.moments(heldout.features, heldout.pairs).mean.numpy()
        found = by_prompt(heldout.pairs.prompt, correct(score, heldout.label, tie=0.5))
        out.append({"labels": np.full(len(found["prompt"]), n)} | found)
    return concatenate(out)


def read_accuracies(path: Path) -> Trials:
    """What `accuracies` gave for every seed, with a column seed, as a file has it."""
    return trials(read_table(path, ["seed", "labels", "prompt", "pairs", "right"]))


def trials(table: Table) -> Trials:
    """What `accuracies` or `along` gave for every seed, with a column seed."""
    seeds, counts, prompts = (np.unique(table[name]) for name in ("seed", "labels", "prompt"))
    right = np.empty((len(seeds), len(counts), len(prompts)))
    cells = (seeds, "seed"), (counts, "labels"), (prompts, "prompt")
    right[tuple(np.searchsorted(names, table[column]) for names, column in cells)] = table["right"]
    one = where(table, (table["seed"] == seeds[0]) & (table["labels"] == counts[0]))
    pairs = np.empty(len(prompts))
    pairs[np.searchsorted(prompts, one["prompt"])] = one["pairs"]
    return Trials(counts.astype(np.float64), right, pairs)


def rows(plan: StudyPlan, folder: Path) -> Iterator[dict[str, object]]:
    """Lines of ``features.csv``: accuracy and what it gains over the first set, each with its 95% BCa interval."""
    study = plan.feature_sets
    for pool in study.pools:
        found = {name: read_accuracies(folder / pool / name / "prompts.parquet") for name in study.sets}
        first = found[study.sets[0]]
        for name in study.sets:
            curves = resample(found[name], first, plan.resamples, generator("study", pool))
            for t, labels in enumerate(first.labels):
                value, gain = curves.arm[t], curves.arm[t] - curves.baseline[t]
                own, beside = intervals(curves, t)
                yield {
                    "pool": pool,
                    "features": name,
                    "model": study.model,
                    "labels": int(labels),
                    "accuracy": f"{value:.4f}",
                    **named_ends("", own),
                    "gain": f"{gain:.4f}",
                    **named_ends("gain_", beside if name != study.sets[0] else None),
                    "seeds": len(found[name].right),
                    "default": study.plans[name] == plan.features,
                }


def intervals(curves: Resamples, t: int) -> tuple[Interval, Interval]:
    """Of the accuracy at one label count, and of its difference from the first set's."""
    assert curves.draws is not None  # a plan has two seeds or more
    arm, first = (draws[:, t] for draws in curves.draws)
    left = [(a[:, t], b[:, t]) for a, b in curves.jackknife]
    own = bca(float(curves.arm[t]), arm, [a for a, _ in left])
    return own, bca(float(curves.arm[t] - curves.baseline[t]), arm - first, [a - b for a, b in left])


def named_ends(prefix: str, interval: Interval | None) -> dict[str, str]:
    """Cells ``low`` and ``high`` of a line, empty where there is no interval."""
    low, high = (interval.low, interval.high) if interval else (math.nan, math.nan)
    return {f"{prefix}{name}": "" if math.isnan(v) else f"{v:.4f}" for name, v in (("low", low), ("high", high))}


def markdown(plan: StudyPlan, lines: Sequence[dict[str, object]]) -> list[str]:
    """A table a pool: accuracy by features and labels, and the gain over the first set with its interval."""
    study = plan.feature_sets
    out = [
        "# Accuracy by features",
        "",
        f"Held-out prompts, labels drawn uniformly, {study.model} with {study.posterior}, {plan.seeds} seeds. In "
        f"brackets the gain over `{study.sets[0]}` in points, with its 95% interval over seeds and held-out prompts. "
        "Not corrected for the number of comparisons.",
        "",
    ]
    for pool in dict.fromkeys(line["pool"] for line in lines):
        here = {(line["features"], line["labels"]): line for line in lines if line["pool"] == pool}
        counts = list(dict.fromkeys(labels for _, labels in here))
        out += [f"## {pool}", "", "| features | " + " | ".join(f"{n} labels" for n in counts) + " |"]
        out.append("|---" * (len(counts) + 1) + "|")
        for name in study.sets:
            cells = " | ".join(gain_cell(here[name, n]) for n in counts)
            out.append(f"| {f'**{name}**' if here[name, counts[0]]['default'] else name} | {cells} |")
        out.append("")
    return out


def gain_cell(line: dict[str, object]) -> str:
    """Accuracy, and its gain with an interval where there is one, in percent and points."""
    numbers = (float(str(line[name] or "nan")) for name in ("accuracy", "gain", "gain_low", "gain_high"))
    accuracy, gain, low, high = numbers
    if math.isnan(low):
        return f"{100 * accuracy:.1f}%"
    return f"{100 * accuracy:.1f}% ({100 * gain:+.1f}: {100 * low:+.1f} to {100 * high:+.1f})"
