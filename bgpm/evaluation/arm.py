"""What the stages wrote, as arrays: learning curves, held-out responses by prompt, labels as they were acquired."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bgpm.data.sheets import bare, csv_rows
from bgpm.data.tables import read_table
from bgpm.errors import StateError
from bgpm.evaluation.savings import Trials
from bgpm.values import read_json

COLUMNS = ("seed", "round", "labels", "split", "section", "metric", "value")
Key = tuple[str, str, str]  # split, section, metric


@dataclass(frozen=True)
class Measurement:
    """One measured number of a learning curve."""

    seed: int
    round: int
    labels: int
    split: str
    section: str
    metric: str
    value: float


@dataclass(frozen=True)
class Figure:
    """One point of a figure of the last round (see `bgpm.evaluation.figures`)."""

    seed: int
    figure: str
    series: str
    x: float
    y: float
    count: int


@dataclass(frozen=True)
class Arm:
    """Everything measured along one arm.

    Attributes:
        name: The acquisition function.
        seeds: Its replications, sorted, S.
        rounds, labels: int64 [T], the points of the curve and the labels acquired until then.
        rows: Every number, in the order of the file.
        values: float64 [S, T] for each (split, section, metric); NaN where it was not measured.
        heldout: Held-out responses by prompt; None where no held-out pair has a label.
        acquired: Table of labels: seed, round, pair, label, value, mean, variance and so on.
        figures: Reliability, coverage and best of n of the last round; empty where nobody measured them.
        stands: Which acquisition function `auto` stands for; empty where the name is the function.
    """

    name: str
    seeds: np.ndarray
    rounds: np.ndarray
    labels: np.ndarray
    rows: tuple[Measurement, ...]
    values: Mapping[Key, np.ndarray]
    heldout: Trials | None
    acquired: Mapping[str, np.ndarray]
    figures: tuple[Figure, ...] = ()
    stands: str = ""

    @property
    def title(self) -> str:
        """The name as a reader sees it: ``entropy``, or ``auto (entropy)``."""
        return f"{self.name} ({self.stands})" if self.stands else self.name

    def curve(self, split: str, section: str, metric: str) -> np.ndarray | None:
        """Values [S, T], or None where any is missing."""
        values = self.values.get((split, section, metric))
        return None if values is None or np.isnan(values).any() else values

    @property
    def measured(self) -> bool:
        """Whether anything was measured on held-out prompts."""
        return self.heldout is not None

    @property
    def trials(self) -> Trials:
        """Held-out responses by prompt; StateError where nothing was measured."""
        if self.heldout is None:
            raise StateError(f"arm {self.name!r}: no held-out pair has a label; run `bgpm annotate --heldout`")
        return self.heldout

    def sections(self, split: str, metric: str) -> list[str]:
        """Sections of a split beside ``all`` and single subsets, in the order of the file."""
        return [
            section
            for s, section, m in self.values
            if s == split and m == metric and section != "all" and not section.startswith("subset:")
        ]

    def pool_trials(self) -> Trials | None:
        """Right labels of the pool, taken as one prompt, since a pool is given and not drawn; None if not measured."""
        right, pairs = self.curve("pool", "all", "right"), self.curve("pool", "all", "pairs")
        if right is None or pairs is None:
            return None
        return Trials(self.labels.astype(np.float64), (right * pairs)[:, :, None], pairs[0, :1])

    def points(self, figure: str, series: str) -> tuple[np.ndarray, np.ndarray]:
        """The x of a figure's series that every seed has, [X], ascending, and y [S, X]."""
        found: dict[float, dict[int, float]] = {}
        for f in self.figures:
            if (f.figure, f.series) == (figure, series):
                found.setdefault(f.x, {})[f.seed] = f.y
        seeds = {f.seed for f in self.figures}
        xs = sorted(x for x, ys in found.items() if ys.keys() == seeds)
        return np.array(xs), np.array([[found[x][seed] for x in xs] for seed in sorted(seeds)])

    def reliability(self) -> np.ndarray:
        """Stated probability and share of right predictions by bin of confidence, [B, 2], ascending.

        Bins are pooled over seeds, weighted by pairs: a bin may be empty under some seed.
        """
        bins: dict[str, list[Figure]] = {}
        for f in self.figures:
            if f.figure == "reliability":
                bins.setdefault(f.series, []).append(f)
        means = [
            np.average([(f.x, f.y) for f in some], axis=0, weights=[f.count for f in some]) for some in bins.values()
        ]
        return np.array(sorted(map(tuple, means))).reshape(-1, 2)

    def surprises(self) -> float:
        """Share of acquired labels that contradict the model's prediction; NaN where no prediction was recorded.

        The seed set, ties, abstentions and scores of exactly 0 do not count. One half is what coin flips give.
        """
        mean, label = self.acquired["mean"], self.acquired["label"]
        told = (self.acquired["round"] > 0) & ~np.isnan(label) & (label != 0.5) & (np.nan_to_num(mean) != 0)
        return float(((mean[told] > 0) != (label[told] > 0.5)).mean()) if told.any() else math.nan


