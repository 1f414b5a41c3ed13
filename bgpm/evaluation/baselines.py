"""What a preference can be guessed from without understanding a word: baselines trained on every label of the pool.

- ``first``: the first answer is the better one. Answers are in shuffled order, so this is chance.
- ``length``: the longer answer is better, or the shorter, whichever the pool's labels favour.
- ``words``: logistic regression on which words one answer has and the other lacks.

A learned model that does not beat these has learned length or vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bgpm.evaluation.curve import correct
from bgpm.evaluation.rewardbench import is_rewardbench, overall, section_scores
from bgpm.types import Pairs

Scores = dict[str, float]
PENALTIES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)  # inverse regularisation strengths that cross-validation tries
FOLDS = 5


@dataclass(frozen=True)
class Split:
    """Labelled pairs with their texts.

    Attributes:
        pairs: [N], rows of ``texts``.
        label: float64 [N], probability that the first answer is better.
        section, subset: str [N].
        texts: Answers, [R].
    """

    pairs: Pairs
    label: np.ndarray
    section: np.ndarray
    subset: np.ndarray
    texts: Sequence[str]

    def words(self) -> np.ndarray:
        """Words of the first answer minus words of the second, [N]."""
        count = np.array([len(text.split()) for text in self.texts])
        return count[self.pairs.first] - count[self.pairs.second]


def length_direction(train: Split) -> float:
    """1 where the labels favour the longer answer, -1 where the shorter; 1 when they favour neither."""
    return 1.0 if np.sum(np.sign(train.words()) * np.sign(train.label - 0.5)) >= 0 else -1.0


def word_scores(train: Split, tests: Sequence[Split]) -> list[np.ndarray]:
    """Scores of the pairs of each test split by a model of word presence, [N] each; swapping answers flips the sign.

    The penalty is chosen by cross-validation over prompts. Words are those of at least two training answers.
    All zero, which decides nothing, where the labels cover fewer prompts than there are folds or no word
    stands in two answers.
    """
    from scipy.sparse import csr_matrix, vstack
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, GroupKFold

    decided = np.flatnonzero(train.label != 0.5)
    pairs, better = train.pairs.take(decided), train.label[decided] > 0.5
    if len(np.unique(pairs.prompt)) < FOLDS:
        return [np.zeros(len(test.pairs)) for test in tests]
    vocabulary = CountVectorizer(binary=True, min_df=2, token_pattern=r"(?u)\b\w+\b|[^\w\s]")
    rows = np.unique([pairs.first, pairs.second])
    try:
        vocabulary.fit([train.texts[row] for row in rows])
    except ValueError:  # no word stands in two answers: there is nothing to learn from
        return [np.zeros(len(test.pairs)) for test in tests]

    def differences(split: Split, pairs: Pairs):
        presence = csr_matrix(vocabulary.transform(split.texts), dtype=np.float64)
        return presence[pairs.first] - presence[pairs.second]

    # No intercept, and every pair both ways round: the model cannot prefer a position, and no fold lacks a class.
    one_way = differences(train, pairs)
    x, y, groups = vstack([one_way, -one_way]), np.concatenate([better, ~better]), np.tile(pairs.prompt, 2)
    search = GridSearchCV(
        LogisticRegression(fit_intercept=False, max_iter=1000),
        {"C": list(PENALTIES)},
        scoring="neg_log_loss",
        cv=GroupKFold(FOLDS),
    )
    search.fit(x, y, groups=groups)
    fitted = search.best_estimator_
    return [
        fitted.decision_function(differences(test, test.pairs)) if len(test.pairs) else np.zeros(0) for test in tests
    ]


def heldout_scores(scores: np.ndarray, split: Split) -> Scores:
    """Accuracy over pairs and by section; a tied score counts one half."""
    right = correct(scores, split.label, tie=0.5)
    by_section = {name: right[split.section == name] for name in sorted(set(split.section) - {""})}
    out = {"all": float(np.nanmean(right))}
    return out | {name: float(np.nanmean(here)) for name, here in by_section.items() if not np.isnan(here).all()}


def benchmark_scores(scores: np.ndarray, split: Split, xstest: str) -> Scores:
    """Accuracy by section and overall, by RewardBench's rules where the subsets are RewardBench's; a tie scores 0."""
    right = correct(scores, split.label, tie=0.0)
    names = sorted(set(split.subset))
    if is_rewardbench(names):
        sections = section_scores({name: float(right[split.subset == name].mean()) for name in names}, xstest)
        return {"all": overall(sections)} | {name: s.score for name, s in sections.items()}
    by_section = {name: float(right[split.section == name].mean()) for name in sorted(set(split.section))}
    return {"all": float(np.mean(list(by_section.values())))} | by_section


def baselines(train: Split, heldout: Split, benchmark: Split, *, xstest: str) -> dict[str, object]:
    """Accuracy of every baseline on held-out pairs and on the benchmark.

    Where the pool has no labels, what needs them is left out and ``notes`` says so.
    """
    rules: dict[str, tuple[np.ndarray, np.ndarray]] = {
        "first": (np.ones(len(heldout.pairs)), np.ones(len(benchmark.pairs)))
    }
    notes = []
    if len(train.label):
        direction = length_direction(train)
        rules["length"] = direction * heldout.words(), direction * benchmark.words()
        notes.append(f"length: the {'longer' if direction > 0 else 'shorter'} answer is taken for the better one")
        on_heldout, on_benchmark = word_scores(train, [heldout, benchmark])
        rules["words"] = on_heldout, on_benchmark
    else:
        notes.append("the pool has no recorded labels: length and words have nothing to learn from")
    return {"labels": len(train.label), "notes": notes, "rules": _measured(rules, heldout, benchmark, xstest)}


def _measured(
    rules: Mapping[str, tuple[np.ndarray, np.ndarray]], heldout: Split, benchmark: Split, xstest: str
) -> dict[str, dict[str, Scores]]:
    return {
        name: {
            **({"heldout": heldout_scores(on_heldout, heldout)} if (heldout.label != 0.5).any() else {}),
            **({"benchmark": benchmark_scores(on_benchmark, benchmark, xstest)} if len(benchmark.label) else {}),
        }
        for name, (on_heldout, on_benchmark) in rules.items()
    }
