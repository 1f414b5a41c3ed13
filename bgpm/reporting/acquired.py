"""What was acquired: the mix of sections beside the pool's, how often a label surprised, and pairs with their texts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bgpm.data.tables import read_table
from bgpm.evaluation.arm import Arm
from bgpm.evaluation.result import Result
from bgpm.reporting.charts import share_bar
from bgpm.reporting.words import percent

SECTIONS_SHOWN = 5  # the largest; the rest is "other"
PAIRS_SHOWN = 8
TEXT_SHOWN = 700  # characters of a text that the page shows
Z90 = 1.645


class Fact(NamedTuple):
    """A few words on a pair, of which the middle ones stand out."""

    text: str
    bold: str = ""
    after: str = ""


@dataclass(frozen=True)
class PoolTables:
    """Texts and pairs of the pool, one table each."""

    prompts: Mapping[str, np.ndarray]
    responses: Mapping[str, np.ndarray]
    pairs: Mapping[str, np.ndarray]


def read_pool_tables(folder: Path) -> PoolTables:
    """The pool's tables; StateError when one is missing or damaged."""
    return PoolTables(
        read_table(folder / "prompts.parquet", ["text"]),
        read_table(folder / "responses.parquet", ["text"]),
        read_table(folder / "pairs.parquet", ["prompt", "response_a", "response_b", "section", "split"]),
    )


def shares(sections: np.ndarray, names: Sequence[str]) -> list[tuple[str, float]]:
    """Share of each named section, and of all others together where there are any."""
    found = [(name, float((sections == name).mean()) if len(sections) else 0.0) for name in names]
    rest = 1 - sum(share for _, share in found)
    return found + ([("other", rest)] if rest > 1e-9 and len(sections) else [])


def section_mix(result: Result, pool: PoolTables) -> dict[str, Any]:
    """Sections of what each arm acquired, and of what was on offer, as bars; no bars where the pool has one section."""
    on_offer = pool.pairs["section"][pool.pairs["split"] == "pool"]
    found, counts = np.unique(on_offer, return_counts=True)
    guesses = [(arm.title, arm.surprises()) for arm in result.arms]
    surprise = "; ".join(
        f"{percent(share)} of the labels that {name} acquired" for name, share in guesses if not math.isnan(share)
    )
    note = f"Labels that went against the model\u2019s guess when it asked: {surprise}." if surprise else ""
    if len(found) < 2:
        return {"note": note, "rows": []}
    names = found[np.argsort(-counts, kind="stable")][:SECTIONS_SHOWN].tolist()

    def bar(name: str, sections: np.ndarray, *, apart: bool) -> dict[str, str]:
        return {"name": name, "bar": share_bar(shares(sections, names), name), "style": "after" if apart else ""}

    rows = [bar("the pool", on_offer, apart=False)]
    for arm in reversed(result.arms):
        section, when = pool.pairs["section"][arm.acquired["pair"]], arm.acquired["round"]
        rows.append(bar(f"{arm.title}, all", section[when > 0], apart=True))
        if arm is result.arm:
            rounds = np.unique(when[when > 0]).tolist()
            rows += [bar(f"round {k}", section[when == k], apart=k == rounds[0]) for k in rounds]
    key = [name or "no section" for name in names] + (["other"] if len(found) > len(names) else [])
    return {"note": note, "key": key, "rows": rows}


def valued_pairs(result: Result, pool: PoolTables) -> dict[str, Any] | None:
    """For the first seed, the pair valued most in each round, or in some, evenly spread, where there are many."""
    arm = result.arm
    mine = np.flatnonzero((arm.acquired["seed"] == arm.seeds[0]) & (arm.acquired["round"] > 0))
    if not len(mine):
        return None
    rounds = np.unique(arm.acquired["round"][mine])
    spread = np.linspace(0, len(rounds) - 1, min(PAIRS_SHOWN, len(rounds))).round().astype(int)
    pairs = []
    for k in rounds[spread].tolist():
        here = mine[arm.acquired["round"][mine] == k]
        value = np.nan_to_num(arm.acquired["value"][here], nan=-np.inf)
        pairs.append(_pair(arm, pool, int(here[np.argmax(value)]), k))
    return {"seed": arm.seeds[0], "drawn": arm.name == "random", "shown": pairs}


def _pair(arm: Arm, pool: PoolTables, row: int, k: int) -> dict[str, Any]:
    """What is known of an acquired pair, and its texts."""
    pair, label = int(arm.acquired["pair"][row]), float(arm.acquired["label"][row])
    response_a, response_b, prompt = (int(pool.pairs[name][pair]) for name in ("response_a", "response_b", "prompt"))
    facts = [Fact("round ", str(k)), Fact(str(pool.pairs["section"][pair])), _belief(arm, row, k)]
    if label == 0.5 or math.isnan(label):
        facts.append(Fact("labelled ", "a tie") if label == 0.5 else Fact("", "nobody could say"))
    return {
        "facts": [fact for fact in facts if any(fact)],
        "prompt": _legible(pool.prompts["text"][prompt]),
        "responses": [
            {"name": name, "won": won, "text": _legible(pool.responses["text"][response])}
            for name, response, won in (("A", response_a, label > 0.5), ("B", response_b, label < 0.5))
        ],
    }


def _belief(arm: Arm, row: int, k: int) -> Fact:
    """What the model of the round before thought of a pair, as a probability where its temperature is known."""
    mean, variance = float(arm.acquired["mean"][row]), float(arm.acquired["variance"][row])
    if math.isnan(mean) or math.isnan(variance):
        return Fact("no belief was recorded")
    sd = math.sqrt(max(variance, 0.0))
    temperature, before = arm.values.get(("model", "all", "tau")), np.flatnonzero(arm.rounds == k - 1)
    if temperature is None or not len(before) or math.isnan(temperature[0, before[0]]):
        return Fact("score of A over B ", f"{mean:.2f}", f", standard deviation {sd:.2f}")
    tau = float(temperature[0, before[0]])
    middle, low, high = (percent(_sigmoid((mean + z * sd) / tau)) for z in (0.0, -Z90, Z90))
    return Fact("P(A better) ", middle, f", {low} to {high}" if sd > 0 else "")


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def _legible(text: object) -> str:
    """A text of the pool; control characters are shown as such and long texts are cut, visibly."""
    clean = "".join(
        c if c in "\n\t" or c.isprintable() or ord(c) > 159 else "\N{REPLACEMENT CHARACTER}" for c in str(text).strip()
    )
    return clean if len(clean) <= TEXT_SHOWN else clean[:TEXT_SHOWN].rstrip() + " \N{HORIZONTAL ELLIPSIS}"
