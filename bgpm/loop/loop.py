"""The active-learning loop in memory: start, label, train, score, select, and again.

    from bgpm import Loop

    for done in Loop(pool, source).rounds(budget=200):
        print(done.number, len(done.labels["pair"]), done.model.summary())

The stages run the same steps one process at a time; the study runs this loop many times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from bgpm.acquisition import Acquisition
from bgpm.acquisition.bald import Bald
from bgpm.data.tables import concatenate, where
from bgpm.errors import ConfigError, DataError
from bgpm.evaluation.estimates import Estimate, estimates
from bgpm.loop.draws import COLUMNS
from bgpm.loop.pool import Pool, Table
from bgpm.loop.score import score
from bgpm.loop.select import select
from bgpm.loop.start import seed_batch
from bgpm.loop.train import train
from bgpm.loop.weighing import check_draws
from bgpm.models import Model
from bgpm.models.gpm import Gpm
from bgpm.posteriors import Fitted, Posterior
from bgpm.posteriors.laplace import Laplace
from bgpm.selection import Selection, StartSettings
from bgpm.selection.top_k import TopK
from bgpm.sizes import pairs_of
from bgpm.stage import generator

LabelSource = Callable[[np.ndarray], "np.ndarray | Mapping[str, np.ndarray]"]


@dataclass(frozen=True)
class Round:
    """One acquisition round, after its labels were given and a model was trained on all labels so far.

    Attributes:
        number: 0 for the seed labels.
        rows: Rows of the pairs acquired in this round, in the order of picking.
        labels: All labels so far: columns round, pair (row), label, margin, what the model before thought of the pair
            (mean, variance, tau), and those of `bgpm.loop.draws`. A pair nobody could label has label NaN.
        model: Trained on them.
    """

    number: int
    rows: np.ndarray
    labels: Table
    model: Fitted

    def estimates(self) -> dict[str, Estimate]:
        """How good the model of the round *before* is on pairs that had no label then; see `bgpm.evaluation.estimates`.

        Empty for the seed set, and where the batch was chosen and not drawn.
        """
        return estimates(where(self.labels, self.labels["round"] == self.number))


@dataclass(frozen=True)
class Loop:
    """The loop for one seed, with built components.

    Args:
        pool: Pairs and features.
        source: Gives labels: from rows of the pool's pairs, [k], the probability that response_a is better,
            float64 [k], NaN for an abstention; or a mapping with ``label`` and, where it is known, ``margin``.
        acquisition, selection, posterior, model: Components; the defaults are their classes' defaults.
        start: How many seed labels, and how they are chosen.
        batch_size: Labels a round, or a share of the pool in (0, 1).
        seed: Decides every random choice.
        name: Of the random streams for scoring and selection; the acquisition's kind by default.
    """

    pool: Pool
    source: LabelSource
    acquisition: Acquisition = field(default_factory=Bald)
    selection: Selection = field(default_factory=TopK)
    posterior: Posterior = field(default_factory=Laplace)
    model: Model = field(default_factory=Gpm)
    start: StartSettings = field(default_factory=StartSettings)
    batch_size: int | float = 32
    seed: int = 0
    name: str | None = None

    def __post_init__(self) -> None:
        if self.batch_size <= 0 or (self.batch_size > 1 and self.batch_size % 1):
            raise ConfigError(
                f"batch_size: expected at least 1, got {self.batch_size} (or a share, above 0 and below 1)"
            )
        self.posterior.check(self.model)
        check_draws(self.selection, self.start, self.posterior)

    def rounds(self, budget: int) -> Iterator[Round]:
        """Rounds until the next batch would pass the budget, or to the end of the pool.

        Args:
            budget: Labels in all, the seed labels included.

        Raises:
            DataError: If the source gives labels of another number than was asked for, or outside [0, 1].
        """
        stream = self.name or getattr(self.acquisition, "kind", "loop")
        batch_size = pairs_of(self.batch_size, len(self.pool.open))
        batch = seed_batch(self.start, self.pool, generator=generator("start", self.seed))
        labels: list[Table] = []
        for number in range(len(self.pool.open) + 1):
            labels.append(self._labelled(number, batch))
            known = concatenate(labels)
            model = train(self.posterior, self.model, self.pool, known, seed=self.seed)
            yield Round(number, batch["pair"], known, model)
            if len(known["pair"]) + batch_size > budget or len(known["pair"]) == len(self.pool.open):
                return
            scores = score(
                self.acquisition,
                model,
                self.pool,
                known["pair"],
                generator=generator("score", stream, self.seed, number),
            )
            batch = select(
                self.selection,
                self.pool,
                scores,
                lambda model=model: model,
                batch_size,
                generator=generator("select", stream, self.seed, number),
            )

    def _labelled(self, number: int, batch: Table) -> Table:
        rows = batch["pair"]
        given = self.source(rows)
        columns = given if isinstance(given, Mapping) else {"label": given}
        table = {"pair": rows, "margin": np.full(len(rows), np.nan)}
        table |= {name: np.asarray(columns[name], np.float64) for name in ("label", "margin") if name in columns}
        wrong = [name for name, column in table.items() if column.shape != rows.shape]
        if "label" not in table or wrong:
            raise DataError(f"the source gave no usable label: expected {len(rows)} labels, one for each row asked for")
        if ((table["label"] < 0) | (table["label"] > 1)).any():
            raise DataError("the source gave a label outside [0, 1]: a label is P(first response better), or NaN")
        return {
            "round": np.full(len(rows), number),
            **{name: table[name] for name in ("pair", "label", "margin")},
            **{name: batch[name] for name in ("mean", "variance", "tau", *COLUMNS)},
        }
