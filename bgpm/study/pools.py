"""Tables, texts and features of the study's pools."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from bgpm.backbones import FeatureSettings
from bgpm.backbones.reduction import Reduction
from bgpm.data.tables import read_table, rows_of, write_table
from bgpm.loop.pool import Pool
from bgpm.oracles import Oracle, OracleFiles, Question

Tables = dict[str, dict[str, np.ndarray]]
Text = tuple[list[dict[str, str]], str | None]  # a conversation, and an answer or nothing


def texts(folder: Path) -> tuple[list[str], list[Text]]:
    """Names of a set's texts, and the texts: answers in the context of their prompts, then the prompts alone."""
    prompts = read_table(folder / "prompts.parquet", ["prompt_id", "messages"])
    responses = read_table(folder / "responses.parquet", ["response_id", "prompt", "text"])
    conversations = [json.loads(text) for text in prompts["messages"]]
    answers = [(conversations[row], text) for row, text in zip(responses["prompt"], responses["text"], strict=True)]
    return [*responses["response_id"], *prompts["prompt_id"]], [*answers, *((c, None) for c in conversations)]


def states_of(embeddings: Path, folder: Path) -> dict[str, np.ndarray]:
    """States of a set's responses and prompts, [n, layers, width] each, out of the states of all texts."""
    states = np.load(embeddings / "states.npy", mmap_mode="r")
    known = read_table(embeddings / "texts.parquet", ["id"])["id"]
    out = {}
    for kind in ("response", "prompt"):
        ids = read_table(folder / f"{kind}s.parquet", [f"{kind}_id"])[f"{kind}_id"]
        out[f"{kind}s"] = states[rows_of(known, ids, str(embeddings / "texts.parquet"))]
    return out


def fit_reduction(settings: FeatureSettings, tables: Tables, states: dict[str, np.ndarray]) -> Reduction:
    """The reduction fitted on the answers to the pool's own prompts."""
    responses, split = tables["responses"], tables["prompts"]["split"]
    rows = np.flatnonzero(split[responses["prompt"]] == "pool")
    return Reduction.fit(settings, states["responses"], list(responses["text"]), rows)


def write_features(folder: Path, reduction: Reduction, tables: Tables, states: dict[str, np.ndarray]) -> None:
    """Features of responses and prompts, as `bgpm.loop.pool` reads them."""
    folder.mkdir(exist_ok=True)
    for name, values in states.items():
        np.save(folder / f"{name}.npy", reduction(values, list(tables[name]["text"])))


def write_tables(folder: Path, tables: Tables, truth: Tables) -> None:
    """Tables of prompts, responses and pairs, and labels by split."""
    for name, columns in tables.items():
        write_table(folder / f"{name}.parquet", columns)
    for split, labels in truth.items():
        write_table(folder / f"truth-{split}.parquet", labels)


def answers(folder: Path, pool: Pool, oracle: Oracle, seed: int) -> dict[str, np.ndarray]:
    """What an oracle says to every pair that may be bought: label and margin by row, NaN for the other rows."""
    asked = [Question(name, seed) for name in pool.table["pair_id"][pool.open].tolist()]
    verdicts = oracle(asked, OracleFiles(folder / "truth-pool.parquet", folder, folder / "pairs.parquet", folder))
    out = {name: np.full(len(pool.pairs), np.nan) for name in ("label", "margin")}
    out["label"][pool.open], out["margin"][pool.open] = verdicts.label, verdicts.margin
    return out
