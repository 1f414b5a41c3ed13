"""laplace-torch: a full Laplace posterior of a linear layer on what two responses differ by, probit predictions.

The library's likelihood ``classification`` wants one output a class: two, without bias, are a logistic regression with
the difference of their weights. The MAP estimate is fitted under the same Gaussian prior as the posterior, to
convergence. The prior precision is that of the best held-out log-likelihood in a cross-validation of which no fold
shares a prompt with another (``prior: heldout``), or of the highest marginal likelihood, which is what the library
offers (``prior: evidence``; each precision with a MAP estimate of its own).
"""

from __future__ import annotations

import numpy as np
import torch
from cell import Results, Task
from laplace import Laplace
from laplace.baselaplace import BaseLaplace
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

PRECISIONS = np.logspace(0, 4, 9)


def map_estimate(x: Tensor, label: Tensor, precision: float) -> nn.Linear:
    model = nn.Linear(x.shape[1], 2, bias=False)
    nn.init.zeros_(model.weight)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=500, tolerance_grad=1e-7, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = cross_entropy(model(x), label, reduction="sum") + precision / 2 * model.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return model


def posterior(x: Tensor, label: Tensor, precision: float) -> BaseLaplace:
    model = map_estimate(x, label, precision)
    found = Laplace(
        model, "classification", subset_of_weights="all", hessian_structure="full", prior_precision=precision
    )
    found.fit(DataLoader(TensorDataset(x, label), batch_size=1024))
    return found


def heldout_likelihood(x: Tensor, label: Tensor, prompt: np.ndarray, precision: float) -> float:
    names, at = np.unique(prompt, return_inverse=True)
    fold = torch.from_numpy(at % min(5, len(names)))
    total = 0.0
    for k in range(int(fold.max()) + 1):
        model = map_estimate(x[fold != k], label[fold != k], precision)
        with torch.no_grad():
            total -= float(cross_entropy(model(x[fold == k]), label[fold == k], reduction="sum"))
    return total


def main() -> None:
    torch.set_default_dtype(torch.float64)
    task, results = Task.read(), Results()
    heldout = torch.from_numpy(task.differences(task["heldout"]))
    for _, pairs, labels in task.draws():
        x, label = torch.from_numpy(task.differences(pairs)), torch.from_numpy(labels.astype(np.int64))
        if task.settings["prior"] == "heldout":
            best = max(PRECISIONS, key=lambda precision: heldout_likelihood(x, label, pairs[:, 2], precision))
            chosen = posterior(x, label, best)
        else:
            chosen = max(
                (posterior(x, label, precision) for precision in PRECISIONS),
                key=lambda found: float(found.log_marginal_likelihood()),
            )
        chunks = [chosen(chunk, link_approx="probit")[:, 1] for chunk in heldout.split(1024)]
        results.add(torch.cat(chunks).detach().numpy())
    results.write(task.folder)


if __name__ == "__main__":
    main()
