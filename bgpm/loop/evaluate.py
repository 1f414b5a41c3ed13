"""One point of the learning curve."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bgpm.evaluation.accuracy import correct
from bgpm.evaluation.benchmark import BenchmarkScore, benchmark_score
from bgpm.evaluation.curve import CurveRow, benchmark_rows, heldout_figures, heldout_rows, triple_rows
from bgpm.evaluation.figures import FigurePoint
from bgpm.evaluation.pool_labels import PoolLabels, pool_labels
from bgpm.loop.pool import LabelledSplit, Pool, Table
from bgpm.loop.weighing import fitted_weights
from bgpm.posteriors import Fitted


@dataclass(frozen=True)
class Measured:
    """Everything that is measured of one model.

    Attributes:
        rows: One point of the learning curve.
        prompts: Pairs and right predictions by held-out prompt.
        figures: Reliability, coverage and best of n on held-out pairs.
        score: What the benchmark says; None where there is none.
    """

    rows: list[CurveRow]
    prompts: Table
    figures: list[FigurePoint]
    score: BenchmarkScore | None


def evaluate(
    model: Fitted, heldout: LabelledSplit, benchmark: LabelledSplit, *, xstest: str
) -> tuple[list[CurveRow], Table]:
    """One point of the learning curve: tidy rows, and right responses by held-out prompt for the bootstrap."""
    measured = measure(model, heldout, benchmark, xstest=xstest, figures=False)
    return measured.rows, measured.prompts


def measure(
    model: Fitted, heldout: LabelledSplit, benchmark: LabelledSplit, *, xstest: str, figures: bool = True
) -> Measured:
    """One point of the learning curve with all that the last round's report shows beside it: figures, where asked.

    Where no held-out pair has a winner yet there are no held-out rows, prompts or figures.
    """
    rows: list[CurveRow] = []
    points: list[FigurePoint] = []
    prompts = by_prompt(heldout.pairs.prompt[:0], heldout.label[:0])
    if heldout.decided:
        moments = model.moments(heldout.features, heldout.pairs)
        rows += heldout_rows(moments, heldout.label, heldout.section)
        rows += triple_rows(moments, heldout.triples, heldout.label)
        prompts = by_prompt(heldout.pairs.prompt, correct(moments.mean.numpy(), heldout.label, tie=0.5))
        points += heldout_figures(moments, heldout.pairs, heldout.label) if figures else []
    score = None
    if len(benchmark.label):
        on_benchmark = model.moments(benchmark.features, benchmark.pairs)
        score = benchmark_score(on_benchmark.mean.numpy(), benchmark, xstest)
        rows += benchmark_rows(on_benchmark, benchmark.label, score)
    return Measured([*rows, *model_rows(model)], prompts, points, score)


def model_rows(model: Fitted) -> list[CurveRow]:
    """The numbers that a model says of itself."""
    return [
        ("model", "all", name, float(value)) for name, value in model.summary().items() if not isinstance(value, str)
    ]


def label_pool(model: Fitted, pool: Pool, acquired: Table, audits: Table | None = None) -> PoolLabels:
    """The final label of every pair of the pool that may be acquired.

    Args:
        acquired: Labels that the model was trained on, as `bgpm.loop.train.train` takes them, and annotators where
            there were several.
        audits: Columns pair and label of audited pairs; none by default.
    """
    exponent = model.summary().get("importance_exponent")
    weight = fitted_weights(acquired, None if exponent is None else float(exponent))
    if weight is not None:
        acquired = {**acquired, "weight": weight}
    return pool_labels(pool.open, model.moments(pool.features, pool.pairs.take(pool.open)), acquired, audits)


def by_prompt(prompt: np.ndarray, right: np.ndarray) -> Table:
    """Pairs with a winner and how many are right, by prompt: prompt, pairs, right; NaN ``right`` for tied labels."""
    decided = ~np.isnan(right)
    names, inverse = np.unique(prompt[decided], return_inverse=True)
    return {
        "prompt": names,
        "pairs": np.bincount(inverse, minlength=len(names)).astype(np.float64),
        "right": np.bincount(inverse, weights=right[decided], minlength=len(names)),
    }
