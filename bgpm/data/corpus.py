"""The corpus that ships with the project: texts written by hand, preferences by simulated annotators.

Each line of ``data/corpus/*.jsonl`` is one prompt with its responses, every response annotated with six
attributes from 0 (bad) to 3 (good). Five annotators weigh the attributes differently and vote with
noise; a pair's label is their majority. Majorities of unlike people can be cyclic though nobody is:
`count_cycles` says how often that happens here. Settings are in ``annotators.yaml`` beside the texts.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np
from pydantic import AfterValidator, Field

from bgpm.data.files import json_lines
from bgpm.errors import DataError
from bgpm.registry import Settings, parse
from bgpm.values import parse_yaml

Attribute = Literal["correctness", "helpfulness", "harmlessness", "tone", "brevity", "clarity"]
ATTRIBUTES: tuple[Attribute, ...] = get_args(Attribute)


class BenchmarkSampling(Settings):
    """Which prompts and pairs of the corpus are the benchmark."""

    prompts_per_section: int
    pairs_per_prompt: int
    agree: int


class PoolSampling(Settings):
    """Which pairs of the other prompts are the pool: share kept by section, and of close pairs."""

    keep: dict[str, float]
    close: float


def _odd(annotators: dict[str, list[Attribute]]) -> dict[str, list[Attribute]]:
    if len(annotators) % 2 == 0:
        raise ValueError(
            f"expected an odd number of annotators, so that every pair has a majority, got {len(annotators)}"
        )
    return annotators


class AnnotatorSettings(Settings):
    """annotators.yaml."""

    annotators: Annotated[dict[str, list[Attribute]], AfterValidator(_odd)]
    first: float
    decay: float
    noise: float = Field(gt=0)
    seed: int
    benchmark: BenchmarkSampling
    pool: PoolSampling


@dataclass(frozen=True)
class CorpusPair:
    """One labelled pair of the corpus, in the order of the file.

    Attributes:
        prompt: Row of the prompt in the corpus.
        a, b: Rows of the answers within the prompt.
        votes: Noisy votes for ``a``.
        clear: Votes for ``a`` without noise.
        annotators: How many vote, an odd number.
    """

    prompt: int
    a: int
    b: int
    votes: int
    clear: int
    annotators: int


def read_corpus(folder: Path) -> list[dict[str, Any]]:
    """Prompts with their responses, in the order of file names and lines.

    Raises:
        DataError: Naming file and line of what is wrong.
    """
    corpus = []
    for path in sorted(folder.glob("*.jsonl")):
        for place, entry in json_lines(path):
            try:
                for response in entry["answers"]:
                    if not isinstance(response["text"], str):
                        raise ValueError("an answer's text is text")
                    if any(response[name] not in (0, 1, 2, 3) for name in ATTRIBUTES):
                        raise ValueError("attributes are whole numbers from 0 to 3")
                if not all(isinstance(entry[name], str) for name in ("prompt", "section", "subset")):
                    raise ValueError("prompt, section and subset are text")
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(f"{place}: not a corpus entry: {error!r}") from None
            corpus.append(entry)
    if not corpus:
        raise DataError(f"{folder}: no *.jsonl with prompts")
    return corpus


def read_annotators(folder: Path) -> AnnotatorSettings:
    """Settings of the simulated annotators beside the texts."""
    path = folder / "annotators.yaml"
    try:
        raw = parse_yaml(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    return parse(AnnotatorSettings, raw, "", str(path))


def utilities(settings: AnnotatorSettings, responses: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """What each annotator gives each response, [annotators, responses]."""
    weights = np.zeros((len(settings.annotators), len(ATTRIBUTES)))
    for row, order in enumerate(settings.annotators.values()):
        for rank, name in enumerate(order):
            weights[row, ATTRIBUTES.index(name)] = settings.first * settings.decay**rank
    values = np.array([[response[name] for name in ATTRIBUTES] for response in responses], np.float64)
    return weights @ values.T


def all_pairs(settings: AnnotatorSettings, corpus: Sequence[Mapping[str, Any]]) -> list[CorpusPair]:
    """Every pair of responses to one prompt with its votes. A vote of exactly equal sums is a coin's."""
    rng = np.random.default_rng(settings.seed)
    pairs = []
    for row, entry in enumerate(corpus):
        value = utilities(settings, entry["answers"])
        for a, b in itertools.combinations(range(len(entry["answers"])), 2):
            # Equal sums differ in the last bits, by the order in which a machine adds; they are ties all the same.
            gap = np.round(value[:, a] - value[:, b], 9)
            coin = rng.random(len(gap))
            votes = coin < 0.5 + 0.5 * np.tanh(gap / (2 * settings.noise))  # the logistic function, without overflow
            clear = np.where(gap == 0, coin < 0.5, gap > 0)
            pairs.append(CorpusPair(row, a, b, int(votes.sum()), int(clear.sum()), len(gap)))
    return pairs


