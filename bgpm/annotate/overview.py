"""The campaign as a page: labels, time and money so far, the curve, disagreement, and why the next pairs were chosen.

Made on the server without a script; every text that comes from data is escaped where it enters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, get_args

from bgpm.annotate.batches import OpenBatch, PoolTexts, beliefs
from bgpm.annotate.checking import words_by
from bgpm.annotate.desk import Desk, labels
from bgpm.annotate.rounds import Rounds
from bgpm.annotations.agreement import cohen, error_rates, fleiss
from bgpm.annotations.checks import Check, check_files
from bgpm.annotations.evidence import wilson
from bgpm.annotations.quality import ALPHA, QUICK, SIDE, Hits, Levels, Measures, measures, talks
from bgpm.annotations.store import Annotation, Flag, LabelStore, Strength, folder_by_pair, paid
from bgpm.data.tables import read_table
from bgpm.errors import BgpmError, DataError, StateError
from bgpm.evaluation import AuditSettings
from bgpm.evaluation.arm import Arm, read_arm
from bgpm.evaluation.certificate import certificate
from bgpm.evaluation.outlook import outlook
from bgpm.evaluation.plan import looks_of
from bgpm.evaluation.savings import band
from bgpm.reporting.certified import bound_words, stop_words
from bgpm.reporting.charts import Series, line_chart
from bgpm.reporting.expectations import kept_words, reach_cells, round_cells
from bgpm.sections import section
from bgpm.stage import ANNOTATIONS, FROZEN, HELDOUT_ANNOTATIONS, START, generator, round_dir, setting

Said = Mapping[str, Mapping[str, Annotation]]

SHOWN = 100  # pairs of the next batch that the page lists
EXCERPT = 160  # characters of a text that it shows
STYLES = ("arm", "baseline")  # classes of the style sheet
Z90 = 1.645


def overview(desk: Desk, params: Mapping[str, Any], rounds: Rounds | None = None) -> str:
    """The whole page.

    Args:
        rounds: What runs the rounds, where the server does.
    """
    try:
        said, batch, batches = desk.said(), desk.current(), desk.batches()
    except StateError as error:  # the rest of the page does not wait until somebody mends that line
        sections = [_section("Labels, time and money", _sentence(error)), _curve(params, [])]
    else:
        sections = [
            _people(batch, len(desk.open_pairs(batch)) if batch else 0, rounds.state() if rounds else None),
            _talks(desk, said),
            _remarks(said),
            _beside(params, batches, said),
            _certified(params, batches),
            _curve(params, batches),
            _agreement(said),
            _next(batch, desk.texts),
        ]
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><title>Campaign - bgpm</title>'
        '<link rel="icon" href="/icon.svg"><link rel="stylesheet" href="/page.css">'
    )
    links = '<nav aria-label="Pages"><a href="/">Label</a><a href="/campaign" aria-current="page">Campaign</a></nav>'
    top = f'<header class="top"><span class="mark">bgpm</span>{links}</header>'
    body = "\n".join(filter(None, sections))
    return (
        f'<!doctype html>\n<html lang="en">\n<head>{head}</head>\n<body>\n{top}\n<main class="campaign">\n'
        f"<h1>Campaign</h1>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _sentence(error: BgpmError) -> str:
    return f"<p>{escape(str(error))}</p>"


def _section(title: str, body: str) -> str:
    return f"<section>\n<h2>{title}</h2>\n{body}\n</section>"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; cells are plain text, the first of a row names it."""
    top = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    body = "\n".join(
        f'<tr><th scope="row">{escape(row[0])}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in row[1:])}</tr>'
        for row in rows
    )
    table = f"<table><thead><tr>{top}</tr></thead><tbody>\n{body}\n</tbody></table>"
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(head[0])}">{table}</div>'


