"""Labels given by people, read from the tracked folder ``data/annotations``."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from bgpm.annotations.store import (
    Annotation,
    LabelStore,
    Strength,
    check_pairs,
    files_by_pair,
    folder_by_pair,
    read_folder,
)
from bgpm.data.tables import read_table
from bgpm.errors import ConfigError, LabelsPendingError
from bgpm.oracles import Oracle, OracleFiles, Query, Verdicts, mean_label
from bgpm.registry import Settings

Share = Annotated[float, Field(ge=0, le=0.25)]  # of the pairs that an annotator is shown
Level = Annotated[float, Field(gt=0, lt=1)]
STEPS: dict[Strength, float] = {"slight": 1.0, "clear": 2.0, "much": 3.0}  # as in HelpSteer3, in units of the score


class GoldSettings(Settings):
    """Gold pairs, whose better response is known, shown among the others to measure each annotator.

    Attributes:
        path: Their file, in any layout that the pool may have, with labels; None for none.
        share: How many of the pairs that an annotator is shown, at most a quarter.
        level: Share of gold pairs that a careful annotator gets right at least.
        columns, labels: As in section ``pool``, for a file that needs them.
    """

    path: str | None = None
    share: Share = 0.0
    level: Level = 0.8
    columns: dict[str, str] = Field(default_factory=dict)
    labels: dict[str, list[Any]] = Field(default_factory=dict)


class RepeatSettings(Settings):
    """Pairs that an annotator is shown again, with the sides swapped, to measure how far annotations can be repeated.

    Attributes:
        share: How many of the pairs that an annotator is shown, at most a quarter.
        after: How many pairs of the pool an annotator labels before one of them comes again.
        level: Share of repeats in which a careful annotator gives the same label at least.
    """

    share: Share = 0.0
    after: int = Field(default=20, ge=5)
    level: Level = 0.7


class Human(Oracle):
    """Labels from ``data/annotations/*.jsonl``: lines ``{"pair_id": ..., "label": 0 | 0.5 | 1, "annotator": ...}``.

    ``label`` is 1 when response_a is better; any probability will do, and null says that the
    annotator skipped the pair. Several annotators of one pair are averaged; one annotator's last word on a pair
    counts, and what is written by hand must not contradict itself or name a pair that the pool does not have. A pair
    that everybody skipped stays without a label and is not asked again. Until every pair of the batch is answered by
    enough people the stage stops with one sentence, and `dvc repro` goes on where it stopped.

    Once a batch has its labels, the annotations that they rest on are frozen (`OracleFiles.frozen`): what comes later
    changes no round that was. Delete that file, and `dvc repro` reads the store again.

    Attributes:
        allow_many: Let several seeds or two arms ask people, each for its own batch.
        annotators_per_pair: How many different people must answer each pair.
        price_per_label, price_per_hour: What `bgpm annotate` notes as an answer's cost, in any one currency.
        scale: Steps that the page offers: 2, which is better; 4, better or much better; 7, slightly better and a tie in
            the middle too. Ties can be given on each.
        strength: What a given strength (1 slight, 2 clear, 3 much) becomes: nothing; a ``soft`` label, the probability
            sigmoid(strength); or a ``margin``, the strength in units of the score, for posteriors with `margin`. An
            annotation without one counts as its label. Held-out labels are the same with each.
        gold: Pairs whose better response is known, to measure each annotator. They are no labels.
        repeats: Pairs that an annotator is shown again. They are no second label.
    """

    kind: Literal["human"] = "human"
    allow_many: bool = False
    annotators_per_pair: int = Field(default=1, ge=1)
    price_per_label: float = Field(default=0.0, ge=0.0, allow_inf_nan=False)
    price_per_hour: float = Field(default=0.0, ge=0.0, allow_inf_nan=False)
    scale: Literal[2, 4, 7] = 2
    strength: Literal["ignore", "soft", "margin"] = "ignore"
    gold: GoldSettings = GoldSettings()
    repeats: RepeatSettings = RepeatSettings()
    paid: ClassVar[bool] = True

    def check(self, annotations: Path) -> None:
        """See `Oracle`; `bgpm.config` reads the gold pairs, which the stages that label need not know."""
        if self.gold.share and not self.gold.path:
            raise ConfigError(
                "params.yaml: oracles.human.gold.share: above 0, and gold.path names no file of gold pairs; name one, "
                "or set share: 0.0"
            )

    def answered(self, folder: Path) -> tuple[dict[str, float], list[str]]:
        """Labels by pair of a folder of annotations where enough people have answered, and the pairs, sorted, where
        some have but too few."""
        said = folder_by_pair(folder, "human")
        enough = {pair: some for pair, some in said.items() if len(some) >= self.annotators_per_pair}
        return {pair: mean_label(tuple(some.values())) for pair, some in enough.items()}, sorted(said.keys() - enough)

    def __call__(self, queries: Sequence[Query], files: OracleFiles) -> Verdicts:
        """See `Oracle`."""
        wanted = self.annotators_per_pair
        frozen = LabelStore(files.frozen).by_pair() if files.frozen else {}
        said = {pair: some for pair, some in frozen.items() if _by_people(some) and len(some) >= wanted}
        if any(q.pair_id not in said for q in queries):
            pairs = files.pool / "pairs.parquet"
            given = read_folder(files.annotations, "human")
            check_pairs(given, set(read_table(pairs, ["pair_id"])["pair_id"]), str(pairs))
            said = files_by_pair(given) | said
        open_pairs = [q.pair_id for q in queries if len(said.get(q.pair_id, ())) < wanted]
        if open_pairs:
            raise LabelsPendingError(
                f"{len(open_pairs)} of {len(queries)} pairs of {files.batch} wait for "
                f"{'a label' if wanted == 1 else f'labels by {wanted} people each'}, the first is {open_pairs[0]}: "
                f"`bgpm annotate` asks for them on a page (or `bgpm batch {files.batch}` prints them, and you "
                f'add lines {{"pair_id": ..., "label": 0 | 0.5 | 1, "annotator": ...}} to a .jsonl file in '
                f"{files.annotations}/); then run `dvc repro` again",
                list(dict.fromkeys(q.pair_id for q in queries)),
            )
        annotations = tuple(tuple(said[q.pair_id].values()) for q in queries)
        merged = soft_label if self.strength == "soft" else mean_label
        label = np.array([merged(some) for some in annotations], np.float64)
        margin = np.full(len(label), np.nan)
        if self.strength == "margin":
            margin = np.array([mean_margin(some) for some in annotations], np.float64)
        return Verdicts(label, margin, annotations)


def soft_label(annotations: Sequence[Annotation]) -> float:
    """Mean probability that response_a is better; NaN where everybody abstained.

    A strength s gives the better response sigmoid(s), what a model at temperature 1 says where it leads by s.
    """
    given = []
    for annotation in annotations:
        if annotation.label is not None:
            favoured = 1 / (1 + math.exp(-STEPS[annotation.strength])) if annotation.strength else 1.0
            given.append((1 - favoured) + annotation.label * (2 * favoured - 1))
    return statistics.fmean(given) if given else math.nan


def mean_margin(annotations: Sequence[Annotation]) -> float:
    """How far the favoured response leads in the mean of the strengths, in units of the score, >= 0.

    Strengths count with the sign of their label, ties as 0, and annotations that have neither are left out. Where few
    strong annotations outweigh many weak ones of the other side it is 0: the label is the majority's, without a lead.
    NaN where no strength and no tie is known.
    """
    known = [a for a in annotations if a.strength or a.label == 0.5]
    if not known:
        return math.nan
    lead = statistics.fmean(
        math.copysign(STEPS[a.strength], a.label - 0.5) if a.strength and a.label is not None else 0.0 for a in known
    )
    favoured = mean_label(annotations) - 0.5
    return max(0.0, math.copysign(lead, lead * favoured)) if favoured else 0.0


def _by_people(said: Mapping[str, Annotation]) -> bool:
    return all(annotation.source == "human" for annotation in said.values())
