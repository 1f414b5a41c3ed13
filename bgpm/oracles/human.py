"""Labels given by people, read from the tracked folder ``data/annotations``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from bgpm.errors import DataError, LabelsPendingError
from bgpm.oracles import Oracle, OracleFiles, Question


class Human(Oracle):
    """Labels from ``data/annotations/*.jsonl``: lines ``{"pair_id": ..., "label": 0 | 0.5 | 1, "annotator": ...}``.

    ``label`` is 1 when the answer shown as A (the batch's first) is better. Several annotators of one
    pair are averaged; one annotator's last word on a pair counts. Until every pair of the batch is
    labelled the stage stops with one sentence, and `dvc repro` goes on where it stopped.

    Attributes:
        allow_many: Let several seeds or two arms ask people, each for its own batch.
    """

    kind: Literal["human"] = "human"
    allow_many: bool = False
    paid: ClassVar[bool] = True

    def __call__(self, questions: Sequence[Question], files: OracleFiles) -> tuple[np.ndarray, np.ndarray]:
        """See `Oracle`."""
        answers = read_annotations(files.annotations)
        open_pairs = [q.pair_id for q in questions if q.pair_id not in answers]
        if open_pairs:
            raise LabelsPendingError(
                f"{len(open_pairs)} of {len(questions)} pairs of {files.batch} wait for a label, "
                f"the first is {open_pairs[0]}: `python -m bgpm.show {files.batch}` prints them; "
                f'add lines {{"pair_id": ..., "label": 0 | 0.5 | 1, "annotator": ...}} to a .jsonl file in '
                f"{files.annotations}/ and run `dvc repro` again"
            )
        label = np.array([np.mean(list(answers[q.pair_id].values())) for q in questions], np.float64)
        return label, np.full(len(label), np.nan)


def read_annotations(folder: Path) -> dict[str, dict[str, float]]:
    """Label by pair and annotator.

    Raises:
        DataError: Naming file and line of an entry that is not a label.
    """
    answers: dict[str, dict[str, float]] = {}
    for path in sorted(folder.glob("*.jsonl")):
        # Bytes are split at line ends only; str.splitlines would also split at a U+2028 inside a comment.
        for number, line in enumerate(path.read_bytes().splitlines(), 1):
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
                label, pair_id = entry["label"], entry["pair_id"]
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(
                    f"{path}:{number}: not an annotation: {error!r}; expected pair_id, label, annotator"
                ) from None
            if not isinstance(pair_id, str):
                raise DataError(f"{path}:{number}: pair_id {pair_id!r}: expected text, as the batch has it")
            if isinstance(label, bool) or label not in (0, 0.5, 1):
                raise DataError(f"{path}:{number}: label {label!r}: expected 0, 0.5 (tie) or 1")
            answers.setdefault(pair_id, {})[str(entry.get("annotator", "anonymous"))] = float(label)
    return answers
