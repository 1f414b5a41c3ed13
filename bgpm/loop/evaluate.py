"""One point of the learning curve."""

from __future__ import annotations

import numpy as np

from bgpm.evaluation.curve import Row, benchmark_rows, correct, heldout_rows
from bgpm.loop.pool import Labelled, Table
from bgpm.posteriors import Fitted


def evaluate(model: Fitted, heldout: Labelled, benchmark: Labelled, *, xstest: str) -> tuple[list[Row], Table]:
    """One point of the learning curve: tidy rows, and right answers by held-out prompt for the bootstrap.

    Where no held-out pair has a winner yet there are no held-out rows and no prompts.
    """
    rows: list[Row] = []
    answers = by_prompt(heldout.pairs.prompt[:0], heldout.label[:0])
    if heldout.decided:
        moments = model.moments(heldout.features, heldout.pairs)
        rows += heldout_rows(moments, heldout.label, heldout.section)
        answers = by_prompt(heldout.pairs.prompt, correct(moments.mean.numpy(), heldout.label, tie=0.5))
    on_benchmark = model.moments(benchmark.features, benchmark.pairs)
    rows += benchmark_rows(on_benchmark, benchmark.label, benchmark.section, benchmark.subset, xstest=xstest)
    rows += [
        ("model", "all", name, float(value)) for name, value in model.summary().items() if not isinstance(value, str)
    ]
    return rows, answers


def by_prompt(prompt: np.ndarray, right: np.ndarray) -> Table:
    """Pairs with a winner and right answers of each prompt: prompt, pairs, right; ``right`` is NaN for tied labels."""
    decided = ~np.isnan(right)
    names, inverse = np.unique(prompt[decided], return_inverse=True)
    return {
        "prompt": names,
        "pairs": np.bincount(inverse, minlength=len(names)).astype(np.float64),
        "right": np.bincount(inverse, weights=right[decided], minlength=len(names)),
    }
