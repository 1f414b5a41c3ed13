"""The campaign as a page: labels, time and money so far, the curve, disagreement, and why the next pairs were chosen.

What it says is computed here; `bgpm.annotate.templates` lays it out, on the server and without a script.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import wraps
from itertools import combinations
from pathlib import Path
from typing import Any, ParamSpec, get_args

from bgpm.annotate.batches import OpenBatch, PoolTexts, beliefs
from bgpm.annotate.checking import words_by
from bgpm.annotate.desk import Desk, labels
from bgpm.annotate.rounds import Rounds
from bgpm.annotate.templates import render
from bgpm.annotations.agreement import LabelsByPair, cohen, error_rates, fleiss
from bgpm.annotations.checks import Check, check_files
from bgpm.annotations.evidence import wilson
from bgpm.annotations.quality import ALPHA, QUICK, SIDE, Hits, Levels, Measures, measures, talks
from bgpm.annotations.store import Annotation, Flag, LabelStore, Strength, folder_by_pair, paid
from bgpm.data.tables import pool_size, read_table
from bgpm.errors import DataError, StateError
from bgpm.evaluation import AuditSettings
from bgpm.evaluation.arm import Arm, read_arm
from bgpm.evaluation.certificate import Certificate, certificate
from bgpm.evaluation.outlook import outlook
from bgpm.evaluation.plan import looks_of
from bgpm.evaluation.savings import band
from bgpm.reporting.certified import bound_words, stop_words
from bgpm.reporting.charts import Series, line_chart
from bgpm.reporting.expectations import kept_words, reach_cells, round_cells
from bgpm.reporting.shown import TableRow, styled
from bgpm.reporting.words import count, percent
from bgpm.sections import section
from bgpm.stage import ANNOTATIONS, FROZEN, HELDOUT_ANNOTATIONS, POOL, START, generator, round_dir, setting

Said = Mapping[str, Mapping[str, Annotation]]
# A section of the page: its parts by name, or of each arm; one sentence in their place; None where it is left out.
Section = Mapping[str, Any] | Sequence[Mapping[str, Any]] | str | None
P = ParamSpec("P")

SECTIONS = ("people", "talks", "remarks", "beside", "certified", "curve", "agreement", "batch")
SHOWN = 100  # pairs of the next batch that the page lists
EXCERPT = 160  # characters of a text that it shows
Z90 = 1.645


def overview(desk: Desk, params: Mapping[str, Any], rounds: Rounds | None = None) -> str:
    """The whole page.

    Args:
        rounds: What runs the rounds, where the server does.
    """
    sections: dict[str, Section] = dict.fromkeys(SECTIONS)
    try:
        said, batch, batches = desk.said(), desk.current(), desk.batches()
    except StateError as error:  # the rest of the page does not wait until somebody mends that line
        sections |= {"people": str(error), "curve": _curve(params, [])}
    else:
        waiting = len(desk.open_pairs(batch)) if batch else 0
        sections |= {
            "people": _people(batch, waiting, rounds.state() if rounds else None),
            "talks": _talks(desk, said),
            "remarks": _remarks(said),
            "beside": _beside(params, batches, said),
            "certified": _certified(params, batches),
            "curve": _curve(params, batches),
            "agreement": _agreement({pair: labels(some) for pair, some in said.items()}),
            "batch": _batch(batch, desk.texts),
        }
    return render(**sections)


def _readable(make: Callable[P, Section]) -> Callable[P, Section]:
    """A section that says so where a file of it cannot be read: the others do not wait until somebody mends that."""

    @wraps(make)
    def made(*args: P.args, **kwargs: P.kwargs) -> Section:
        try:
            return make(*args, **kwargs)
        except (StateError, DataError) as error:
            return str(error)

    return made


@_readable
def _people(batch: OpenBatch | None, waiting: int, run: Mapping[str, Any] | None) -> Section:
    """Who labelled how much, in what time, for how much.

    Args:
        batch: What is asked now.
        waiting: Pairs of it that wait.
        run: Where the round stands that the server runs; None where it runs none.
    """
    folders = (ANNOTATIONS, HELDOUT_ANNOTATIONS)
    by_pair = [some for folder in folders for some in folder_by_pair(folder, "human").values()]
    # Time and money of every answer there ever was: one that was taken back or replaced was worked for too.
    given = paid(folders, "human")
    checks = [c for path in check_files(ANNOTATIONS) for c in LabelStore(path, Check).history(retracted=True)]
    counting, worked = [annotation for some in by_pair for annotation in some.values()], [*given, *checks]
    priced = any(annotation.cost for annotation in worked)
    kept, every = _by_annotator(counting), _by_annotator(worked)
    rows = [_row(name, kept.get(name, []), some, priced=priced) for name, some in every.items()]
    return {
        "standing": _standing(batch, waiting, run),
        "rows": [*rows, _row("everyone", counting, worked, priced=priced)] if rows else [],
        "priced": priced,
        "pairs": count(len({annotation.pair_id for annotation in counting})),
        "people": len(rows),
        "replaced": _some(len(given) - len(counting)),
        "checks": _some(len(checks)),
    }


def _standing(batch: OpenBatch | None, waiting: int, run: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """What the campaign waits for: its phase is the run's, or one of nothing, waits and labelled."""
    if run and not waiting:
        return run
    if batch is None:
        return {"phase": "nothing"}
    pairs = {"title": batch.title, "waiting": waiting, "pairs": len(batch.pair_ids)}
    return {"phase": "waits" if waiting else "labelled", **pairs}


