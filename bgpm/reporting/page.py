"""The report page: one self-contained HTML file without scripts, the result first.

Every text that comes from data is escaped where it enters; the Content-Security-Policy allows this page's own
style sheet, by its hash, and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from bgpm.evaluation.result import Result, verdict
from bgpm.evaluation.savings import Comparison, band
from bgpm.reporting.acquired import PoolTables, pair_cards, section_mix
from bgpm.reporting.certainty import certainty
from bgpm.reporting.charts import STYLES, Crossing, Series, line_chart
from bgpm.reporting.costs import Cost
from bgpm.reporting.drawn_batches import estimates_section
from bgpm.reporting.expectations import expectations
from bgpm.reporting.html import block, row, table
from bgpm.reporting.pool import pool_number, pool_section, pool_sentence
from bgpm.reporting.style import CSS
from bgpm.reporting.summary import benchmark_notes, interval_words
from bgpm.reporting.words import MINUS, NOT_MEASURED, caveats, count, ends, percent, points, sentence, share_words

SHIPPED = Path("data/corpus")
FINDINGS = {"blocks_active": "active blocks", "prior_precision": "prior precision", "tau": "temperature (tau)"}
RULES = {"first": "the first response", "length": "length alone", "words": "which words occur"}


def page(
    result: Result,
    pool: PoolTables,
    *,
    summary: Mapping[str, Any],
    baselines: Mapping[str, Any],
    params: Mapping[str, Any],
    params_text: str,
    outlook: Mapping[str, Any],
    benchmark: Mapping[str, Any],
    rule: str,
) -> str:
    """The whole page.

    Args:
        result: What was found.
        pool: Texts of the pairs that were acquired.
        summary: What the prepare stage counted; empty where it left nothing.
        baselines: What the baselines stage wrote; empty where it did not run.
        params: params.yaml, for what was run and where texts come from.
        params_text: params.yaml as given.
        outlook: What to expect from the next rounds, by arm.
        benchmark: What the prepare stage counted of the benchmark; empty where it left nothing.
        rule: How the benchmark is scored, in words.
    """
    sections = [
        _answer(result, params),
        pool_section(result.arms, result.pool) if result.goal == "pool" else "",
        _accuracy(result),
        _targets(result),
        pool_section(result.arms, result.pool) if result.goal != "pool" else "",
        expectations(result, outlook),
        _curves(result, benchmark, rule),
        certainty(result),
        estimates_section(result.arms),
        section_mix(result, pool),
        pair_cards(result, pool),
        _without_understanding(result, baselines),
        _model(result),
        _link_to_costs(),
        block(
            "Parameters",
            "",
            f"<details><summary>params.yaml as given</summary><pre>{escape(params_text)}</pre></details>",
        ),
        _provenance(params, pool, summary),
    ]
    return _document(f"Label efficiency: {escape(_names(result))}", sections)


def costs_page(costs: Sequence[Cost]) -> str:
    """A page of its own for what each stage took: it differs from run to run, and the other page must not.

    Args:
        costs: Time and memory by stage; empty where nothing was measured.
    """
    return _document("Time and memory", [_costs(costs), '<p><a href="index.html">The report</a></p>'])


def _document(title: str, sections: Sequence[str]) -> str:
    digest = base64.b64encode(hashlib.sha256(CSS.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    head = [
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        f"<title>{title}</title>",
        f"<style>{CSS}</style>",
    ]
    lines = ["<!doctype html>", '<html lang="en">', "<head>", *head, "</head>", "<body>", "<main>"]
    return "\n".join([*lines, *filter(None, sections), "</main>", "</body>", "</html>"]) + "\n"


def _names(result: Result) -> str:
    return f"{result.arm.title} against {result.baseline.title}" if result.baseline else result.arm.title


def _answer(result: Result, params: Mapping[str, Any]) -> str:
    leads = result.goal == "pool"
    number, below, tone = pool_number(result.arms, result.pool) if leads else _number(result)
    said = pool_sentence(result.arms, result.pool) if leads else sentence(result)
    seeds = len(result.arm.seeds)
    setup = f"{params.get('model')}, {params.get('posterior')} posterior, {seeds} seed{'s' if seeds > 1 else ''}"
    other = [f"On unseen prompts: {sentence(result)}"] if leads else []
    notes = "".join(f"<li>{escape(text)}</li>" for text in other + caveats(result))
    return (
        f"<header>\n<h1>Label efficiency: {escape(_names(result))} <span>({escape(setup)})</span></h1>\n"
        f'<div class="answer"><p class="big {tone}"><b id="headline-number">{number}</b><span>{below}</span></p>\n'
        f'<p class="sentence" id="headline">{escape(said)}</p></div>\n'
        + (f'<ul class="caveats">{notes}</ul>\n' if notes else "")
        + "</header>"
    )


def _number(result: Result) -> tuple[str, str, str]:
    """The number to read first, what it is, and the classes it is set in."""
    kind, c = verdict(result), result.headline
    if kind == "not_measured":
        return "not measured", "no held-out pair<br>has a label", "words muted"
    if kind == "one_arm" or c is None:
        final = float(result.arm.trials.curves[:, -1].mean())
        return percent(final, 1), "held-out accuracy<br>at the last label count", ""
    if kind == "no_gain":
        return "no gain", "by the baseline:<br>nothing to compare", "words muted"
    if kind == "not_reached":
        return "not reached", "the target, with every<br>label that was acquired", "words muted"
    what = "fewer labels" if c.saving >= 0 else "negative saving: more labels"
    within = "one seed, no interval" if c.interval is None else f"95% interval {interval_words(c.interval)}"
    return percent(c.saving), f"{what}<br>{within}", "" if kind in ("saved", "cost") else "muted"


def _series(result: Result, split: str, section: str, metric: str, scale: float = 1.0) -> list[Series]:
    out = []
    for arm, style in zip(result.arms, STYLES, strict=False):
        values = arm.curve(split, section, metric)
        if values is not None:
            out.append(Series(arm.title, style, arm.labels, *band(scale * values)))
    return out


def _accuracy(result: Result) -> str:
    if not result.arm.measured:
        return block("Held-out accuracy, %", NOT_MEASURED, "")
    series = _series(result, "heldout", "all", "accuracy", 100)
    rule = (result.baseline or result.arm).curve("heldout", "all", "length_rule")
    if rule is not None:
        mean = 100 * rule.mean(0)
        series.append(Series("length only", "other", result.arm.labels, mean, np.full(len(mean), np.nan)))
    target, crossings, rings = None, [], ""
    c = result.headline
    if c is not None and result.baseline and not math.isnan(c.saving):
        target = 100 * c.target, f"target {percent(c.target, 1)}"
        reached = zip(result.arms, STYLES, (c.labels_arm, c.labels_baseline), strict=True)
        crossings = [Crossing(x, style, f"{arm.title} {count(x)}") for arm, style, x in reached if math.isfinite(x)]
        rings = (
            " Rings: where each curve, smoothed by isotonic regression, reaches the target, "
            f"{share_words(c.share)} of what {escape(result.baseline.title)} gains."
        )
    charts = "".join(
        line_chart(
            "Held-out accuracy, %, against labels acquired",
            series,
            width=width,
            height=height,
            style=style,
            target=target,
            crossings=crossings,
        )
        for width, height, style in ((960, 420, "wide"), (370, 320, "narrow"))
    )
    seeds = len(result.arm.seeds)
    bands = f"Bands: 95% t-intervals over {seeds} seeds." if seeds > 1 else "One seed: no bands."
    prompts, pairs = len(result.arm.trials.pairs), int(result.arm.trials.pairs.sum())
    base = escape((result.baseline or result.arm).title)
    length = f" Length only: longer or shorter wins, as {base}\u2019s labels say." if rule is not None else ""
    caption = f"{prompts:,} prompts that no model saw, {pairs:,} pairs. {bands}{rings}{length}"
    return block("Held-out accuracy, %", "", f"<figure>{charts}<figcaption>{caption}</figcaption></figure>")


def _targets(result: Result) -> str:
    if result.baseline is None or not result.comparisons:
        return ""
    arm, base = escape(result.arm.title), escape(result.baseline.title)
    head = [
        "share of gain",
        "accuracy",
        f'<span class="arm">{arm}</span>',
        f'<span class="baseline">{base}</span>',
        "saving",
        "95% interval",
        "reached in",
        "null control",
    ]
    rows = [row(share_words(c.share), _target_cells(c), strong=c.share == result.target) for c in result.comparisons]
    area = ""
    if result.area is not None:
        i = result.area.interval
        within = "" if i is None else f"; 95% interval {points(i.low)} to {points(i.high)}"
        area = (
            f"\n<p>Averaged over the whole curve, {arm} differs from {base} by {points(result.area.value)} points of "
            f"held-out accuracy{within}.</p>"
        )
    lead = (
        f"Each target is a share of what {base} itself gains from its first to its last labels. "
        f"Saving = 1 {MINUS} labels of {arm} / labels of {base}. An arm that does not reach a target counts as worse "
        "than any that does; nothing is extrapolated. Reached in: share of bootstrap draws. Null control: 95% range of "
        f"the same estimate for {base} against itself."
    )
    return block("Labels to target", lead, table(head, rows) + area)


def _target_cells(c: Comparison) -> list[str]:
    if math.isnan(c.saving):
        return [percent(c.target, 1), "", "", "no gain", "", "", ""]
    return [
        percent(c.target, 1),
        count(c.labels_arm),
        count(c.labels_baseline),
        percent(c.saving),
        interval_words(c.interval),
        "" if math.isnan(c.reached) else percent(c.reached),
        "" if c.null is None else ends(c.null.low, c.null.high),
    ]


def _curves(result: Result, benchmark: Mapping[str, Any], rule: str) -> str:
    panels = [
        ("Negative log-likelihood, nats", "heldout", "all", "nll", 1.0),
        ("Calibration error (ECE), %", "heldout", "all", "ece", 100.0),
        ("Benchmark accuracy, %", "benchmark", "all", "accuracy", 100.0),
    ]
    for name in result.arm.sections("benchmark", "accuracy"):
        panels.append((f"Benchmark, {name}, %", "benchmark", name, "accuracy", 100.0))
    figures = []
    for title, split, section, metric, scale in panels:
        series = _series(result, split, section, metric, scale)
        if series:
            chart = line_chart(f"{title}, against labels acquired", series, width=360, height=220)
            figures.append(f"<figure><h3>{escape(title)}</h3>{chart}</figure>")
    measured = result.arm.curve("benchmark", "all", "accuracy") is not None
    lead = (
        "Likelihood and calibration on held-out pairs, lower is better. "
        + ("The benchmark shares no prompt with the pool. " if measured else "There is no benchmark. ")
        + "Bands are 95% t-intervals over seeds; they do not include the choice of prompts."
        + "".join(f" {escape(note)}" for note in benchmark_notes(result, benchmark, rule))
    )
    return block("Likelihood, calibration, benchmark", lead, f'<div class="grid">{"".join(figures)}</div>')


def _without_understanding(result: Result, baselines: Mapping[str, Any]) -> str:
    title, rules = "Without understanding a word", baselines.get("rules", {})
    if not rules:
        return block(title, "Not measured: the baselines stage has not run in this checkout.", "")
    sections = sorted({name for rule in rules.values() for name in rule.get("benchmark", {}) if name != "all"})
    keys = [("heldout", "all"), *(("benchmark", name) for name in ("all", *sections))]
    rows = []
    for name, rule in rules.items():
        labels = "none" if name == "first" else count(baselines.get("labels", 0))
        scores = (rule.get(split, {}).get(section) for split, section in keys)
        rows.append(row(escape(RULES.get(name, name)), [labels, *map(_score, scores)]))
    for arm, style in zip(result.arms, STYLES, strict=False):
        curves = (arm.curve(split, section, "accuracy") for split, section in keys)
        scores = (None if curve is None else float(curve[:, -1].mean()) for curve in curves)
        name = f"the model, {escape(arm.title)}"
        rows.append(row(name, [count(arm.labels[-1]), *map(_score, scores)], style=style))
    notes = "".join(f" {escape(note[:1].upper() + note[1:])}." for note in baselines.get("notes", []))
    lead = (
        "Accuracy in percent of rules that learn from every label of the pool but see only position, length or "
        f"vocabulary, beside the model with the labels it acquired.{notes}"
    )
    return block(title, lead, table(["", "labels", "held-out", "benchmark", *map(escape, sections)], rows))


def _score(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def _model(result: Result) -> str:
    tables = []
    for arm, style in zip(result.arms, STYLES, strict=False):
        found = {metric: values for (split, _, metric), values in arm.values.items() if split == "model"}
        if found:
            head = [f'<span class="{style}">{escape(arm.title)}</span>, labels', *map(count, arm.labels.tolist())]
            names = sorted(found, key=lambda name: name not in FINDINGS)  # stable: the named ones first
            rows = [
                row(escape(FINDINGS.get(name, name.replace("_", " "))), map(_short, _means(found[name])))
                for name in names
            ]
            tables.append(table(head, rows))
    if not tables:
        return ""
    lead = (
        "What each fit chose for itself, mean over the seeds that have it. Active blocks are two-dimensional parts "
        "beyond Bradley-Terry that held-out likelihood accepted: more than none speaks for preferences that no single "
        "scale explains."
    )
    return block("What the model found", lead, "\n".join(tables))


def _means(values: np.ndarray) -> list[float]:
    """Mean over seeds at each point, [T] from [S, T], over the seeds that have a number there."""
    measured = ~np.isnan(values)
    return [float(v[m].mean()) if m.any() else math.nan for v, m in zip(values.T, measured.T, strict=True)]


def _short(value: float) -> str:
    """A number to three digits; nothing for NaN."""
    if math.isnan(value):
        return ""
    text = f"{value:,.0f}" if value == round(value) and abs(value) < 1e6 else f"{value:.3g}"
    if "e" in text:
        digits, power = text.split("e")
        text = f"{digits}\N{MULTIPLICATION SIGN}10<sup>{int(power)}</sup>"
    return text.replace("-", MINUS)


def _link_to_costs() -> str:
    where = '<a href="costs.html">costs.html</a>, beside this page where the report was made'
    return block("Time and memory", f"What each stage took stands in {where}.", "")


def _costs(costs: Sequence[Cost]) -> str:
    if not costs:
        return block("Time and memory", "Not measured in this checkout: the results came from the cache.", "")
    total = Cost(
        "all",
        sum(c.runs for c in costs),
        sum(c.seconds for c in costs),
        sum(c.cpu_seconds for c in costs),
        max(c.peak_mib for c in costs),
    )
    rows = [
        row(
            escape(c.stage),
            [count(c.runs), f"{c.seconds:,.1f}", f"{c.cpu_seconds:,.1f}", count(c.peak_mib)],
            strong=c is total,
        )
        for c in [*costs, total]
    ]
    lead = "The last run of each stage in this checkout. A stage whose results came from the cache is not in it."
    return block("Time and memory", lead, table(["stage", "runs", "seconds", "CPU seconds", "peak MiB"], rows))


def _provenance(params: Mapping[str, Any], pool: PoolTables, summary: Mapping[str, Any]) -> str:
    section = params.get("pool", {})
    source = section.get("hub") or section.get("path")
    if not section.get("hub") and Path(str(source)) == SHIPPED:
        what = f"{SHIPPED}, texts written for this project, preferences by simulated annotators"
    else:
        what = f"{source}, as params.yaml names it"
    split = pool.pairs["split"]
    sizes = f"{int((split == 'pool').sum()):,} pairs on offer, {int((split == 'heldout').sum()):,} held out"
    cycles = summary.get("cycles")
    cyclic = (
        f" {cycles['cyclic']:,} of {cycles['triples']:,} triples of responses have cyclic majorities." if cycles else ""
    )
    return f'<footer><p class="soft">Data: {escape(what)}; {sizes}.{cyclic}</p></footer>'
