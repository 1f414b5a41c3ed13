"""Checks of annotators: their answers to gold pairs and to pairs that they are asked again.

They lie in ``data/annotations/checks``, apart from the annotations of the pool: nothing that trains, audits or counts
agreement reads that folder, and a line of it is refused where annotations are read.

Legend: a gold pair is a pair whose better response is known beforehand; a repeat is a pair that this annotator
annotated before, shown with the sides swapped.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from bgpm.annotations.store import Annotation, CheckKind, LabelStore
from bgpm.errors import DataError

log = logging.getLogger("bgpm")


@dataclass(frozen=True)
class Check(Annotation):
    """What an annotator gave where the pair was no pair of the batch; beside the fields of `Annotation`:

    Attributes:
        kind: ``gold``, with the name of a gold pair (`bgpm.annotations.gold`) as pair_id; ``repeat``, with that of the
            pool's pair; ``changed``, an annotation of texts which the pool no longer had when it arrived: it is kept
            and counts for nothing.
        batch: Title of the batch among whose pairs it was shown.
    """

    kind: CheckKind = "gold"
    batch: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind not in get_args(CheckKind):
            raise DataError(f"kind {self.kind!r}: expected one of {', '.join(get_args(CheckKind))}")
        if not isinstance(self.batch, str):
            raise DataError(f"batch {self.batch!r}: expected text")


def check_files(folder: Path) -> list[Path]:
    """The files of checks of a folder of annotations."""
    return sorted((folder / "checks").glob("*.jsonl"))


def checks_of(stores: Iterable[LabelStore]) -> list[Check]:
    """Each annotator's last word on each gold pair and repeat, in the order of writing; ``changed`` ones all.

    Raises:
        DataError: Naming file and line of what is no check.
    """
    given = [check for store in stores for check in store.history() if isinstance(check, Check)]
    given.sort(key=lambda check: check.time())
    last = {(c.kind, c.pair_id if c.kind != "changed" else c.id, c.annotator): c for c in given}
    return list(last.values())


def read_checks(folder: Path) -> list[Check]:
    """`checks_of` the files of a folder of annotations."""
    return checks_of(LabelStore(path, Check) for path in check_files(folder))
