"""Cyclic triples: the share of held-out ones that each model orders rightly.

``python -m benchmarks.cyclic [MATRICES.json]`` writes reports/cyclic.md. Two parts:

* the pool of the pipeline, after ``dvc repro features``: models learn from every label of the pool and order the
  triples of responses to held-out prompts;
* matrices of match-ups, where a file of them is given: ``{NAME: {"names": [...], "P": [[...]]}}``, P[i][j] the
  probability that i beats j. There is no text: an item's features are one-hot, so a model learns an embedding an item,
  and can say something of two items that it has not seen meet through the low rank of their scores alone. Each cyclic
  triple, and as many transitive ones, is held out with all its three cells, a tenth of the cells at a
  time, and beside that every cell, a tenth of them at a time; a cell counts as GAMES games without noise.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from bgpm.data.corpus import all_pairs, read_annotators, read_corpus
from bgpm.data.tables import read_table
from bgpm.errors import BgpmError, DataError
from bgpm.evaluation.cyclic import Triples, find_triples, triples_right
from bgpm.loop.pool import read_labelled
from bgpm.models import Model
from bgpm.models.bt import Bt
from bgpm.models.gpm import Gpm
from bgpm.posteriors import Posterior
from bgpm.posteriors.amortized import Amortized
from bgpm.posteriors.laplace import Laplace
from bgpm.posteriors.point import Point
from bgpm.stage import FEATURES, POOL, TRUTH
from bgpm.types import Comparisons, Features, Pairs

REPORTS = Path("reports")
CORPUS = Path("data/corpus")
GAMES, FOLDS, SEED = 20, 10, 0
MODELS: dict[str, tuple[Posterior, Model]] = {
    "Bradley-Terry": (Point(), Bt()),
    "GPM, d = 6, all blocks on": (Point(), Gpm(bt_block=False)),
    "BGPM, d = 6, blocks earn their place, Laplace (default)": (Laplace(), Gpm()),
    "BGPM as published (amortised, unit sphere)": (Amortized(), Gpm(bt_block=False, normalize="sphere")),
}


def predict(model: tuple[Posterior, Model], features: Features, data: Comparisons, pairs: Pairs) -> np.ndarray:
    """Probabilities that response_a is better, [N], from a model fitted to ``data``."""
    from bgpm.evaluation.curve import probabilities

    posterior, head = model
    return probabilities(posterior.fit(head, features, data, seed=SEED).moments(features, pairs))


def shares(probability: np.ndarray, label: np.ndarray, triples: Triples) -> list[str]:
    """Cells of a table: pairs, cyclic and transitive triples that are ordered rightly."""
    decided = label != 0.5
    right = (np.sign(probability - 0.5) == np.sign(label - 0.5))[decided].mean()
    whole = triples_right(probability - 0.5, label, triples)
    parts = [whole[mask] for mask in (triples.cyclic, ~triples.cyclic)]
    return [f"{right:.3f}", *(f"{part.mean():.3f}" if len(part) else "none" for part in parts)]


def corpus_lines() -> list[str]:
    """The pool: recorded labels of held-out prompts, and, of the shipped corpus, majorities without noise."""
    train = read_labelled(POOL, TRUTH / "pool.parquet", FEATURES / "pool")
    test = read_labelled(POOL, TRUTH / "heldout.parquet", FEATURES / "pool")
    sets = {"recorded": (test.pairs, test.label)}
    if CORPUS.is_dir():
        sets["without noise"] = noise_free(test.pairs.prompt)
    data = Comparisons(train.pairs, train.label)
    found = {
        name: {which: predict(model, train.features, data, pairs) for which, (pairs, _) in sets.items()}
        for name, model in MODELS.items()
    }
    lines = [
        f"Trained on {len(data):,} labels of the pool; every triple of answers to a held-out prompt whose three pairs "
        "are labelled."
    ]
    for which, (pairs, label) in sets.items():
        triples = find_triples(pairs, label)
        cyclic = int(triples.cyclic.sum())
        lines += [
            "",
            f"Labels {which}: {cyclic:,} of {len(triples.cyclic):,} triples are cyclic.",
            "",
            "| model | pairs | cyclic triples | transitive triples |",
            "|---|---:|---:|---:|",
            *(f"| {name} | {' | '.join(shares(p[which], label, triples))} |" for name, p in found.items()),
        ]
    return lines


def noise_free(prompts: np.ndarray) -> tuple[Pairs, np.ndarray]:
    """Every pair of responses of the shipped corpus to these prompts, with the majority before noise."""
    corpus, annotators = read_corpus(CORPUS), read_annotators(CORPUS)
    texts = read_table(POOL / "prompts.parquet", ["text"])["text"]
    responses = read_table(POOL / "responses.parquet", ["prompt", "text"])
    row_of = {(int(q), text): n for n, (q, text) in enumerate(zip(responses["prompt"], responses["text"], strict=True))}
    wanted = {texts[q]: q for q in np.unique(prompts).tolist()}
    rows, label = [], []
    for pair in all_pairs(annotators, corpus):
        q = wanted.get(corpus[pair.prompt]["prompt"])
        responses = [corpus[pair.prompt]["answers"][side]["text"] for side in (pair.a, pair.b)]
        known = [row_of.get((q, text)) for text in responses] if q is not None else [None]
        if None not in known:
            rows.append((*known, q))
            label.append(float(2 * pair.clear > pair.annotators))
    return Pairs(*np.array(rows, np.int64).T.copy()), np.array(label)


def read_matrices(path: Path) -> dict[str, np.ndarray]:
    """Matrices of win probabilities by name.

    Raises:
        DataError: If the file is not one, or a matrix is not square, not in [0, 1] or not complementary.
    """
    try:
        raw = {name: np.array(entry["P"], np.float64) for name, entry in json.loads(path.read_text("utf-8")).items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f'{path}: expected {{NAME: {{"P": [[...]]}}}}, got {error!r}') from None
    for name, p in raw.items():
        if p.ndim != 2 or p.shape[0] != p.shape[1] or not ((p >= 0) & (p <= 1)).all():
            raise DataError(f"{path}: {name}: expected a square matrix of probabilities, got shape {list(p.shape)}")
        if np.abs(p + p.T - 1).max() > 1e-6:
            i, j = np.unravel_index(np.abs(p + p.T - 1).argmax(), p.shape)
            raise DataError(f"{path}: {name}: P[{i}][{j}] + P[{j}][{i}] is {p[i, j] + p[j, i]}, expected 1")
    return raw


def matrix_lines(matrix: np.ndarray) -> list[str]:
    """One matrix: triples held out whole, and cells, a tenth of the cells at a time."""
    rng = np.random.default_rng(SEED)
    size = len(matrix)
    i, j = np.triu_indices(size, 1)
    label = matrix[i, j]
    one_prompt = Pairs(i.astype(np.int64), j.astype(np.int64), np.zeros(len(i), np.int64))
    triples = find_triples(one_prompt, label)
    # Folds of a posterior's own cross-validation do not divide a prompt: each cell is its own.
    cells = Pairs(one_prompt.response_a, one_prompt.response_b, np.arange(len(i)))
    features = Features(np.eye(size, dtype=np.float32), np.zeros((len(i), 1), np.float32))
    cyclic, transitive = (np.flatnonzero(mask) for mask in (triples.cyclic, ~triples.cyclic))
    transitive = rng.choice(transitive, min(len(transitive), max(len(cyclic), 30)), replace=False)
    tenths = np.array_split(rng.permutation(len(i)), FOLDS)

    groups = disjoint(triples.rows, [*cyclic.tolist(), *transitive.tolist()], max(1, len(i) // (3 * FOLDS)))

    def without(held: np.ndarray, model: tuple[Posterior, Model]) -> np.ndarray:
        rows = np.repeat(np.setdiff1d(np.arange(len(i)), held), GAMES)
        return predict(model, features, Comparisons(cells.take(rows), label[rows]), cells.take(held))

    lines = [
        "| model | held-out cyclic triples | held-out transitive triples | pairs of cyclic triples | held-out cells "
        "| divergence from P, nats |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, model in MODELS.items():
        signs = {}
        for group in groups:
            held = np.unique(triples.rows[group])
            told = np.full(len(i), np.nan)
            told[held] = without(held, model)
            right = np.sign(told - 0.5) == np.sign(label - 0.5)
            signs |= {t: right[triples.rows[t]] for t in group}
        p = np.empty(len(i))
        for held in tenths:
            p[held] = without(held, model)
        decided = label != 0.5
        on_cells = (np.sign(p - 0.5) == np.sign(label - 0.5))[decided].mean()
        whole = [[signs[t].all() for t in part] for part in (cyclic, transitive)]
        columns = [
            *(f"{np.mean(part):.3f}" if part else "none" for part in whole),
            f"{np.mean([signs[t].mean() for t in cyclic]):.3f}" if len(cyclic) else "none",
            f"{on_cells:.3f}",
            f"{divergence(label, p):.4f}",
        ]
        lines.append(f"| {name} | {' | '.join(columns)} |")
    about = (
        f"{size} items, {len(i)} cells, of which {int((label == 0.5).sum())} are even; {len(cyclic)} of "
        f"{len(triples.cyclic)} triples are cyclic; {len(transitive)} transitive ones are held out beside them."
    )
    return [about, "", *lines]


def disjoint(rows: np.ndarray, triples: list[int], most: int) -> list[list[int]]:
    """Triples in groups of at most ``most`` that share no pair, first come first served."""
    groups: list[list[int]] = []
    for t in triples:
        for group in groups:
            if len(group) < most and not np.isin(rows[t], rows[group]).any():
                group.append(t)
                break
        else:
            groups.append([t])
    return groups


def divergence(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Mean Kullback-Leibler divergence of predicted from true win probabilities, nats."""
    total = np.zeros(len(truth))
    for p, q in ((truth, predicted), (1 - truth, 1 - predicted)):
        some = p > 0
        total[some] += p[some] * np.log(p[some] / q[some])
    return float(total.mean())


