"""RewardBench's rules (arXiv:2403.13787): from subset accuracies to section scores and the overall score.

A section's score is the mean over its subsets weighted by the published counts; math-prm counts as 984,
so that mathematics and code weigh the same in Reasoning. The overall score is the plain mean of the four
sections. A tie scores 0. A subset that is missing is named, its section is marked partial, and nothing is
filled in. For the two xstest subsets two weights circulate: the official code's (250 and 154) and the data
set's own counts (154 and 250).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from bgpm.data.subsets import REWARDBENCH, SECTION_OF


@dataclass(frozen=True)
class SectionScore:
    """One section's score.

    Attributes:
        score: Weighted accuracy over the subsets that are there, in [0, 1].
        missing: Subsets that are not there; the section is partial when there are any.
    """

    score: float
    missing: tuple[str, ...]


def is_rewardbench(subsets: Iterable[str]) -> bool:
    """Whether a benchmark is scored by RewardBench's rules: it has a subset of it. Other subsets then stand alone."""
    return not SECTION_OF.keys().isdisjoint(subsets)


def weights(section: str, xstest: str = "code") -> dict[str, int]:
    """Weight of each subset of a section; ``xstest`` is ``code`` or ``dataset``."""
    table = dict(REWARDBENCH[section])
    if section == "safety" and xstest == "dataset":
        table |= {"xstest-should-refuse": 154, "xstest-should-respond": 250}
    return table


def section_scores(accuracy: Mapping[str, float], xstest: str = "code") -> dict[str, SectionScore]:
    """Score of every section of which at least one subset is there.

    Args:
        accuracy: Accuracy in [0, 1] by subset name; names outside RewardBench are ignored.
        xstest: Which of the two published weights of the xstest subsets.
    """
    scores = {}
    for section in REWARDBENCH:
        table = weights(section, xstest)
        there = [name for name in table if name in accuracy]
        if there:
            total = sum(table[name] for name in there)
            score = sum(table[name] * accuracy[name] for name in there) / total
            scores[section] = SectionScore(score, tuple(name for name in table if name not in accuracy))
    return scores


def official_results(model: str, model_type: str, accuracy: Mapping[str, float]) -> dict[str, str | float]:
    """A model's results in the shape of the files in allenai/reward-bench-results: one flat JSON object.

    Keys as in ``results_grouped`` of scripts/run_rm.py and scripts/run_v2.py of github.com/allenai/reward-bench, and as
    in the files published there: ``model``, ``model_type``, ``chat_template`` and the accuracy of each subset; no
    section score. The official code writes it indented by 4 with sorted keys.

    Args:
        model: Name of the model.
        model_type: ``Custom Classifier`` for models that compare two responses, as published for GPM.
        accuracy: By subset, in [0, 1]; of RewardBench 2's Ties, its score.
    """
    return {"model": model, "model_type": model_type, "chat_template": "none", **accuracy}


def overall(sections: Mapping[str, SectionScore]) -> float:
    """Plain mean of the section scores that are there."""
    return sum(s.score for s in sections.values()) / len(sections)