def _people(batch: OpenBatch | None, waiting: int, run: Mapping[str, Any] | None) -> str:
    """Who labelled how much, in what time, for how much.

    Args:
        batch: What is asked now.
        waiting: Pairs of it that wait.
        run: Where the round stands that the server runs; None where it runs none.
    """
    title, folders = "Labels, time and money", (ANNOTATIONS, HELDOUT_ANNOTATIONS)
    try:
        by_pair = [some for folder in folders for some in folder_by_pair(folder, "human").values()]
        # Time and money of every answer there ever was: one that was taken back or replaced was worked for too.
        given = paid(folders, "human")
        checks = [c for path in check_files(ANNOTATIONS) for c in LabelStore(path, Check).history(retracted=True)]
    except DataError as error:
        return _section(title, _sentence(error))
    counting = [annotation for some in by_pair for annotation in some.values()]
    worked = [*given, *checks]
    by_name: dict[str, tuple[list[Annotation], list[Annotation]]] = {a.annotator: ([], []) for a in worked}
    for kept, made in enumerate((worked, counting)):
        for annotation in made:
            by_name[annotation.annotator][kept].append(annotation)
    if run and not waiting:
        state = _run_words(run)
    elif batch is None:
        state = "Nothing waits for a label. <code>dvc repro</code> goes on with what is there, or is doing so now."
    elif waiting:
        state = f"{escape(batch.title)}: <b>{waiting}</b> of {len(batch.pair_ids)} pairs wait for a label."
    else:
        state = f"{escape(batch.title)}: every pair is labelled. Run <code>dvc repro</code>: the loop goes on."
    if not by_name:
        return _section(title, f"<p>{state}</p><p>Nobody has labelled yet.</p>")
    priced = any(annotation.cost for annotation in worked)
    rows = [_row(name, kept, every, priced=priced) for name, (every, kept) in sorted(by_name.items())]
    rows.append(_row("everyone", counting, worked, priced=priced))
    head = ["person", "labels", "of them ties", "skipped", "time", "time per annotation"]
    head += ["money"] if priced else []
    note = "" if priced else '<p class="soft">No money: set a price in <code>oracles.human</code> of params.yaml.</p>'
    count = len({annotation.pair_id for annotation in counting})
    pairs = f"<p><b>{count:,}</b> pairs were labelled by <b>{len(by_name)}</b> people.</p>"
    if len(given) > len(counting):
        note += (
            f'<p class="soft">Time{" and money" if priced else ""} of {len(given) - len(counting):,} annotations that '
            "were taken back or replaced count too.</p>"
        )
    if checks:
        note += (
            f'<p class="soft">Time{" and money" if priced else ""} of {len(checks):,} annotations that check their '
            "annotator count too: of gold pairs, of pairs shown again, and of texts that were changed. They are no "
            "labels.</p>"
        )
    return _section(title, f"<p>{state}</p>{pairs}{_table(head, rows)}{note}")


def _run_words(run: Mapping[str, Any]) -> str:
    if run["phase"] == "running":
        step = f", step {run['done'] + 1} of {run['total']}" if run["total"] else ""
        return f"The next round runs{step}: {escape(run['does'])}."
    if run["phase"] == "failed":
        return f"<b>The round failed:</b> {escape(run['error'])}. The labelling page has a button to try again."
    return {
        "idle": "Every pair is annotated. The next round begins in a moment.",
        "busy": "Another <code>dvc</code> works in this folder. The round goes on when it has ended.",
        "finished": "The last round is through. More <code>rounds</code> in params.yaml go on.",
    }[run["phase"]]


def _talks(desk: Desk, said: Said) -> str:
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
        return ""
    named = talks(found, levels)
    items = "".join(f"<li><b>{escape(name)}</b>: {escape(reason)}</li>" for name, reason in named.items())
    lead = f"<ul>{items}</ul>" if named else "<p>Nobody needs a talk by what is known so far.</p>"
    rule = (
        f'<p class="soft">A careful annotator gets at least {100 * levels.gold:.0f}% of gold pairs right, labels at '
        f"least {100 * levels.repeats:.0f}% of pairs alike when they are shown again, chooses neither side over "
        f"{100 * SIDE:.0f}% of the time and is faster than anybody reads for at most {100 * QUICK:.0f}% of pairs. "
        "Whoever very likely does not is named. The chance that a campaign of careful annotators ever names anybody is "
        f"at most {100 * ALPHA:.0f}%. Nothing is done to the labels.</p>"
    )
    unread = desk.checking.trouble
    trouble = f"<p>{escape(unread)}. The gold pairs of before count.</p>" if unread else ""
    checked = ["annotator", "gold pairs right", "alike when shown again", "kappa", "response 1 chosen"]
    habits = ["annotator's habits", "ties", "skipped", "median time", "too fast to read"]
    tables = "\n".join(
        _table(head, [row(name, one) for name, one in sorted(found.items())])
        for head, row in ((checked, _checked_row), (habits, _habits_row))
    )
    soft = '<p class="soft">In brackets: counts, and 95% intervals (Wilson). Kappa is Cohen\'s, of both times.</p>'
    return _section("Annotators to talk to", "\n".join([lead, trouble, tables, soft, rule]))


