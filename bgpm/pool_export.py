"""The labels of a whole pool as a preference data set: what `bgpm export --pool` writes.

A pair has the label that was given for it, the one its audit gave, or the one that the model infers. Ties are left out.
Formats are TRL's: ``dpo`` and ``reward`` have one row a pair (prompt, chosen, rejected), ``kto`` one row a response
(prompt, completion, label), where the response is better than in none, or in every one, of the pairs it stands in.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from bgpm.data.tables import read_table, rows_of, where
from bgpm.errors import StateError
from bgpm.evaluation import AuditSettings
from bgpm.evaluation.arm import read_arm
from bgpm.evaluation.audit import ACQUIRED, AUDIT, INFERRED
from bgpm.evaluation.certificate import certificate
from bgpm.evaluation.plan import looks_of
from bgpm.oracles import Oracle
from bgpm.oracles.human import Human
from bgpm.sections import section
from bgpm.stage import ANNOTATIONS, POOL, START, WAITING, number_of, read_params, setting

Format = Literal["dpo", "reward", "kto"]
LABELS = "pool_labels.parquet"
ANNOTATED = "annotated"


@dataclass(frozen=True)
class Preferences:
    """Pairs of a pool in which one response is better, [N].

    Attributes:
        prompt: Messages of each pair's prompt.
        chosen, rejected: Texts.
        probability: That the chosen response is the better one, float64 [N]; 1 where a label was given.
        source: acquired, inferred, audit, or annotated (people labelled it, and no round acquired it: a reserve, or
            what an earlier run asked for), str [N].
        ties: Pairs that were left out because neither is better.
    """

    prompt: list[list[dict[str, str]]]
    chosen: list[str]
    rejected: list[str]
    probability: np.ndarray
    source: np.ndarray
    ties: int

    def __len__(self) -> int:
        return len(self.chosen)

    def take(self, rows: np.ndarray) -> Preferences:
        """The pairs at these rows."""
        return Preferences(
            [self.prompt[row] for row in rows],
            [self.chosen[row] for row in rows],
            [self.rejected[row] for row in rows],
            self.probability[rows],
            self.source[rows],
            self.ties,
        )

    def counts(self) -> dict[str, int]:
        """Pairs by source."""
        found = Counter(self.source.tolist())
        always = (ACQUIRED, AUDIT, INFERRED)
        return {name: found[name] for name in (*always, ANNOTATED) if found[name] or name in always}


def folder_of(place: Path, root: Path = Path()) -> Path:
    """The round's folder: the one given, or the last round of an arm's folder.

    Rounds that params.yaml no longer lists, and rounds behind one that waits for labels, are left over from another
    run.

    Args:
        place: Of a round or an arm.
        root: The project, whose params.yaml lists the rounds.

    Raises:
        ConfigError: If that file cannot be read.
        StateError: If no pool was labelled there.
    """
    if (place / LABELS).is_file():
        return place
    last = setting(read_params(root / "params.yaml"), "rounds")[-1]["next"]
    waits = [number_of(note.parent) for note in place.glob(f"round-*/{WAITING}")]
    if (root / START / WAITING).exists():
        raise StateError(
            f"{root / START}: the seed set waits for labels, and the rounds below {place} are an earlier run's; label "
            "it, or name the round that is meant"
        )
    rounds = {number_of(path.parent): path.parent for path in place.glob(f"round-*/{LABELS}")}
    of_this_run = [k for k in rounds if k <= min([last, *waits])]
    if not of_this_run:
        raise StateError(f"{place}: no {LABELS} there, and in no round-K below; name a round such as data/auto/round-5")
    return rounds[max(of_this_run)]


def read_preferences(folder: Path, seed: int, root: Path = Path()) -> Preferences:
    """The decided labels of a round.

    Args:
        folder: Of a round.
        seed: Which replication's.
        root: The project, in which the pool lies.

    Raises:
        ConfigError: If params.yaml cannot be read.
        DataError: If an annotation cannot.
        StateError: If a file is missing, the seed is not in it, or it belongs to another pool.
    """
    path = folder / LABELS
    table = read_table(path)
    mine = where(table, table["seed"] == seed)
    if not len(mine["pair"]):
        seeds = ", ".join(map(str, np.unique(table["seed"]).tolist()))
        raise StateError(f"{path}: no labels of seed {seed}; it has {seeds}")
    audited = ~np.isnan(mine["audit"])
    label = np.where(audited, mine["audit"], mine["label"])
    probability = np.where(audited, mine["audit"], mine["probability"])
    source = mine["source"].astype(object)
    said = annotated(root)
    given = np.array([said.get(name, np.nan) for name in mine["pair_id"]], np.float64)
    ahead = (source == INFERRED) & ~audited & ~np.isnan(given)  # nobody's word is overruled by a model
    label[ahead] = probability[ahead] = given[ahead]
    source[ahead] = ANNOTATED
    decided = np.flatnonzero(label != 0.5)
    pool = root / POOL
    pairs = read_table(pool / "pairs.parquet", ["pair_id", "prompt", "response_a", "response_b"])
    rows = rows_of(pairs["pair_id"], mine["pair_id"][decided], str(pool / "pairs.parquet"))
    text = read_table(pool / "responses.parquet", ["text"])["text"]
    messages = read_table(pool / "prompts.parquet", ["messages"])["messages"]
    first = label[decided] > 0.5
    chosen = np.where(first, pairs["response_a"][rows], pairs["response_b"][rows])
    rejected = np.where(first, pairs["response_b"][rows], pairs["response_a"][rows])
    return Preferences(
        [json.loads(str(messages[prompt])) for prompt in pairs["prompt"][rows]],
        [str(text[row]) for row in chosen],
        [str(text[row]) for row in rejected],
        np.where(first, probability[decided], 1 - probability[decided]),
        source[decided],
        len(label) - len(decided),
    )


def annotated(root: Path) -> dict[str, float]:
    """What people said of pairs, by pair_id, where enough of them did; nothing where other oracles label."""
    oracle = section(read_params(root / "params.yaml"), "oracle", Oracle)
    return oracle.answered(root / ANNOTATIONS)[0] if isinstance(oracle, Human) else {}


def one_per_prompt(pairs: Preferences) -> Preferences:
    """Of each prompt the pair that is surest; of equals the first of the pool."""
    best: dict[str, int] = {}
    for row in np.argsort(-pairs.probability, kind="stable").tolist():
        best.setdefault(json.dumps(pairs.prompt[row]), row)
    return pairs.take(np.array(sorted(best.values()), np.int64))


def as_rows(pairs: Preferences, kind: Format) -> Iterator[dict[str, Any]]:
    """Rows of a format, all of one form: texts where every prompt is one user turn, else conversations."""
    plain = all(len(turns) == 1 and turns[0]["role"] == "user" for turns in pairs.prompt)

    def prompt(turns: list[dict[str, str]]) -> Any:
        return turns[0]["content"] if plain else turns

    def response(text: str) -> Any:
        return text if plain else [{"role": "assistant", "content": text}]

    if kind == "kto":
        for turns, text, label in _single(pairs):
            yield {"prompt": prompt(turns), "completion": response(text), "label": label}
        return
    for row, turns in enumerate(pairs.prompt):
        told = {
            "prompt": prompt(turns),
            "chosen": response(pairs.chosen[row]),
            "rejected": response(pairs.rejected[row]),
        }
        more = {"probability": float(pairs.probability[row]), "source": str(pairs.source[row])}
        yield told if kind == "reward" else told | more


def _single(pairs: Preferences) -> Iterator[tuple[list[dict[str, str]], str, bool]]:
    """Each response that all of its pairs agree on, with whether it is the better one."""
    said: dict[tuple[str, str], list[bool]] = {}
    for turns, better, worse in zip(pairs.prompt, pairs.chosen, pairs.rejected, strict=True):
        for text, label in ((better, True), (worse, False)):
            said.setdefault((json.dumps(turns), text), []).append(label)
    for (turns, text), labels in said.items():
        if len(set(labels)) == 1:
            yield json.loads(turns), text, labels[0]


@dataclass(frozen=True)
class RoundAudits:
    """What audits say of the labels of a round's pool.

    Attributes:
        bound: At least this share of all labels of the pool is right.
        audited, wrong: Audits, and those whose inferred label was wrong.
        settings: Under which the bound holds.
    """

    bound: float
    audited: int
    wrong: int
    settings: AuditSettings

    def sentence(self) -> str:
        """The bound in words, without a full stop."""
        target, confidence = self.settings.target, 100 * (1 - self.settings.alpha)
        done = "certified" if self.bound >= target else f"below the target of {100 * target:g}%"
        return (
            f"at least {100 * self.bound:.1f}% of the labels of the whole pool are right, with {confidence:g}% "
            f"confidence ({done}); a part of the pool may have more or fewer"
        )


def audits_of_round(folder: Path, seed: int, params: Mapping[str, Any]) -> RoundAudits | None:
    """What the audits of a round say, also where every label is acquired; None where nothing is known."""
    audit = section(params, "audit", AuditSettings)
    arm = read_arm(folder.parent.name, folder)
    found = certificate(
        arm, audit, looks_of(audit, len(setting(params, "rounds")), paid=section(params, "oracle", Oracle).paid)
    )
    at = arm.seeds.tolist().index(seed)
    if found is None or (not found.audited[at, -1] and found.bound[at, -1] < audit.target):
        return None
    return RoundAudits(float(found.bound[at, -1]), int(found.audited[at, -1]), int(found.wrong[at, -1]), audit)


def remarks(pairs: Preferences, kept: Preferences, folder: Path, seed: int, root: Path) -> Iterable[str]:
    """What was written and what it is worth, in lines for people."""
    counts = ", ".join(f"{count:,} {name}" for name, count in kept.counts().items())
    yield f"{folder}: {len(kept):,} of {len(pairs) + pairs.ties:,} pairs ({counts}); {pairs.ties:,} ties left out"
    found = audits_of_round(folder, seed, read_params(root / "params.yaml"))
    yield "not certified: no audits" if found is None else found.sentence()