def _row(name: str, counting: Sequence[Annotation], given: Sequence[Annotation], *, priced: bool) -> TableRow:
    labelled = [a for a in counting if a.label is not None]
    timed = [a.seconds for a in given if a.seconds is not None]
    money = [f"{sum(a.cost for a in given):,.2f}"] if priced else []
    return TableRow(
        [
            name,
            count(len(labelled)),
            count(sum(a.label == 0.5 for a in labelled)),
            count(len(counting) - len(labelled)),
            _duration(sum(timed)) if timed else "not measured",
            f"{sum(timed) / len(timed):.1f} s" if timed else "",
            *money,
        ]
    )


def _by_annotator(annotations: Iterable[Annotation]) -> dict[str, list[Annotation]]:
    """Annotations by who gave them, by name."""
    found: dict[str, list[Annotation]] = {}
    for annotation in annotations:
        found.setdefault(annotation.annotator, []).append(annotation)
    return dict(sorted(found.items()))


def _some(number: int) -> str | None:
    """A number as text; None where there is none to speak of."""
    return count(number) if number > 0 else None


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 60 else f"{minutes} min" if minutes < 60 else f"{seconds / 3600:.1f} h"


def _talks(desk: Desk, said: Said) -> Section:
    """What each annotator's annotations and checks say of them, and who needs a talk; nothing before the first."""
    gold, human = desk.checking.gold, desk.settings
    levels = Levels(human.gold.level, human.repeats.level)
    found = measures(
        [a for some in said.values() for a in some.values()],
        desk.checking.checks(),
        {name: pair.label for name, pair in gold.items()},
        words_by(gold, desk.texts),
    )
    if not found:
        return None
    careful = {"gold": levels.gold, "repeats": levels.repeats, "side": SIDE, "quick": QUICK, "alpha": ALPHA}
    return {
        "named": list(talks(found, levels).items()),
        "trouble": desk.checking.trouble,
        "checked": [TableRow([name, *_checked(one)]) for name, one in sorted(found.items())],
        "habits": [TableRow([name, *_habits(one)]) for name, one in sorted(found.items())],
        "careful": {name: percent(share) for name, share in careful.items()},
    }


def _checked(one: Measures) -> list[str]:
    right, same, left = (_part(hits, interval=True) for hits in (one.right, one.same, one.left))
    return [right, same, "" if math.isnan(one.kappa) else f"{one.kappa:.2f}", left]


def _habits(one: Measures) -> list[str]:
    ties, skips = (_part(Hits(number, one.annotations)) for number in (one.ties, one.skips))
    return [ties, skips, "" if math.isnan(one.seconds) else f"{one.seconds:.1f} s", _part(one.quick)]


def _part(hits: Hits, *, interval: bool = False) -> str:
    """A share with its counts; empty where there is nothing to count."""
    if not hits.of:
        return ""
    low, high = wilson(hits.count, hits.of)
    within = f", {100 * low:.0f} to {percent(high)}" if interval else ""
    return f"{percent(hits.count / hits.of)} ({count(hits.count)} of {count(hits.of)}{within})"


def _remarks(said: Said) -> Section:
    """How often each annotator gave a strength, a flag or a note; nothing where nobody did."""
    columns: dict[str, Callable[[Annotation], bool]] = {
        **{f"{word} better": lambda a, word=word: a.strength == word for word in reversed(get_args(Strength))},
        **{flag.replace("_", " "): lambda a, flag=flag: flag in a.flags for flag in get_args(Flag)},
        "notes": lambda a: bool(a.note),
    }
    everyone = [a for some in said.values() for a in some.values()]
    used = {name: has for name, has in columns.items() if any(map(has, everyone))}
    if not used:
        return None
    by_name = _by_annotator(everyone) | {"everyone": everyone}
    rows = [TableRow([name, *(count(sum(map(has, some))) for has in used.values())]) for name, some in by_name.items()]
    return {"columns": list(used), "rows": rows}


