"""What lies beside a table of features: ``blocks.json``, which columns come from where, and ``pair_columns.npy``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from bgpm.data.tables import read_array
from bgpm.errors import ShapeError, StateError
from bgpm.types import FeatureBlock
from bgpm.values import parse_json

FILE = "blocks.json"
OF_PAIRS = "pair_columns.npy"


def write_blocks(folder: Path, blocks: Sequence[FeatureBlock]) -> None:
    """Write the blocks of the features in this folder."""
    (folder / FILE).write_text(json.dumps([asdict(block) for block in blocks]) + "\n", encoding="utf-8")


def read_blocks(folder: Path) -> tuple[FeatureBlock, ...]:
    """The blocks of the features in this folder; none where they were written before there were blocks.

    Raises:
        StateError: If the file is damaged.
    """
    path = folder / FILE
    if not path.exists():
        return ()
    try:
        blocks = tuple(FeatureBlock(**block) for block in parse_json(path.read_text(encoding="utf-8")))
        if not all(isinstance(b.name, str) and type(b.start) is type(b.stop) is int for b in blocks):
            raise ShapeError("a block is a name and two numbers of columns")
    except (OSError, ValueError, TypeError) as error:
        raise StateError(f"{path}: is no list of blocks ({error}); run `dvc repro features`") from error
    return blocks


def write_pair_numbers(folder: Path, numbers: np.ndarray | None) -> None:
    """Write numbers of pairs beside the features in this folder; no file where there are none."""
    if numbers is not None:
        np.save(folder / OF_PAIRS, numbers)


def read_pair_numbers(folder: Path) -> np.ndarray | None:
    """The numbers of pairs beside the features in this folder, float64 [N, m], of `bgpm.data.pair_columns`; or None.

    Raises:
        StateError: If the file is damaged.
    """
    return read_array(folder / OF_PAIRS) if (folder / OF_PAIRS).exists() else None
