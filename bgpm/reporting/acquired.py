"""What was acquired: the mix of sections beside the pool's, how often a label surprised, and pairs with their texts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

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


def section_mix(result: Result, pool: PoolTables) -> str:
    """Sections of what each arm acquired, and of what was on offer, as bars; empty where the pool has one section."""
    on_offer = pool.pairs["section"][pool.pairs["split"] == "pool"]
    found, counts = np.unique(on_offer, return_counts=True)
    guesses = [(arm.title, arm.surprises()) for arm in result.arms]
    surprise = "; ".join(
        f"{percent(share)} of the labels that {name} acquired" for name, share in guesses if not math.isnan(share)
    )
    note = f"Labels that went against the model\u2019s guess when it asked: {surprise}." if surprise else ""
    title = "<section>\n<h2>What was acquired</h2>\n"
    if len(found) < 2:
        return f'{title}<p class="soft">{escape(note)} The pool has no sections to tell apart.</p>\n</section>'
    names = found[np.argsort(-counts, kind="stable")][:SECTIONS_SHOWN].tolist()
    rows = [("the pool", shares(on_offer, names), "")]
    for arm in reversed(result.arms):
        section, when = pool.pairs["section"][arm.acquired["pair"]], arm.acquired["round"]
        rows.append((f"{arm.title}, all", shares(section[when > 0], names), "after"))
        if arm is result.arm:
            rounds = np.unique(when[when > 0]).tolist()
            rows += [
                (f"round {k}", shares(section[when == k], names), "" if k > rounds[0] else "after") for k in rounds
            ]
    key = _key([*names, *(["other"] if len(found) > len(names) else [])])
    return (
        f'{title}<p class="soft">Sections of the pairs that {escape(result.arm.title)} asked about, in percent, beside '
        f"the pool on offer; all seeds together. {escape(note)}</p>\n{key}\n"
        f'<table class="mix"><tbody>{"".join(_mix_row(*row) for row in rows)}</tbody></table>\n</section>'
    )


def _key(names: Sequence[str]) -> str:
    items = (
        f'<li><svg viewBox="0 0 12 12" aria-hidden="true"><rect class="p{i % 6}" width="12" height="12" rx="2"/></svg>'
        f"{escape(name or 'no section')}</li>"
        for i, name in enumerate(names)
    )
    return f'<ul class="key">{"".join(items)}</ul>'


def _mix_row(label: str, parts: Sequence[tuple[str, float]], style: str) -> str:
    return f'<tr class="{style}"><th scope="row">{escape(label)}</th><td>{share_bar(parts, label)}</td></tr>'


def pair_cards(result: Result, pool: PoolTables) -> str:
    """For the first seed, the pair valued most in each round, or in some, evenly spread, where there are many."""
    arm = result.arm
    mine = np.flatnonzero((arm.acquired["seed"] == arm.seeds[0]) & (arm.acquired["round"] > 0))
    if not len(mine):
        return ""
    rounds = np.unique(arm.acquired["round"][mine])
    spread = np.linspace(0, len(rounds) - 1, min(PAIRS_SHOWN, len(rounds))).round().astype(int)
    cards = []
    for k in rounds[spread].tolist():
        here = mine[arm.acquired["round"][mine] == k]
        value = np.nan_to_num(arm.acquired["value"][here], nan=-np.inf)
        cards.append(_card(arm, pool, int(here[np.argmax(value)]), k))
    drawn = arm.name == "random"
    what = "A pair of each round" if drawn else "The most informative pair of each round"
    which = "a pair drawn in each round" if drawn else f"the pair that {escape(arm.title)} valued most in each round"
    return (
        f'<section>\n<h2>{what}</h2>\n<p class="soft">Seed {arm.seeds[0]}: {which}, what the model believed '
        "before the label came (median and 90% range of its posterior), and the label it got.</p>\n"
        + "\n".join(cards)
        + "\n</section>"
    )


def _card(arm: Arm, pool: PoolTables, row: int, k: int) -> str:
    pair, label = int(arm.acquired["pair"][row]), float(arm.acquired["label"][row])
    response_a, response_b, prompt = (int(pool.pairs[name][pair]) for name in ("response_a", "response_b", "prompt"))
    facts = [f"round <b>{k}</b>", escape(str(pool.pairs["section"][pair])), _belief(arm, row, k)]
    facts.append("labelled <b>a tie</b>" if label == 0.5 else "<b>nobody could say</b>" if math.isnan(label) else "")
    responses = "".join(
        f"<div{' class=won' if won else ''}><h3>Response {name}{': labelled better' if won else ''}</h3>"
        f"{_text(pool.responses['text'][response])}</div>"
        for name, response, won in (("A", response_a, label > 0.5), ("B", response_b, label < 0.5))
    )
    header = "".join(f"<span>{fact}</span>" for fact in facts if fact)
    question = _text(pool.prompts["text"][prompt], "prompt")
    return f'<article class="pair"><header>{header}</header>{question}<div class="two">{responses}</div></article>'


def _belief(arm: Arm, row: int, k: int) -> str:
    """What the model of the round before thought of a pair, as a probability where its temperature is known."""
    mean, variance = float(arm.acquired["mean"][row]), float(arm.acquired["variance"][row])
    if math.isnan(mean) or math.isnan(variance):
        return "no belief was recorded"
    sd = math.sqrt(max(variance, 0.0))
    temperature, before = arm.values.get(("model", "all", "tau")), np.flatnonzero(arm.rounds == k - 1)
    if temperature is None or not len(before) or math.isnan(temperature[0, before[0]]):
        return f"score of A over B <b>{mean:.2f}</b>, standard deviation {sd:.2f}"
    tau = float(temperature[0, before[0]])
    middle, low, high = (percent(_sigmoid((mean + z * sd) / tau)) for z in (0.0, -Z90, Z90))
    return f"P(A better) <b>{middle}</b>" + (f", {low} to {high}" if sd > 0 else "")


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def _text(text: object, style: str = "") -> str:
    """A text of the pool, escaped; control characters are shown as such and long texts are cut, visibly."""
    clean = "".join(
        c if c in "\n\t" or c.isprintable() or ord(c) > 159 else "\N{REPLACEMENT CHARACTER}" for c in str(text).strip()
    )
    if len(clean) > TEXT_SHOWN:
        clean = clean[:TEXT_SHOWN].rstrip() + " \N{HORIZONTAL ELLIPSIS}"
    return f'<p class="{f"text {style}".strip()}" dir="auto">{escape(clean)}</p>'
