"""scikit-activeml's strategies in a loop of their own: which pairs each would have labelled, in which order.

Its classifier is scikit-learn's logistic regression without an intercept on what two responses differ by, each pair in
both orders, C by cross-validation in every round, as in `logistic`. settings.json: strategies, batch, budget. task.npz
holds the whole pool; a label is looked at once its pair was asked for. ``picks`` [strategies, S, budget] are rows of
``pairs``, ``seconds`` [strategies, S] the CPU seconds of the whole loops.

With ``times`` in the settings there is no loop: ``seconds`` [strategies, 1] are those of one choice among all pairs,
the model fitted before.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from cell import Task, peak_mib
from logistic import fitted
from skactiveml.classifier import SklearnClassifier
from skactiveml.pool import Badge, Clue, CoreSet, Falcun, QueryByCommittee, TypiClust, UncertaintySampling
from sklearn.ensemble import BaggingClassifier
from sklearn.linear_model import LogisticRegression


@dataclass(frozen=True)
class Strategy:
    """A strategy of scikit-activeml.

    Attributes:
        chooser: The strategy itself.
        reads: What its argument for a fitted model is called; "" where it reads only where the pairs lie.
        members: Logistic regressions on bootstrap samples that the model has; 0 for one on all labels.
    """

    chooser: Any
    reads: str = ""
    members: int = 0

    def fit(self, x: np.ndarray, y: np.ndarray, c: float) -> SklearnClassifier | None:
        """The model that it reads, fitted on the labelled pairs (y is NaN elsewhere) in both orders."""
        if not self.reads:
            return None
        one = LogisticRegression(C=c, fit_intercept=False, max_iter=1000)
        model = BaggingClassifier(one, self.members, random_state=self.chooser.random_state) if self.members else one
        known = ~np.isnan(y)
        return SklearnClassifier(model, classes=[0, 1]).fit(
            np.concatenate([x[known], -x[known]]), np.concatenate([y[known], 1 - y[known]])
        )

    def choose(self, x: np.ndarray, y: np.ndarray, model: SklearnClassifier | None, size: int) -> np.ndarray:
        """Rows to be labelled next."""
        given = {self.reads: model, f"fit_{self.reads}": False} if self.reads else {}
        return np.asarray(self.chooser.query(x, y, **given, batch_size=size))


STRATEGIES: dict[str, Callable[[int], Strategy]] = {
    "entropy": lambda seed: Strategy(UncertaintySampling(method="entropy", random_state=seed), "clf"),
    "committee": lambda seed: Strategy(QueryByCommittee(method="KL_divergence", random_state=seed), "ensemble", 10),
    "badge": lambda seed: Strategy(Badge(random_state=seed), "clf"),
    "clue": lambda seed: Strategy(Clue(cluster_algo_dict={"random_state": seed}, random_state=seed), "estimator"),
    "falcun": lambda seed: Strategy(Falcun(random_state=seed), "clf"),
    "coreset": lambda seed: Strategy(CoreSet(random_state=seed)),
    "typiclust": lambda seed: Strategy(TypiClust(random_state=seed)),
}


def one_loop(strategy: Strategy, x: np.ndarray, task: Task, start: np.ndarray) -> tuple[np.ndarray, float]:
    """Rows in the order of acquisition, and the CPU seconds that took."""
    rows, began = start.tolist(), time.process_time()
    while len(rows) < task.settings["budget"]:
        y = np.full(len(x), np.nan)
        y[rows] = task["labels"][rows]
        c = fitted(x[rows], y[rows], task["pairs"][rows, 2]).best_params_["C"] if strategy.reads else 1.0
        size = min(task.settings["batch"], task.settings["budget"] - len(rows))
        rows += strategy.choose(x, y, strategy.fit(x, y, c), size).tolist()
    return np.array(rows), time.process_time() - began


def main() -> None:
    warnings.simplefilter("ignore")  # about folds of one class, while labels are few
    task = Task.read()
    x = task.differences(task["pairs"])
    picks, seconds = [], []
    for name in task.settings["strategies"]:
        if task.settings.get("times"):
            y, strategy = task["labels"], STRATEGIES[name](0)  # NaN where unknown
            known = ~np.isnan(y)
            model = strategy.fit(x, y, fitted(x[known], y[known], task["pairs"][known, 2]).best_params_["C"])
            began = time.process_time()
            strategy.choose(x, y, model, task.settings["batch"])
            seconds.append([time.process_time() - began])
            continue
        seeds = zip(task["seeds"].tolist(), task["rows"], strict=True)
        found = [one_loop(STRATEGIES[name](seed), x, task, start) for seed, start in seeds]
        picks.append([rows for rows, _ in found])
        seconds.append([spent for _, spent in found])
    np.savez(task.folder / "picks.npz", picks=np.array(picks), seconds=np.array(seconds), peak_mib=np.array(peak_mib()))


if __name__ == "__main__":
    main()