def count_cycles(pairs: Iterable[CorpusPair], annotators: int) -> tuple[int, int]:
    """Triples of responses to one prompt whose noise-free majorities form a cycle, and triples in all."""
    beats: dict[int, dict[tuple[int, int], bool]] = {}
    for p in pairs:
        wins = beats.setdefault(p.prompt, {})
        wins[p.a, p.b] = p.clear > annotators / 2
        wins[p.b, p.a] = not wins[p.a, p.b]
    cyclic = triples = 0
    for wins in beats.values():
        for x, y, z in itertools.combinations(sorted({a for a, _ in wins}), 3):
            triples += 1
            cyclic += wins[x, y] == wins[y, z] == wins[z, x]
    return cyclic, triples


def split_corpus(
    settings: AnnotatorSettings, corpus: Sequence[Mapping[str, Any]]
) -> tuple[list[CorpusPair], list[CorpusPair]]:
    """Pairs of the pool and pairs of the benchmark; the two share no prompt.

    Raises:
        DataError: If a section has fewer prompts than the benchmark takes, or no share in ``pool.keep``.
    """
    unknown = {entry["section"] for entry in corpus} - set(settings.pool.keep)
    if unknown:
        raise DataError(f"annotators.yaml: pool.keep: no share for section {', '.join(sorted(unknown))}")
    rng = np.random.default_rng(settings.seed + 1)
    chosen: set[int] = set()
    for section in sorted({entry["section"] for entry in corpus}):
        rows = [row for row, entry in enumerate(corpus) if entry["section"] == section]
        take = settings.benchmark.prompts_per_section
        if len(rows) <= take:
            raise DataError(f"corpus section {section!r} has {len(rows)} prompts, the benchmark alone takes {take}")
        chosen.update(rng.choice(rows, take, replace=False).tolist())
    pool: list[CorpusPair] = []
    benchmark: list[CorpusPair] = []
    for prompt, group in itertools.groupby(all_pairs(settings, corpus), key=lambda p: p.prompt):
        pairs = list(group)
        if prompt in chosen:
            agreed = [p for p in pairs if max(p.clear, len(settings.annotators) - p.clear) >= settings.benchmark.agree]
            take = min(settings.benchmark.pairs_per_prompt, len(agreed))
            benchmark += [agreed[row] for row in sorted(rng.choice(len(agreed), take, replace=False))]
        else:
            keep = settings.pool.keep[corpus[prompt]["section"]]
            for p in pairs:
                easy = p.clear in (0, len(settings.annotators))
                if rng.random() < keep * (1.0 if easy else settings.pool.close):
                    pool.append(p)
    return pool, benchmark


def as_rows(pairs: Iterable[CorpusPair], corpus: Sequence[Mapping[str, Any]], *, clear: bool) -> list[dict[str, Any]]:
    """Pairs as rows {prompt, response_a, response_b, label, section, subset}: noisy majority, or the clear one."""
    rows = []
    for p in pairs:
        entry = corpus[p.prompt]
        rows.append(
            {
                "prompt": entry["prompt"],
                "response_a": entry["answers"][p.a]["text"],
                "response_b": entry["answers"][p.b]["text"],
                "label": float(2 * (p.clear if clear else p.votes) > p.annotators),
                "section": entry["section"],
                "subset": entry["subset"],
            }
        )
    return rows
