"""Tables and features of the study's pools."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bgpm.data.feature_blocks import write_blocks
from bgpm.data.tables import read_array, read_table, rows_of, write_table
from bgpm.features import FeatureSettings
from bgpm.features.reduction import Reduction
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


def fit_reduction(settings: FeatureSettings, tables: Tables, states: dict[str, np.ndarray]) -> Reduction:
    """The reduction fitted on the responses to the pool's own prompts."""
    responses, split = tables["responses"], tables["prompts"]["split"]
    rows = np.flatnonzero(split[responses["prompt"]] == "pool")
    asked = list(tables["prompts"]["text"][responses["prompt"]])
    return Reduction.fit(settings, states["responses"], list(responses["text"]), rows, asked)


def features_of(reduction: Reduction, tables: Tables, states: dict[str, np.ndarray]) -> Features:
    """Features of responses and prompts."""
    asked = list(tables["prompts"]["text"][tables["responses"]["prompt"]])
    return Features(
        reduction(states["responses"], list(tables["responses"]["text"]), asked),
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
