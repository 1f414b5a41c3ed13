"""scikit-learn's logistic regression on what two responses differ by.

No intercept, and each pair in both orders, so that a pair and its swap get probabilities that sum to 1. C is that of
the best log-likelihood in a cross-validation of which no fold shares a prompt with another.
"""

from __future__ import annotations

import numpy as np
from cell import Results, Task
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, GroupKFold

C = np.logspace(-5, 2, 15)


def fitted(x: np.ndarray, label: np.ndarray, prompt: np.ndarray) -> GridSearchCV:
    both, either, twice = np.concatenate([x, -x]), np.concatenate([label, 1 - label]), np.concatenate([prompt, prompt])
    folds = GroupKFold(min(5, len(np.unique(prompt))))
    search = GridSearchCV(
        LogisticRegression(fit_intercept=False, max_iter=1000), {"C": C}, scoring="neg_log_loss", cv=folds
    )
    return search.fit(both, either, groups=twice)


def main() -> None:
    task, results = Task.read(), Results()
    for _, pairs, label in task.draws():
        model = fitted(task.differences(pairs), label, pairs[:, 2])
        results.add(model.predict_proba(task.differences(task["heldout"]))[:, 1])
    results.write(task.folder)


if __name__ == "__main__":
    main()