def _checked_row(name: str, one: Measures) -> list[str]:
    right, same, left = (_part(hits, interval=True) for hits in (one.right, one.same, one.left))
    return [name, right, same, "" if math.isnan(one.kappa) else f"{one.kappa:.2f}", left]


def _habits_row(name: str, one: Measures) -> list[str]:
    ties, skips = (_part(Hits(count, one.annotations)) for count in (one.ties, one.skips))
    return [name, ties, skips, "" if math.isnan(one.seconds) else f"{one.seconds:.1f} s", _part(one.quick)]


def _part(hits: Hits, *, interval: bool = False) -> str:
    """A share with its counts; empty where there is nothing to count."""
    if not hits.of:
        return ""
    low, high = wilson(hits.count, hits.of)
    within = f", {100 * low:.0f} to {100 * high:.0f}%" if interval else ""
    return f"{100 * hits.count / hits.of:.0f}% ({hits.count:,} of {hits.of:,}{within})"


def _remarks(said: Said) -> str:
    """How often each annotator gave a strength, a flag or a note; nothing where nobody did."""
    by_name: dict[str, list[Annotation]] = {}
    for some in said.values():
        for annotation in some.values():
            by_name.setdefault(annotation.annotator, []).append(annotation)
    by_name = dict(sorted(by_name.items())) | {"everyone": [a for some in said.values() for a in some.values()]}
    columns: dict[str, Callable[[Annotation], bool]] = {
        **{f"{word} better": lambda a, word=word: a.strength == word for word in reversed(get_args(Strength))},
        **{flag.replace("_", " "): lambda a, flag=flag: flag in a.flags for flag in get_args(Flag)},
        "notes": lambda a: bool(a.note),
    }
    used = {name: has for name, has in columns.items() if any(map(has, by_name["everyone"]))}
    if not used:
        return ""
    rows = [[name, *(f"{sum(map(has, some)):,}" for has in used.values())] for name, some in by_name.items()]
    return _section("Strengths, flags and notes", _table(["annotator", *used], rows))


def _beside(params: Mapping[str, Any], batches: Sequence[OpenBatch], said: Said) -> str:
    """Annotations that no label rests on: of pairs that the loop has not acquired, and those that came too late."""
    acquired, used = set[str](), set[str]()
    try:
        for folders in _rounds_so_far(params, batches).values():
            for folder in folders:
                used |= {a.id for a in LabelStore(folder / FROZEN).history()}
            known = [folder for folder in folders if (folder / "labels.parquet").exists()]
            for name in ("labels", "audits") if known else ():
                acquired |= set(read_table(known[-1] / f"{name}.parquet", ["pair_id"])["pair_id"])
    except (StateError, DataError) as error:
        return _section("Annotations without a label", _sentence(error))
    asked = {pair for batch in batches for pair in batch.pair_ids}
    early = sum(pair not in acquired and pair not in asked for pair in said)
    late = sum(a.id not in used for pair, some in said.items() if pair in acquired for a in some.values())
    words = []
    if early:
        words.append(
            f"<p><b>{early:,}</b> annotated pairs are not acquired (the reserve). They train nothing; those that a "
            "later round acquires have their labels already, the others stay annotations.</p>"
        )
    if late and used:
        words.append(
            f"<p><b>{late:,}</b> annotations came after their round had its labels. They count for agreement and "
            "change no round.</p>"
        )
    return _section("Annotations without a label", "\n".join(words)) if words else ""


