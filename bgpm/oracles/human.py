"""Labels given by people, read from the tracked folder ``data/annotations``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np

from bgpm.errors import LabelsPendingError
from bgpm.oracles import Oracle, OracleFiles, Question, Verdicts, mean_label
from bgpm.oracles._store import folder_by_pair


class Human(Oracle):
    """Labels from ``data/annotations/*.jsonl``: lines ``{"pair_id": ..., "label": 0 | 0.5 | 1, "annotator": ...}``.

    ``label`` is 1 when the batch's first answer is better; any probability will do, and null says that the
    annotator skipped the pair. Several annotators of one pair are averaged; one annotator's last word on a pair
    counts. A pair that everybody skipped stays without a label and is not asked again. Until every pair of the
    batch is answered the stage stops with one sentence, and `dvc repro` goes on where it stopped.

    Attributes:
        allow_many: Let several seeds or two arms ask people, each for its own batch.
    """

    kind: Literal["human"] = "human"
    allow_many: bool = False
    paid: ClassVar[bool] = True

    def __call__(self, questions: Sequence[Question], files: OracleFiles) -> Verdicts:
        """See `Oracle`."""
        said = folder_by_pair(files.annotations, "human")
        open_pairs = [q.pair_id for q in questions if q.pair_id not in said]
        if open_pairs:
            raise LabelsPendingError(
                f"{len(open_pairs)} of {len(questions)} pairs of {files.batch} wait for a label, "
                f"the first is {open_pairs[0]}: `python -m bgpm.show {files.batch}` prints them; "
                f'add lines {{"pair_id": ..., "label": 0 | 0.5 | 1, "annotator": ...}} to a .jsonl file in '
                f"{files.annotations}/ and run `dvc repro` again"
            )
        answers = tuple(tuple(said[q.pair_id].values()) for q in questions)
        label = np.array([mean_label(some) for some in answers], np.float64)
        return Verdicts(label, np.full(len(label), np.nan), answers)