def read_arm(name: str, folder: Path) -> Arm:
    """An arm from the folder of its last round.

    Raises:
        StateError: If a file is missing or damaged, or seeds and rounds do not form a full grid.
    """
    path = folder / "evaluation" / "curve.csv"
    rows = tuple(_rows(path))
    if not rows:
        raise StateError(f"{path}: has no rows; run `dvc repro`")
    seeds, rounds = (np.unique([getattr(row, field) for row in rows]) for field in ("seed", "round"))
    shape = len(seeds), len(rounds)
    at = {(seed, k): (i, j) for i, seed in enumerate(seeds.tolist()) for j, k in enumerate(rounds.tolist())}
    values: dict[Key, np.ndarray] = {}
    counts = np.full(shape, -1)
    for row in rows:
        cell = at[row.seed, row.round]
        values.setdefault((row.split, row.section, row.metric), np.full(shape, np.nan))[cell] = row.value
        counts[cell] = row.labels
    if (counts != counts[0]).any() or (counts < 0).any():
        raise StateError(
            f"{path}: every seed needs the same label count in every round, got {counts.tolist()} for seeds "
            f"{seeds.tolist()} in rounds {rounds.tolist()}; run the arm again"
        )
    labels = counts[0]
    grew = np.concatenate([[True], np.diff(labels) > 0])  # an exhausted pool adds no point
    trials = _trials(folder / "evaluation" / "prompts.parquet", seeds, rounds, labels)
    return Arm(
        name,
        seeds,
        rounds[grew],
        labels[grew],
        rows,
        {key: value[:, grew] for key, value in values.items()},
        trials and Trials(labels[grew].astype(np.float64), trials[0][:, grew], trials[1]),
        read_table(folder / "labels.parquet", ["seed", "round", "pair", "label", "value", "mean", "variance"]),
        tuple(_figures(folder / "evaluation" / "figures.csv")),
    )


def _figures(path: Path) -> Iterator[Figure]:
    if not path.exists():
        return
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for line in csv_rows(file):
                seed, n, x, y = int(line["seed"]), int(line["count"]), float(line["x"]), float(line["y"])
                yield Figure(seed, line["figure"], line["series"], x, y, n)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise StateError(f"{path}: cannot be read as points of figures ({error!r}); run `dvc repro`") from error


def _rows(path: Path) -> Iterator[Measurement]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            if tuple(reader.fieldnames or ()) != COLUMNS:
                raise StateError(
                    f"{path}: expected columns {', '.join(COLUMNS)}, got {reader.fieldnames}; run `dvc repro`"
                )
            for line in reader:
                value = float(line["value"] or "nan")
                if math.isinf(value):
                    raise StateError(f"{path}:{reader.line_num}: {line['metric']} is infinite; the model diverged")
                seed, k, labels = int(line["seed"]), int(line["round"]), int(line["labels"])
                yield Measurement(seed, k, labels, bare(line["split"]), bare(line["section"]), line["metric"], value)
    except (OSError, ValueError, TypeError) as error:
        if isinstance(error, StateError):
            raise
        raise StateError(f"{path}: cannot be read as a learning curve ({error}); run `dvc repro`") from error


def _trials(
    path: Path, seeds: np.ndarray, rounds: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """Right responses [S, T, Q] and pairs [Q] from one row a seed, round and prompt; None where there is no row."""
    table = read_table(path, ["seed", "round", "prompt", "pairs", "right"])
    if not len(table["prompt"]):
        return None
    names, prompt = np.unique(table["prompt"], return_inverse=True)
    cells = np.searchsorted(seeds, table["seed"]), np.searchsorted(rounds, table["round"])
    expected = len(seeds) * len(rounds) * len(names)
    known = np.isin(table["seed"], seeds).all() and np.isin(table["round"], rounds).all()
    if len(prompt) != expected or not known:
        raise StateError(
            f"{path}: expected one row for each of {len(seeds)} seeds, {len(rounds)} rounds and {len(names)} held-out "
            f"prompts ({expected}), got {len(prompt)}; it belongs to another run than curve.csv"
        )
    right, pairs = np.full((2, len(seeds), len(rounds), len(names)), np.nan)
    right[cells[0], cells[1], prompt], pairs[cells[0], cells[1], prompt] = table["right"], table["pairs"]
    if np.isnan(right).any() or (pairs != pairs[0, 0]).any():
        raise StateError(f"{path}: held-out prompts differ between seeds or rounds; run the arm again")
    return right, pairs[0, 0]


def read_optional(path: Path) -> dict[str, Any]:
    """A JSON object that an earlier stage wrote; empty where that stage has not run.

    Raises:
        StateError: If the file is there and is not a JSON object.
    """
    return read_json(path) if path.exists() else {}