def _row(name: str, counting: Sequence[Annotation], given: Sequence[Annotation], *, priced: bool) -> list[str]:
    labelled = [a for a in counting if a.label is not None]
    timed = [a.seconds for a in given if a.seconds is not None]
    money = [f"{sum(a.cost for a in given):,.2f}"] if priced else []
    return [
        name,
        f"{len(labelled):,}",
        f"{sum(a.label == 0.5 for a in labelled):,}",
        f"{len(counting) - len(labelled):,}",
        _duration(sum(timed)) if timed else "not measured",
        f"{sum(timed) / len(timed):.1f} s" if timed else "",
        *money,
    ]


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 60 else f"{minutes} min" if minutes < 60 else f"{seconds / 3600:.1f} h"


def _curve(params: Mapping[str, Any], batches: Sequence[OpenBatch]) -> str:
    """Held-out accuracy of what was trained so far; what later rounds hold is left over from another run."""
    title = "Held-out accuracy so far"
    try:
        arms = list(_measured(params, batches))
    except StateError as error:
        return _section(title, _sentence(error))
    if not arms:
        return _section(title, "<p>No model yet: the first is trained on the seed set.</p>")
    if not any(arm.measured for arm in arms):
        if params["pool"]["heldout"] == 0:
            return _section(title, "<p>Not measured: no prompt is held out (<code>pool.heldout: 0</code>).</p>")
        return _section(
            title,
            "<p>Not measured: no held-out pair has a label. <code>bgpm annotate --heldout</code> asks for some.</p>",
        )
    series, words = [], []
    for arm, style in zip(arms, STYLES, strict=False):
        curve = arm.curve("heldout", "all", "accuracy")
        if curve is None:
            continue
        mean, half = band(100 * curve)
        series.append(Series(arm.name, style, arm.labels, mean, half))
        words.append(f"{escape(arm.name)}: {mean[-1]:.1f}% with {arm.labels[-1]:,} labels")
    prompts, pairs = len(arms[0].trials.pairs), int(arms[0].trials.pairs.sum())
    basis = f"on {pairs:,} labelled pairs of {prompts:,} prompts that no model saw"
    chart = ""
    if len(arms[0].labels) > 1:
        chart = line_chart("Held-out accuracy, %, against labels acquired", series, width=760, height=300)
    figure = f"<figure>{chart}<figcaption>{'; '.join(words)}, {basis}.</figcaption></figure>"
    return _section(title, "\n".join([figure, *(_forecast(arm) for arm in arms)]))


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


def _certified(params: Mapping[str, Any], batches: Sequence[OpenBatch]) -> str:
    """The lower bound of right labels so far, and whether to stop; nothing where the goal is not the pool."""
    if setting(params, "goal") != "pool":
        return ""
    title = "Right labels of the pool, certified"
    audit = section(params, "audit", AuditSettings)
    looks = looks_of(audit, len(setting(params, "rounds")), paid=True)
    try:
        found = [(arm, certificate(arm, audit, looks)) for arm in _measured(params, batches)]
    except StateError as error:
        return _section(title, _sentence(error))
    known = [(arm, c) for arm, c in found if c is not None]
    if not known:
        return _section(title, "<p>No bound yet: the first follows once the seed set is labelled.</p>")
    parts = []
    for arm, c in known:
        stop = escape(stop_words(arm, c))
        parts.append(f"<p>{escape(bound_words(arm, c))}</p><p><b>{stop}</b></p>")
        rows = [
            [f"{arm.labels[t]:,}", f"{c.audited[:, t].mean():,.0f}", f"{c.wrong[:, t].mean():,.0f}",
             f"{100 * c.bound[:, t].mean():.1f}%"]
            for t in range(len(arm.labels))
        ]  # fmt: skip
        parts.append(_table([f"{arm.name}: labels", "audits", "of them wrong", "right at least"], rows))
    return _section(title, "\n".join(parts))


def _forecast(arm: Arm) -> str:
    """What the next rounds of an arm may bring, and the labels left to more."""
    curve = arm.curve("heldout", "all", "accuracy")
    if curve is None:
        return ""
    found = outlook(arm.labels, curve, generator("campaign", arm.name, len(arm.labels)))
    if "missing" in found:
        return f'<p class="soft">{escape(arm.name)}: {escape(found["missing"])}.</p>'
    rounds = [[f"{r['labels']:,} labels", *round_cells(r)] for r in found["rounds"]]
    reach = [[f"{100 * r['target']:.1f}%", *reach_cells(r)] for r in found["reach"]]
    return "\n".join(
        [
            _table([f"{arm.name}: the next rounds", "expected accuracy", "95% interval"], rounds),
            _table([f"{arm.name}: to reach", "labels left", "95% interval", "chance"], reach),
            f'<p class="soft">If the next rounds are like the last ones; {escape(kept_words(found))}</p>',
        ]
    )


