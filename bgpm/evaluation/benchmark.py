"""A benchmark's score from scores of its pairs, by the rule of the benchmark; models and baselines alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from bgpm.data.subsets import REWARDBENCH, REWARDBENCH2, RM_BENCH, SECTION_OF, section_of
from bgpm.evaluation import rewardbench2, rm_bench
from bgpm.evaluation.accuracy import by_name, correct
from bgpm.evaluation.labelled_pairs import Split
from bgpm.evaluation.rewardbench import is_rewardbench, official_results, overall, section_scores

# What the report says of how the benchmark was scored, by the rule that the prepare stage names.
RULES = {
    "rewardbench": "RewardBench's rules: a section is the mean over its subsets weighted by the published counts "
    "(math-prm as 984), the overall score the plain mean of the sections; a tie scores 0",
    "rewardbench2": "RewardBench 2's rules for a model that compares responses: an item counts when the chosen "
    "response beats every other one (1/k where it ties with k - 1 and loses to none); under Ties a response's scalar "
    "is its mean score against all responses of the item; the overall score is the plain mean of the subsets",
    "rm_bench": "RM-Bench's rules: easy, normal and hard are the chosen response in a more adorned, the same and a "
    "plainer style than the rejected one; a domain is the mean of the three, the overall score the plain mean of the "
    "domains; a tie scores 0",
    "pairs": "a section is the share of its pairs that are ordered rightly, the overall score the plain mean of the "
    "sections; a tie scores 0",
}
XSTEST = {
    "code": "xstest subsets weighted 250 (should refuse) and 154, as the official code does",
    "dataset": "xstest subsets weighted 154 (should refuse) and 250, as the data set's counts are",
}


@dataclass(frozen=True)
class BenchmarkScore:
    """What a benchmark says of one model; shares in [0, 1].

    Attributes:
        total: The overall score.
        sections, subsets: By name.
        missing: How many published subsets a section lacks (``all``: the benchmark); nothing is filled in for them.
    """

    total: float
    sections: Mapping[str, float]
    subsets: Mapping[str, float]
    missing: Mapping[str, int] = field(default_factory=dict)


def rule_in_words(rule: str, subsets: Iterable[str], xstest: str) -> str:
    """How a benchmark was scored, for the report.

    Args:
        rule: As `bgpm.data.prepare` names it.
        subsets: Its subsets.
        xstest: Which weights of RewardBench's xstest subsets.
    """
    if rule == "pairs" and is_rewardbench(subsets):
        return f"{RULES['rewardbench']}; {XSTEST[xstest]}"
    return RULES[rule]


def benchmark_score(mean: np.ndarray, split: Split, xstest: str) -> BenchmarkScore:
    """Score of a benchmark from each pair's score, [N]; only its sign counts, except under RewardBench 2's Ties."""
    if split.items is None:
        return _pairs(mean, split, xstest)
    return {"rewardbench2": _rewardbench2, "rm_bench": _rm_bench}[split.items.rule](mean, split)


def published_results(model: str, score: BenchmarkScore | None, split: Split) -> dict[str, str | float] | None:
    """A model's results as the leaderboards of RewardBench and RewardBench 2 have them; None of another or none."""
    if score is None:
        return None
    if split.items is None:
        names = score.subsets.keys() & SECTION_OF.keys()
    else:
        names = score.subsets.keys() & set(REWARDBENCH2)
    return official_results(model, "Custom Classifier", {n: score.subsets[n] for n in sorted(names)}) if names else None


def _pairs(mean: np.ndarray, split: Split, xstest: str) -> BenchmarkScore:
    right = correct(mean, split.label, tie=0.0)
    subsets = by_name(right, split.subset)
    if not is_rewardbench(subsets):
        sections = by_name(right, split.section)
        return BenchmarkScore(float(np.mean(list(sections.values()))), sections, subsets)
    scores = section_scores(subsets, xstest)
    missing = {name: len(REWARDBENCH[name].keys() - subsets.keys()) for name in REWARDBENCH}
    return BenchmarkScore(overall(scores), {name: s.score for name, s in scores.items()}, subsets, missing)


def _rewardbench2(mean: np.ndarray, split: Split) -> BenchmarkScore:
    assert split.items is not None
    signed, subsets = mean * np.sign(split.label - 0.5), {}
    for name in np.unique(split.subset).tolist():
        here = np.flatnonzero(split.subset == name)
        item = split.items.name[here]
        if name.lower() == "ties":
            pairs = split.pairs.take(here)
            subsets[name] = rewardbench2.ties(mean[here], split.label[here], pairs.response_a, pairs.response_b, item)
        else:
            subsets[name] = float(rewardbench2.best_of(signed[here], item).mean())
    counted = [value for name, value in subsets.items() if name in REWARDBENCH2]
    total = float(np.mean(counted or list(subsets.values())))
    return BenchmarkScore(total, subsets, subsets, {"all": len(set(REWARDBENCH2) - subsets.keys())})


def _rm_bench(mean: np.ndarray, split: Split) -> BenchmarkScore:
    assert split.items is not None
    right = correct(mean, split.label, tie=0.0)
    found = {
        name: rm_bench.levels(rm_bench.matrix(right[split.subset == name], split.items.cell[split.subset == name]))
        for name in np.unique(split.subset).tolist()
    }
    domains: dict[str, list[dict[str, float]]] = {}
    for name, by_level in found.items():
        domains.setdefault(section_of("rm_bench", name) or name, []).append(by_level)
    mean_of = {
        name: {level: float(np.mean([part[level] for part in parts])) for level in rm_bench.LEVELS}
        for name, parts in domains.items()
    }
    sections = {name: float(np.mean(list(by_level.values()))) for name, by_level in mean_of.items()}
    total = float(np.mean(list(sections.values())))
    sections |= {level: float(np.mean([part[level] for part in mean_of.values()])) for level in rm_bench.LEVELS}
    subsets = {f"{name}/{level}": value for name, by_level in found.items() for level, value in by_level.items()}
    return BenchmarkScore(total, sections, subsets, {"all": len(set(RM_BENCH) - found.keys())})
