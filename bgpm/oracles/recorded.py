"""Ground truth that came with the pool, optionally as seen by fallible annotators."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from bgpm.data.tables import read_table
from bgpm.errors import MissingLabelError
from bgpm.oracles import Annotation, Oracle, OracleFiles, Query, Verdicts, mean_label
from bgpm.registry import Settings


class Annotator(Settings):
    """One of several simulated annotators.

    Attributes:
        name: Decides the annotator's own luck.
        error_rate: Probability that an answer is the opposite of the record.
        bias: Probability that the annotator takes the first response without looking; negative: the second.
    """

    name: str = Field(min_length=1)
    error_rate: float = Field(default=0.0, ge=0.0, lt=0.5)
    bias: float = Field(default=0.0, gt=-1.0, lt=1.0)


class Recorded(Oracle):
    """Labels from the pool's own file, a pure function of record, pair and seed: every arm hears the same answers.

    Nothing is kept in a store: to ask twice is to compute twice. Answers have no time.

    Attributes:
        noise: Probability that the answer is the opposite of the record, where there is one annotator.
        annotators: Several annotators, each of whom answers every question; empty for one.
        votes: How several answers become a label: their average, or the majority (equal votes are a tie).
        tie_rate: Probability that an annotator calls a pair a tie.
        abstention: Probability that an annotator skips a pair. Where all do the pair stays without a label.
        price: Of one label of one annotator, in any currency; a skipped pair costs nothing.
    """

    kind: Literal["recorded"] = "recorded"
    noise: float = Field(default=0.0, ge=0.0, lt=0.5)
    annotators: list[Annotator] = Field(default_factory=list)
    votes: Literal["average", "majority"] = "average"
    tie_rate: float = Field(default=0.0, ge=0.0, lt=1.0)
    abstention: float = Field(default=0.0, ge=0.0, lt=1.0)
    price: float = Field(default=0.0, ge=0.0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _one_or_several(self) -> Recorded:
        names = [annotator.name for annotator in self.annotators]
        if len(set(names)) < len(names):
            raise ValueError(f"annotators: every name must differ, got {', '.join(names)}")
        if names and self.noise:
            raise ValueError("noise is for one annotator: set noise to 0, each of `annotators` has its error_rate")
        return self

    def __call__(self, queries: Sequence[Query], files: OracleFiles) -> Verdicts:
        """See `Oracle`."""
        table = read_table(files.truth, ["pair_id", "label", "margin"])
        row = {pair_id: n for n, pair_id in enumerate(table["pair_id"])}
        lost = [q.pair_id for q in queries if q.pair_id not in row or np.isnan(table["label"][row[q.pair_id]])]
        if lost:
            raise MissingLabelError(
                f"{files.batch}: {len(lost)} of {len(queries)} pairs have no recorded label, the first is {lost[0]}; "
                "give the pool a label column, or set oracle=human"
            )
        rows = [row[q.pair_id] for q in queries]
        truth, margin = table["label"][rows].astype(np.float64), table["margin"][rows].astype(np.float64)
        annotations = tuple(tuple(self._annotations(q, float(t))) for q, t in zip(queries, truth, strict=True))
        verdict = mean_label if self.votes == "average" else _majority
        label = np.array([verdict(some) for some in annotations], np.float64)
        return Verdicts(label, np.where(label == truth, margin, np.nan), annotations)

    def _annotations(self, query: Query, truth: float) -> Iterator[Annotation]:
        for annotator in self.annotators or [Annotator(name="recorded", error_rate=self.noise)]:
            label: float | None = truth
            if _uniform(query, annotator.name, "error") < annotator.error_rate:
                label = 1.0 - truth
            if _uniform(query, annotator.name, "bias") < abs(annotator.bias):
                label = float(annotator.bias > 0)
            if _uniform(query, annotator.name, "tie") < self.tie_rate:
                label = 0.5
            if _uniform(query, annotator.name, "abstention") < self.abstention:
                label = None
            yield Annotation(
                query.pair_id,
                label,
                annotator.name,
                at="",
                cost=0.0 if label is None else self.price,
                source="recorded",
                id=f"recorded {query.seed} {annotator.name} {query.pair_id}",
            )


def _majority(annotations: Sequence[Annotation]) -> float:
    """1, 0, or 0.5 where as many prefer one answer as the other; NaN where everybody abstained."""
    sides = [np.sign(a.label - 0.5) for a in annotations if a.label is not None]
    return float(np.sign(sum(sides)) + 1) / 2 if sides else float("nan")


def _uniform(query: Query, annotator: str, what: str) -> float:
    """A number in [0, 1) that depends on question, annotator and purpose alone."""
    key = json.dumps([query.seed, query.pair_id, annotator, what]).encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") / 2**64