@_readable
def _beside(params: Mapping[str, Any], batches: Sequence[OpenBatch], said: Said) -> Section:
    """Annotations that no label rests on: of pairs that the loop has not acquired, and those that came too late."""
    acquired, used = set[str](), set[str]()
    for folders in _rounds_so_far(params, batches).values():
        for folder in folders:
            used |= {a.id for a in LabelStore(folder / FROZEN).history()}
        known = [folder for folder in folders if (folder / "labels.parquet").exists()]
        for name in ("labels", "audits") if known else ():
            acquired |= set(read_table(known[-1] / f"{name}.parquet", ["pair_id"])["pair_id"])
    asked = {pair for batch in batches for pair in batch.pair_ids}
    early = sum(pair not in acquired and pair not in asked for pair in said)
    late = sum(a.id not in used for pair, some in said.items() if pair in acquired for a in some.values())
    shown = {"early": _some(early), "late": _some(late) if used else None}
    return shown if any(shown.values()) else None


@_readable
def _curve(params: Mapping[str, Any], batches: Sequence[OpenBatch]) -> Section:
    """Held-out accuracy of what was trained so far; what later rounds hold is left over from another run."""
    arms = list(_measured(params, batches))
    if not arms:
        return "No model yet: the first is trained on the seed set."
    if not any(arm.measured for arm in arms):
        return {"caption": None, "heldout": params["pool"]["heldout"] != 0}
    series, words = [], []
    for arm, style in styled(arms):
        curve = arm.curve("heldout", "all", "accuracy")
        if curve is None:
            continue
        mean, half = band(100 * curve)
        series.append(Series(arm.name, style, arm.labels, mean, half))
        words.append(f"{arm.name}: {mean[-1]:.1f}% with {count(arm.labels[-1])} labels")
    pairs = arms[0].trials.pairs
    basis = f"on {count(pairs.sum())} labelled pairs of {count(len(pairs))} prompts that no model saw"
    chart = None
    if len(arms[0].labels) > 1:
        chart = line_chart("Held-out accuracy, %, against labels acquired", series, width=760, height=300)
    pool = pool_size(POOL)
    forecasts = [found for arm in arms if (found := _forecast(arm, pool))]
    return {"chart": chart, "caption": f"{'; '.join(words)}, {basis}.", "forecasts": forecasts}


def _forecast(arm: Arm, pool: int) -> dict[str, Any] | None:
    """What the next rounds of an arm may bring, and the labels left to more."""
    curve = arm.curve("heldout", "all", "accuracy")
    if curve is None:
        return None
    found = outlook(arm.labels, curve, pool, generator("campaign", arm.name, len(arm.labels)))
    if "missing" in found:
        return {"name": arm.name, "missing": found["missing"]}
    return {
        "name": arm.name,
        "rounds": [TableRow([f"{count(r['labels'])} labels", *round_cells(r)]) for r in found["rounds"]],
        "reach": [TableRow([percent(r["target"], 1), *reach_cells(r)]) for r in found["reach"]],
        "kept": kept_words(found),
    }


def _measured(params: Mapping[str, Any], batches: Sequence[OpenBatch]) -> Iterator[Arm]:
    """Arms up to the last round that this run has evaluated; StateError where a file of one is damaged."""
    for name, folders in _rounds_so_far(params, batches).items():
        measured = [f for f in folders if (f / "evaluation/curve.csv").exists()]
        if folders[-1] != START and measured:
            yield read_arm(name, measured[-1])


def _rounds_so_far(params: Mapping[str, Any], batches: Sequence[OpenBatch]) -> dict[str, list[Path]]:
    """Folders of each arm up to the batch that waits: the seed set's, then a round's each."""
    waits = {batch.path.parent for batch in batches if batch.path}
    found = {}
    for name in dict.fromkeys([setting(params, "acquisition"), setting(params, "baseline")]):
        rounds = [round_dir(name, entry["next"]) for entry in setting(params, "rounds")]
        folders = [START, round_dir(name, 0), *rounds]
        mine = waits & set(folders)
        found[name] = folders[: folders.index(mine.pop()) + 1] if mine else folders
    return found


@_readable
def _certified(params: Mapping[str, Any], batches: Sequence[OpenBatch]) -> Section:
    """The lower bound of right labels so far, and whether to stop; nothing where the goal is not the pool."""
    if setting(params, "goal") != "pool":
        return None
    audit = section(params, "audit", AuditSettings)
    looks = looks_of(audit, len(setting(params, "rounds")), paid=True)
    found = [_bounds(arm, c) for arm in _measured(params, batches) if (c := certificate(arm, audit, looks))]
    return found or "No bound yet: the first follows once the seed set is labelled."