def report(corpus: list[str], matrices: Mapping[str, list[str]]) -> str:
    """Everything as Markdown."""
    lines = [
        "# Cyclic triples",
        "",
        "Share of held-out triples of which a model orders all three pairs rightly; Bradley-Terry cannot order a "
        "cyclic one. Made by `python -m benchmarks.cyclic`.",
        "",
        "## The pool",
        "",
        *corpus,
    ]
    for name, found in matrices.items():
        lines += ["", f"## Match-ups: {name}", "", *found]
    if matrices:
        lines += [
            "",
            "Match-ups: features are one-hot, so that what is held out can be told by low rank alone; a cell counts as "
            f"{GAMES} games without noise. A triple is held out with its three cells; at most one cell in "
            f"{FOLDS} is held out at a time.",
        ]
    return "\n".join(lines) + "\n"


def main(*paths: str) -> None:
    found = dict(itertools.chain.from_iterable(read_matrices(Path(path)).items() for path in paths))
    text = report(corpus_lines(), {name: matrix_lines(matrix) for name, matrix in found.items()})
    REPORTS.mkdir(exist_ok=True)
    (REPORTS / "cyclic.md").write_text(text, encoding="utf-8")
    print(text, end="")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except BgpmError as error:
        sys.exit(f"error: {error}")
