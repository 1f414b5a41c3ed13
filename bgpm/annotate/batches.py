"""What people are asked: the batches that a stage waits for, a batch by name, or held-out pairs without a label."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from bgpm.data.dedup import digest
from bgpm.data.tables import pool_size, read_table, rows_of, where
from bgpm.errors import StateError
from bgpm.sizes import pairs_of
from bgpm.stage import ASKED, POOL, START, TRUTH, WAITING, number_of, round_dir, setting
from bgpm.values import read_json


@dataclass(frozen=True)
class OpenBatch:
    """Pairs to be asked.

    Attributes:
        title: What people read.
        pair_ids: In the order of asking.
        path: The file of the batch, which audits that are asked with it are not in; None for held-out pairs.
        reserve: Whether no stage waits for them: they are asked while people would have nothing to do.
    """

    title: str
    pair_ids: tuple[str, ...]
    path: Path | None = None
    reserve: bool = False


@dataclass(frozen=True)
class ShownPair:
    """One pair as a person reads it.

    Attributes:
        turns: The conversation so far, (role, text).
        response_a, response_b: The answers in the pool's order.
    """

    turns: tuple[tuple[str, str], ...]
    response_a: str
    response_b: str

    @property
    def texts(self) -> str:
        """A name of exactly these texts, in this order."""
        return digest(json.dumps(self.turns), self.response_a, self.response_b)


class PoolTexts:
    """Every pair of a pool with its texts.

    Attributes:
        row: Row of each pair by its name.
        version: What changes with the pool's files.
    """

    def __init__(self, pool: Path) -> None:
        self.pool, self.version = pool, pool_version(pool)
        self.responses = read_table(pool / "responses.parquet", ["text"])["text"]
        self.messages = read_table(pool / "prompts.parquet", ["messages"])["messages"]
        self.pairs = read_table(pool / "pairs.parquet", ["pair_id", "prompt", "response_a", "response_b", "split"])
        self.row = {pair_id: row for row, pair_id in enumerate(self.pairs["pair_id"])}

    def __getitem__(self, pair_id: str) -> ShownPair:
        if pair_id not in self.row:
            raise StateError(f"pair {pair_id!r}: the pool has no such pair; `dvc repro` makes it anew, or has to run")
        row = self.row[pair_id]
        turns = json.loads(str(self.messages[self.pairs["prompt"][row]]))
        response_a, response_b = (str(self.responses[self.pairs[name][row]]) for name in ("response_a", "response_b"))
        return ShownPair(tuple((turn["role"], turn["content"]) for turn in turns), response_a, response_b)

    def keys(self) -> frozenset[str]:
        """Names of the pairs whatever their order."""
        return frozenset(read_table(self.pool / "pairs.parquet", ["key"])["key"])

    def split(self, pair_id: str) -> str:
        """``pool`` or ``heldout``."""
        return str(self.pairs["split"][self.row[pair_id]])

    def now(self) -> PoolTexts:
        """The pool as it is on the disk: this one, unless its files changed.

        Raises:
            StateError: If `dvc repro` is making it anew.
        """
        return self if self.version == pool_version(self.pool) else PoolTexts(self.pool)


def pool_version(pool: Path) -> tuple[object, ...]:
    """What changes with a pool's files."""
    return tuple(version(pool / f"{name}.parquet") for name in ("prompts", "responses", "pairs"))


def waiting(params: Mapping[str, Any]) -> list[OpenBatch]:
    """Batches that the last `dvc repro` stopped at, the seed set first, then by arm and round.

    Stage `label` leaves a note beside a batch when it has to wait, and takes it away once it has the labels. A
    batch without a note may be left over from another run; so may a note whose pairs the batch no longer has.
    """
    found = []
    for folder, title in _folders(params).items():
        note, path = folder / WAITING, folder / "batch.parquet"
        versions = version(note), version(path), version(folder / ASKED)
        if None not in versions[:2] and (batch := _waits(title, note, path, versions)):
            found.append(batch)
    return found


def contradicted(params: Mapping[str, Any]) -> str:
    """The batch, by its title, that no longer has the pairs for which a stage waits; "" where there is none.

    Somebody changed the file, or `dvc repro` chose it anew and has not come to the labels yet.
    """
    for folder, title in _folders(params).items():
        note, path = folder / WAITING, folder / "batch.parquet"
        versions = version(note), version(path), version(folder / ASKED)
        if None not in versions[:2] and not _waits(title, note, path, versions):
            return title
    return ""


def _folders(params: Mapping[str, Any]) -> dict[Path, str]:
    """Folders of the batches of a campaign, with their titles."""
    arms = dict.fromkeys([setting(params, "acquisition"), setting(params, "baseline")])
    rounds = [entry["k"] for entry in setting(params, "rounds")]
    return {START: "seed set"} | {round_dir(arm, k): f"{arm}, round {k}" for arm in arms for k in rounds}


