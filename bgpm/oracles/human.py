"""Labels given by people, read from the tracked folder ``data/annotations``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from bgpm.annotations.store import (
    Annotation,
    LabelStore,
    check_pairs,
    files_by_pair,
    folder_by_pair,
    read_folder,
)
from bgpm.data.tables import read_table
from bgpm.errors import LabelsPendingError
from bgpm.oracles import Oracle, OracleFiles, Query, Verdicts, mean_label


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
    """

    kind: Literal["human"] = "human"
    allow_many: bool = False
    annotators_per_pair: int = Field(default=1, ge=1)
    price_per_label: float = Field(default=0.0, ge=0.0, allow_inf_nan=False)
    price_per_hour: float = Field(default=0.0, ge=0.0, allow_inf_nan=False)
    paid: ClassVar[bool] = True

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
        label = np.array([mean_label(some) for some in annotations], np.float64)
        return Verdicts(label, np.full(len(label), np.nan), annotations)


def _by_people(said: Mapping[str, Annotation]) -> bool:
    return all(annotation.source == "human" for annotation in said.values())
