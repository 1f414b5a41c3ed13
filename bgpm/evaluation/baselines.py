"""Baselines that do not read meaning (position, length, vocabulary), trained on every label of the pool.

- ``first``: the first response is the better one. Responses are in shuffled order, so this is chance.
- ``length``: the longer response is better, or the shorter, whichever the pool's labels favour.
- ``words``: logistic regression on which words one response has and the other lacks.

A learned model that does not beat these has learned length or vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bgpm.evaluation.accuracy import by_name, correct
from bgpm.evaluation.benchmark import benchmark_score
from bgpm.evaluation.curve import length_direction
from bgpm.evaluation.labelled_pairs import Split
from bgpm.types import Pairs

Scores = dict[str, float]
PENALTIES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)  # inverse regularisation strengths that cross-validation tries
FOLDS = 5


@dataclass(frozen=True)
class TextSplit:
    """A split with the texts its pairs are rows of.

    Attributes:
        split: Labelled pairs, [N].
        texts: Responses, [R].
    """

    split: Split
    texts: Sequence[str]

    def words(self) -> np.ndarray:
        """Words of the first response minus words of the second, [N]."""
        count = np.array([len(text.split()) for text in self.texts])
        return count[self.split.pairs.response_a] - count[self.split.pairs.response_b]


def word_scores(train: TextSplit, tests: Sequence[TextSplit]) -> list[np.ndarray]:
    """Scores of the pairs of each test split by a model of word presence, [N] each; swapping responses flips the sign.

    The penalty is chosen by cross-validation over prompts. Words are those of at least two training responses.
    All zero, which decides nothing, where the labels cover fewer prompts than there are folds or no word
    stands in two responses.
    """
    from scipy.sparse import csr_matrix, vstack
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, GroupKFold

    decided = np.flatnonzero(train.split.label != 0.5)
    pairs, better = train.split.pairs.take(decided), train.split.label[decided] > 0.5
    undecided = [np.zeros(len(test.split.pairs)) for test in tests]
    if len(np.unique(pairs.prompt)) < FOLDS:
        return undecided
    vocabulary = CountVectorizer(binary=True, min_df=2, token_pattern=r"(?u)\b\w+\b|[^\w\s]")
    rows = np.unique([pairs.response_a, pairs.response_b])
    try:
        vocabulary.fit([train.texts[row] for row in rows])
    except ValueError:  # no word stands in two responses: there is nothing to learn from
        return undecided

    def differences(split: TextSplit, pairs: Pairs):
        presence = csr_matrix(vocabulary.transform(split.texts), dtype=np.float64)
        return presence[pairs.response_a] - presence[pairs.response_b]

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
        fitted.decision_function(differences(test, pairs)) if len(pairs := test.split.pairs) else np.zeros(0)
        for test in tests
    ]


def heldout_scores(scores: np.ndarray, split: Split) -> Scores:
    """Accuracy over pairs and by section; a tied score counts one half."""
    right = correct(scores, split.label, tie=0.5)
    return {"all": float(np.nanmean(right))} | by_name(right, split.section)


def benchmark_scores(scores: np.ndarray, split: Split, xstest: str) -> Scores:
    """Overall score and score by section, by the benchmark's own rule."""
    score = benchmark_score(scores, split, xstest)
    return {"all": score.total} | dict(score.sections)


def baselines(train: TextSplit, heldout: TextSplit, benchmark: TextSplit, *, xstest: str) -> dict[str, object]:
    """Accuracy of every baseline on held-out pairs and on the benchmark.

    Where the pool has no labels, what needs them is left out and ``notes`` says so.
    """
    rules: dict[str, tuple[np.ndarray, np.ndarray]] = {
        "first": (np.ones(len(heldout.split.pairs)), np.ones(len(benchmark.split.pairs)))
    }
    notes = []
    if len(train.split.label):
        direction = length_direction(train.words(), train.split.label)
        rules["length"] = direction * heldout.words(), direction * benchmark.words()
        notes.append(f"length: the {'longer' if direction > 0 else 'shorter'} response is taken for the better one")
        on_heldout, on_benchmark = word_scores(train, [heldout, benchmark])
        rules["words"] = on_heldout, on_benchmark
    else:
        notes.append("the pool has no recorded labels: length and words have nothing to learn from")
    return {
        "labels": len(train.split.label),
        "notes": notes,
        "rules": _measured(rules, heldout.split, benchmark.split, xstest),
    }


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