def _agreement(said: Said) -> str:
    title = "Agreement and noise"
    annotations = {pair: labels(some) for pair, some in said.items()}
    everyone = fleiss(annotations)
    if not everyone.pairs:
        return _section(
            title,
            "<p>No pair was labelled by two people yet. Set <code>annotators_per_pair: 2</code> in "
            "<code>oracles.human</code>, or let somebody give second opinions on the labelling page.</p>",
        )
    names = sorted({name for some in annotations.values() for name in some})
    pairwise = []
    for n, one in enumerate(names):
        for other in names[n + 1 :]:
            found = cohen(annotations, one, other)
            if found.pairs:
                pairwise.append(
                    [f"{one} and {other}", f"{found.pairs:,}", f"{100 * found.raw:.0f}%", _kappa(found.kappa)]
                )
    rates = [[name, f"{100 * rate:.0f}%", f"{n:,}"] for name, (rate, n) in error_rates(annotations).items()]
    lead = (
        f"<p>Two annotations of one pair are the same in <b>{100 * everyone.raw:.0f}%</b> of cases, over "
        f"<b>{everyone.pairs:,}</b> pairs that two or more people labelled; Fleiss' kappa "
        f"<b>{_kappa(everyone.kappa)}</b> (1 is perfect agreement, 0 is what chance gives).</p>"
    )
    noise = (
        '<p class="soft">Error rate: how often a person names the response that is not the better one, if every pair '
        "has one and errors fall evenly and independently (ties left out; maximum likelihood). Two people alone get "
        "equal rates, since only their sum can be told. Differences of taste count as errors.</p>"
    )
    tables = _table(["two people", "pairs", "the same", "Cohen's kappa"], pairwise)
    if rates:
        tables += _table(["error rate", "estimate", "pairs n"], rates) + noise
    return _section(title, lead + tables)


def _kappa(value: float) -> str:
    return "not defined" if math.isnan(value) else f"{value:.2f}"


def _next(batch: OpenBatch | None, texts: PoolTexts) -> str:
    title = "The batch that waits, and why"
    if batch is None:
        return _section(title, "<p>None waits.</p>")
    if batch.path is None:
        return _section(
            title,
            f"<p>{len(batch.pair_ids):,} held-out pairs without a recorded label, in random order: whatever was "
            "labelled when people stop is a uniform sample. They measure the model and never train it.</p>",
        )
    rows, asked = beliefs(batch.path), set(batch.pair_ids)
    rows = [row for row in rows if row["pair_id"] in asked]
    audits = len(asked) - len({row["pair_id"] for row in rows})
    hidden = (
        f'<p class="soft">{audits:,} audits are asked too. They are not listed, so that nobody can tell them.</p>\n'
        if audits
        else ""
    )
    items = "\n".join(_reason(row, batch.path, texts) for row in rows[:SHOWN])
    more = f"<p>And {len(rows) - SHOWN:,} more.</p>" if len(rows) > SHOWN else ""
    return _section(
        title,
        '<p class="soft">A is the pool\'s first response, not the one on the left. Who labels this batch should read '
        "it afterwards: a model's guess must not become a person's.</p>\n"
        f"{hidden}"
        f'<details><summary>{len(rows):,} pairs of {escape(batch.title)}</summary>\n<ol class="reasons">\n{items}\n'
        f"</ol>{more}</details>",
    )


def _reason(row: Mapping[str, Any], path: Path, texts: PoolTexts) -> str:
    asked = texts[row["pair_id"]]
    responses = "".join(
        f"<dt>{name}</dt><dd dir=auto>{escape(_excerpt(text))}</dd>"
        for name, text in (("A", asked.response_a), ("B", asked.response_b))
    )
    return (
        f'<li><p class="prompt" dir="auto">{escape(_excerpt(asked.turns[-1][1]))}</p><dl>{responses}</dl>'
        f"<p>{escape(why(row, row['acquisition'] or path.parent.parent.name))}</p></li>"
    )


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