def _bounds(arm: Arm, c: Certificate) -> dict[str, Any]:
    """What audits say of an arm, in words and round by round."""
    means = zip(arm.labels, c.audited.mean(0), c.wrong.mean(0), c.bound.mean(0), strict=True)
    return {
        "name": arm.name,
        "bound": bound_words(arm, c),
        "stop": stop_words(arm, c),
        "rows": [
            TableRow([count(given), count(audited), count(wrong), percent(bound, 1)])
            for given, audited, wrong, bound in means
        ],
    }


def _agreement(annotations: LabelsByPair) -> Section:
    """How often annotators agree, all together and two by two, and the error rate of each."""
    everyone = fleiss(annotations)
    if not everyone.pairs:
        return {"pairs": None}
    names = sorted({name for some in annotations.values() for name in some})
    by_two = {(one, other): cohen(annotations, one, other) for one, other in combinations(names, 2)}
    return {
        "pairs": count(everyone.pairs),
        "same": percent(everyone.raw),
        "kappa": _kappa(everyone.kappa),
        "by_two": [
            TableRow([f"{one} and {other}", count(found.pairs), percent(found.raw), _kappa(found.kappa)])
            for (one, other), found in by_two.items()
            if found.pairs
        ],
        "rates": [TableRow([name, percent(rate), count(n)]) for name, (rate, n) in error_rates(annotations).items()],
    }


def _kappa(value: float) -> str:
    return "not defined" if math.isnan(value) else f"{value:.2f}"


@_readable
def _batch(batch: OpenBatch | None, texts: PoolTexts) -> Section:
    """The pairs that are asked, with what the model thinks of them; audits among them are counted alone."""
    if batch is None:
        return "None waits."
    if batch.path is None:
        return {"heldout": count(len(batch.pair_ids))}
    asked = set(batch.pair_ids)
    rows = [row for row in beliefs(batch.path) if row["pair_id"] in asked]
    arm = batch.path.parent.parent.name
    return {
        "heldout": None,
        "audits": _some(len(asked) - len({row["pair_id"] for row in rows})),
        "title": batch.title,
        "pairs": count(len(rows)),
        "shown": [_chosen(row, arm, texts) for row in rows[:SHOWN]],
        "more": _some(len(rows[SHOWN:])),
    }


def _chosen(row: Mapping[str, Any], arm: str, texts: PoolTexts) -> dict[str, Any]:
    """A pair of the batch with the beginnings of its texts, and why it was chosen."""
    asked = texts[row["pair_id"]]
    return {
        "prompt": _excerpt(asked.turns[-1][1]),
        "responses": [("A", _excerpt(asked.response_a)), ("B", _excerpt(asked.response_b))],
        "why": why(row, row["acquisition"] or arm),
    }


def why(row: Mapping[str, Any], arm: str) -> str:
    """Why a pair was chosen and what the model thinks of it, in words.

    Args:
        row: Of `beliefs`.
        arm: The acquisition function.
    """
    mean, variance, tau = row["mean"], row["variance"], row["tau"]
    if math.isnan(mean) or math.isnan(tau):
        return "Part of the seed set: chosen before there was a model."
    sd = math.sqrt(variance) / tau
    middle, low, high = (_percent(mean / tau + z * sd) for z in (0.0, -Z90, Z90))
    guess = f"The model gives A {middle}"
    if sd > 0:
        seen = (
            "little like it" if row["wide"] >= 0.75 else "much like it" if row["wide"] <= 0.25 else "some pairs like it"
        )
        guess += (
            f" (90% range {low} to {high}); it has seen {seen}: sd of the score {sd:.1f}, larger than for "
            f"{_share(row['wide'])} of the open pairs"
        )
    if row["uniform"]:
        return f"Drawn at random. {guess}."
    return (
        f"{guess}. {arm} values a label at {row['value']:.3g}, more than for {_share(row['rank'])} of the open pairs."
    )


def _percent(logit: float) -> str:
    p = 1 / (1 + math.exp(-logit)) if logit >= 0 else math.exp(logit) / (1 + math.exp(logit))
    return f"{100 * p:.0f}%"


def _share(share: float) -> str:
    """A share in percent, rounded down: nothing is more than 100% of the others."""
    return f"{math.floor(100 * share)}%"


def _excerpt(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= EXCERPT else flat[:EXCERPT].rstrip() + " \N{HORIZONTAL ELLIPSIS}"