def version(path: Path) -> tuple[int, ...] | None:
    """What changes with a file's content; None where there is none."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


@lru_cache(maxsize=64)  # the page asks several times an answer; a batch is read when it changed
def _waits(title: str, note: Path, path: Path, _: tuple[tuple[int, ...] | None, ...]) -> OpenBatch | None:
    """A batch whose note speaks of pairs that it has."""
    pairs = read_json(note).get("pairs")
    if not isinstance(pairs, list):
        raise StateError(f"{note}: expected a list of pairs; run `dvc repro`")
    asked = path.with_name(ASKED)  # with audits among them, where there are any
    known = set(read_table(asked if asked.exists() else path, ["pair_id"])["pair_id"])
    return OpenBatch(title, tuple(pairs), path) if set(pairs) <= known else None


def waiting_since(params: Mapping[str, Any]) -> Iterator[float]:
    """When each stage that waits for people has stopped, as times of the file system."""
    for folder in _folders(params):
        if found := version(folder / WAITING):
            yield found[-1]


def reserve(batch: OpenBatch, annotated: Container[str], size: int) -> OpenBatch | None:
    """The pairs of the pool that come after a batch, for people who wait for the next one; None where none is left.

    They are those that the model which chose the batch values most after it (of the first seed), best first; beside
    the seed set, which no model chose, pairs of the pool in an order that is random and always the same. What people
    say of them is kept with all other annotations, and is the label of those that are acquired later.

    Args:
        annotated: Pairs that have their annotations already.
        size: At most so many.
    """
    assert batch.path is not None
    scores, taken = batch.path.with_name("scores.parquet"), set(batch.pair_ids)
    table = read_table(POOL / "pairs.parquet", ["pair_id", "split"])
    if batch.path.parent == START:
        names = table["pair_id"][table["split"] == "pool"].tolist()
        names.sort(key=lambda pair_id: hashlib.blake2b(pair_id.encode()).digest())
    else:
        valued = read_table(scores, ["seed", "pair", "value"])
        valued = where(valued, valued["seed"] == np.unique(valued["seed"])[:1])
        names = table["pair_id"][valued["pair"][np.argsort(-valued["value"], kind="stable")]].tolist()
    after = (name for name in names if name not in taken and name not in annotated)
    pair_ids = tuple(islice(after, size))
    return OpenBatch(f"reserve after {batch.title}", pair_ids, reserve=True) if pair_ids else None


def to_come(batch: OpenBatch, params: Mapping[str, Any]) -> int:
    """How many pairs the rounds of params.yaml still acquire after a batch."""
    if batch.path is None:
        return 0
    rounds = len(params["rounds"])
    done = 0 if batch.path.parent == START else number_of(batch.path.parent) + 1
    pool = pool_size(POOL)
    return max(0, rounds - done) * pairs_of(params["batch_size"], pool)


def named(path: Path) -> OpenBatch:
    """A batch by its file, whether or not a stage waits for it."""
    pairs = tuple(dict.fromkeys(read_table(path, ["pair_id"])["pair_id"].tolist()))
    return OpenBatch(path.as_posix(), pairs, path.with_name("batch.parquet") if path.name == ASKED else path)


def heldout(answered: Mapping[str, object], limit: int | None) -> OpenBatch:
    """Held-out pairs whose label is not recorded, in an order that is random and always the same.

    Any beginning of it is a uniform sample, so that people may stop when they like.

    Args:
        answered: Held-out pairs that people answered; `prepare` may have put their labels among the recorded ones.
        limit: At most this many pairs; None for all.

    Raises:
        StateError: If every held-out pair has a recorded label, or no prompt is held out.
    """
    truth = read_table(TRUTH / "heldout.parquet", ["pair_id", "label"])
    if not len(truth["pair_id"]):
        raise StateError(
            "params.yaml: pool.heldout: no prompt is held out, so there is nothing to ask; set a share above 0"
        )
    bare = where(truth, np.isnan(truth["label"]) | np.isin(truth["pair_id"], list(answered)))["pair_id"].tolist()
    if not bare:
        raise StateError(f"{TRUTH / 'heldout.parquet'}: every held-out pair has a recorded label: nothing to ask")
    bare.sort(key=lambda pair_id: hashlib.blake2b(pair_id.encode()).digest())
    return OpenBatch("held-out pairs", tuple(bare[:limit]))


def beliefs(path: Path) -> list[dict[str, Any]]:
    """What the model thought of each pair of a batch when it chose it, in the order of picking.

    Returns:
        pair_id, value, mean, variance, tau, uniform, and the shares of the pool's open pairs that were valued less
        (``rank``) and about which the model was surer (``wide``), and the acquisition function that `auto` stood for,
        if it did. NaN, and None for uniform and acquisition, in the seed set.
    """
    batch = read_table(path)
    rows = [dict(zip(batch, values, strict=True)) for values in zip(*(c.tolist() for c in batch.values()), strict=True)]
    scores_path = path.with_name("scores.parquet")
    if not scores_path.exists():
        return [
            row | {"tau": np.nan, "rank": np.nan, "wide": np.nan, "uniform": None, "acquisition": None} for row in rows
        ]
    scores = read_table(scores_path)
    for row in rows:
        mine = where(scores, scores["seed"] == row["seed"])
        at = rows_of(mine["pair"], np.array([row["pair"]]), str(scores_path))[0]
        row["tau"], row["uniform"] = float(mine["tau"][at]), bool(mine["uniform"][at])
        row["acquisition"] = str(mine["acquisition"][at]) if "acquisition" in mine else None
        row["rank"] = float((mine["value"] < row["value"]).mean())
        row["wide"] = float((mine["variance"] < row["variance"]).mean())
    return rows
