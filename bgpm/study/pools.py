"""Tables and features of the study's pools."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bgpm.data.feature_blocks import write_blocks
from bgpm.data.response_columns import read_numbers
from bgpm.data.tables import read_array, read_table, rows_of, write_table
from bgpm.errors import ConfigError
from bgpm.features import FeatureSettings
from bgpm.features.blocks import built
from bgpm.features.blocks.columns import PoolColumns
from bgpm.features.reduction import Numbers, Reduction
from bgpm.study import PARAMS
from bgpm.types import Features

Tables = dict[str, dict[str, np.ndarray]]


def states_of(embeddings: Path, folder: Path) -> dict[str, np.ndarray]:
    """States of a set's responses and prompts, [n, layers, width] each, out of the states of all texts."""
    states = read_array(embeddings / "states.npy", mapped=True)
    known = read_table(embeddings / "texts.parquet", ["id"])["id"]
    out = {}
    for kind in ("response", "prompt"):
        ids = read_table(folder / f"{kind}s.parquet", [f"{kind}_id"])[f"{kind}_id"]
        out[f"{kind}s"] = states[rows_of(known, ids, str(embeddings / "texts.parquet"))]
    return out


def pool_numbers(settings: FeatureSettings, columns: Path) -> Numbers:
    """Numbers of a pool's responses that blocks read, by their kind.

    Args:
        columns: The pool's response columns, as the stage `pool` wrote them.

    Raises:
        ConfigError: If no source of the pool has a column that is used, or a block reads other numbers.
        DataError: If a response lacks a number that must not be missing.
    """
    named = f"response_columns of the sources of {columns.stem}"
    return {
        kind: read_numbers(columns, block.use, block.missing, named=named, file=str(PARAMS))
        for kind, block in _columns(settings).items()
    }


def benchmark_numbers(settings: FeatureSettings, responses: int) -> Numbers:
    """Numbers of the benchmark's responses: it has no columns here, so that each one is missing.

    Raises:
        ConfigError: If none may be missing.
    """
    blocks = _columns(settings)
    if any(block.missing == "refuse" for block in blocks.values()):
        raise ConfigError(
            f"{PARAMS}: features.columns.missing: refuse, but the study's benchmark has no numbers of responses; set "
            "missing: mean, or compare columns in feature_sets or labelled, which read no benchmark"
        )
    return {kind: np.full((responses, len(block.use)), np.nan) for kind, block in blocks.items()}


def _columns(settings: FeatureSettings) -> dict[str, PoolColumns]:
    """The blocks that read numbers; all must be columns."""
    blocks = {kind: block for kind, block in built(settings, str(PARAMS)).items() if block.given or block.of_pairs}
    if others := [kind for kind, block in blocks.items() if not isinstance(block, PoolColumns)]:
        raise ConfigError(
            f"{PARAMS}: features.blocks: {others[0]} reads numbers that the study does not make; take it out"
        )
    return {kind: block for kind, block in blocks.items() if isinstance(block, PoolColumns)}


def fit_reduction(
    settings: FeatureSettings, tables: Tables, states: dict[str, np.ndarray], numbers: Numbers
) -> Reduction:
    """The reduction fitted on the responses to the pool's own prompts; ``numbers`` as `pool_numbers` gives them."""
    responses, split = tables["responses"], tables["prompts"]["split"]
    rows = np.flatnonzero(split[responses["prompt"]] == "pool")
    asked = list(tables["prompts"]["text"][responses["prompt"]])
    return Reduction.fit(settings, states["responses"], list(responses["text"]), rows, asked, numbers)


def features_of(reduction: Reduction, tables: Tables, states: dict[str, np.ndarray], numbers: Numbers) -> Features:
    """Features of responses and prompts; ``numbers`` are of the responses."""
    asked = list(tables["prompts"]["text"][tables["responses"]["prompt"]])
    return Features(
        reduction(states["responses"], list(tables["responses"]["text"]), asked, numbers),
        reduction(states["prompts"], list(tables["prompts"]["text"]), None),
        reduction.blocks,
    )


def write_features(folder: Path, features: Features) -> None:
    """Features of responses and prompts, as `bgpm.loop.pool` reads them."""
    folder.mkdir(exist_ok=True)
    np.save(folder / "responses.npy", features.responses)
    np.save(folder / "prompts.npy", features.prompts)
    write_blocks(folder, features.blocks)


def write_tables(folder: Path, tables: Tables, truth: Tables) -> None:
    """Tables of prompts, responses and pairs, and labels by split."""
    for name, columns in tables.items():
        write_table(folder / f"{name}.parquet", columns)
    for split, labels in truth.items():
        write_table(folder / f"truth-{split}.parquet", labels)
