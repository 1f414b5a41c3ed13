"""scikit-activeml's strategies in a loop of their own: which pairs each would have labelled, in which order.

Its classifier is scikit-learn's logistic regression without an intercept on what two responses differ by, each pair in
both orders, C by cross-validation in every round, as in `logistic`. settings.json: strategies, start, batch, budget.
task.npz holds the whole pool; a label is looked at once its pair was asked for. ``picks`` [strategies, S, budget] are
rows of ``pairs``, ``seconds`` [strategies, S] the CPU seconds of all choices, without the fits.

With ``times`` in the settings there is no loop: the seconds of one choice among all pairs, ``seconds`` [strategies, 1].
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable

import numpy as np
from cell import Task, peak_mib
from logistic import fitted
from skactiveml.classifier import SklearnClassifier
from skactiveml.pool import Badge, Clue, CoreSet, Falcun, QueryByCommittee, TypiClust, UncertaintySampling
from sklearn.ensemble import BaggingClassifier
from sklearn.linear_model import LogisticRegression

Query = Callable[[np.ndarray, np.ndarray, float, int], np.ndarray]  # x, y with NaN, C, how many: rows


def classifier(x: np.ndarray, y: np.ndarray, c: float) -> SklearnClassifier:
    """Fitted on the labelled pairs in both orders."""
    known = ~np.isnan(y)
    model = SklearnClassifier(LogisticRegression(C=c, fit_intercept=False, max_iter=1000), classes=[0, 1])
    return model.fit(np.concatenate([x[known], -x[known]]), np.concatenate([y[known], 1 - y[known]]))


def of_model(strategy: object, name: str = "clf") -> Query:
    """A strategy that reads a fitted classifier, by this name of its argument."""

    def query(x: np.ndarray, y: np.ndarray, c: float, size: int) -> np.ndarray:
        return strategy.query(x, y, **{name: classifier(x, y, c), f"fit_{name}": False}, batch_size=size)

    return query


def of_space(strategy: object) -> Query:
    """A strategy that reads only where the pairs lie."""
    return lambda x, y, c, size: strategy.query(x, y, batch_size=size)


def of_committee(seed: int) -> Query:
    """Disagreement of ten logistic regressions on bootstrap samples."""

    def query(x: np.ndarray, y: np.ndarray, c: float, size: int) -> np.ndarray:
        members = BaggingClassifier(LogisticRegression(C=c, fit_intercept=False, max_iter=1000), 10, random_state=seed)
        committee = SklearnClassifier(members, classes=[0, 1])
        known = ~np.isnan(y)
        committee.fit(np.concatenate([x[known], -x[known]]), np.concatenate([y[known], 1 - y[known]]))
        chooser = QueryByCommittee(method="KL_divergence", random_state=seed)
        return chooser.query(x, y, ensemble=committee, fit_ensemble=False, batch_size=size)

    return query


STRATEGIES: dict[str, Callable[[int], Query]] = {
    "entropy": lambda seed: of_model(UncertaintySampling(method="entropy", random_state=seed)),
    "committee": of_committee,
    "badge": lambda seed: of_model(Badge(random_state=seed)),
    "clue": lambda seed: of_model(Clue(random_state=seed), "estimator"),
    "falcun": lambda seed: of_model(Falcun(random_state=seed)),
    "coreset": lambda seed: of_space(CoreSet(random_state=seed)),
    "typiclust": lambda seed: of_space(TypiClust(random_state=seed)),
}


def one_loop(query: Query, x: np.ndarray, task: Task, start: np.ndarray) -> tuple[np.ndarray, float]:
    """Rows in the order of acquisition, and the CPU seconds of all choices."""
    rows, spent = start.tolist(), 0.0
    while len(rows) < task.settings["budget"]:
        y = np.full(len(x), np.nan)
        y[rows] = task["labels"][rows]
        c = fitted(x[rows], y[rows], task["pairs"][rows, 2]).best_params_["C"]
        began = time.process_time()
        chosen = query(x, y, c, min(task.settings["batch"], task.settings["budget"] - len(rows)))
        spent += time.process_time() - began
        rows += np.asarray(chosen).tolist()
    return np.array(rows), spent


def main() -> None:
    warnings.simplefilter("ignore")  # about folds of one class, while labels are few
    task = Task.read()
    x = task.differences(task["pairs"])
    picks, seconds = [], []
    for name in task.settings["strategies"]:
        if task.settings.get("times"):
            y = task["labels"]  # NaN where unknown
            began = time.process_time()
            STRATEGIES[name](0)(x, y, 0.01, task.settings["batch"])
            seconds.append([time.process_time() - began])
            continue
        seeds = zip(task["seeds"].tolist(), task["rows"], strict=True)
        found = [one_loop(STRATEGIES[name](seed), x, task, start) for seed, start in seeds]
        picks.append([rows for rows, _ in found])
        seconds.append([spent for _, spent in found])
    np.savez(task.folder / "picks.npz", picks=np.array(picks), seconds=np.array(seconds), peak_mib=np.array(peak_mib()))


if __name__ == "__main__":
    main()
