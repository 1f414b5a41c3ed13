"""The report page: one self-contained HTML file without scripts, the result first.

What it says is computed here and in the modules beside; `bgpm.reporting.templates` lays it out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from bgpm.evaluation.result import Result, verdict
from bgpm.evaluation.savings import Comparison, band
from bgpm.reporting.acquired import PoolTables, section_mix, valued_pairs
from bgpm.reporting.certainty import certainty
from bgpm.reporting.charts import Crossing, Series, line_chart, wide_and_narrow
from bgpm.reporting.costs import Cost
from bgpm.reporting.drawn_batches import estimates_section
from bgpm.reporting.expectations import ToCome, expectations
from bgpm.reporting.pool import pool_number, pool_section, pool_sentence
from bgpm.reporting.shown import Number, ShownArm, TableRow, styled
from bgpm.reporting.summary import benchmark_notes, interval_words
from bgpm.reporting.templates import render
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
    to_come: ToCome,
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
        to_come: What comes after the last round.
        benchmark: What the prepare stage counted of the benchmark; empty where it left nothing.
        rule: How the benchmark is scored, in words.
    """
    return render(
        "index.html.j2",
        answer=_answer(result, params),
        arms=[ShownArm(arm.title, style) for arm, style in styled(result.arms)],
        pool_leads=result.goal == "pool",
        pool=pool_section(result.arms, result.pool),
        accuracy=_accuracy(result),
        targets=_targets(result),
        expectations=expectations(result, to_come),
        curves=_curves(result, benchmark, rule),
        certainty=certainty(result),
        estimates=estimates_section(result.arms),
        mix=section_mix(result, pool),
        pairs=valued_pairs(result, pool),
        rules=_rules(result, baselines),
        model=_findings(result),
        params_text=params_text,
        model_folder=to_come.model,
        data=_data(params, pool, summary),
    )


def costs_page(costs: Sequence[Cost]) -> str:
    """A page of its own for what each stage took: it differs from run to run, and the other page must not.

    Args:
        costs: Time and memory by stage; empty where nothing was measured.
    """
    if not costs:
        return render("costs.html.j2", rows=[])
    total = Cost(
        "all",
        sum(c.runs for c in costs),
        sum(c.seconds for c in costs),
        sum(c.cpu_seconds for c in costs),
        max(c.peak_mib for c in costs),
    )
    rows = [
        TableRow(
            [c.stage, count(c.runs), f"{c.seconds:,.1f}", f"{c.cpu_seconds:,.1f}", count(c.peak_mib)], strong=c is total
        )
        for c in [*costs, total]
    ]
    return render("costs.html.j2", rows=rows)


def _answer(result: Result, params: Mapping[str, Any]) -> dict[str, Any]:
    """The number and the sentence to read first, and what a reader must know beside them."""
    leads, seeds = result.goal == "pool", len(result.arm.seeds)
    other = [f"On unseen prompts: {sentence(result)}"] if leads else []
    return {
        "names": f"{result.arm.title} against {result.baseline.title}" if result.baseline else result.arm.title,
        "setup": f"{params.get('model')}, {params.get('posterior')} posterior, {seeds} seed{'s' if seeds > 1 else ''}",
        "number": pool_number(result.arms, result.pool) if leads else _number(result),
        "sentence": pool_sentence(result.arms, result.pool) if leads else sentence(result),
        "notes": other + caveats(result),
    }


def _number(result: Result) -> Number:
    """The number to read first where the goal is the model."""
    kind, c = verdict(result), result.headline
    if kind == "not_measured":
        return Number("not measured", ("no held-out pair", "has a label"), "words muted")
    if kind == "one_arm" or c is None:
        final = float(result.arm.trials.curves[:, -1].mean())
        return Number(percent(final, 1), ("held-out accuracy", "at the last label count"))
    if kind == "no_gain":
        return Number("no gain", ("by the baseline:", "nothing to compare"), "words muted")
    if kind == "not_reached":
        return Number("not reached", ("the target, with every", "label that was acquired"), "words muted")
    what = "fewer labels" if c.saving >= 0 else "negative saving: more labels"
    within = "one seed, no interval" if c.interval is None else f"95% interval {interval_words(c.interval)}"
    return Number(percent(c.saving), (what, within), "" if kind in ("saved", "cost") else "muted")


def _series(result: Result, split: str, section: str, metric: str, scale: float = 1.0) -> list[Series]:
    """A curve for each arm of which the metric was measured, with a band over seeds."""
    out = []
    for arm, style in styled(result.arms):
        values = arm.curve(split, section, metric)
        if values is not None:
            out.append(Series(arm.title, style, arm.labels, *band(scale * values)))
    return out


def _accuracy(result: Result) -> dict[str, Any]:
    """The chart of held-out accuracy with its caption; only a sentence where nothing was measured."""
    if not result.arm.measured:
        return {"lead": NOT_MEASURED, "chart": None}
    series = _series(result, "heldout", "all", "accuracy", 100)
    rule = (result.baseline or result.arm).curve("heldout", "all", "length_rule")
    if rule is not None:
        mean = 100 * rule.mean(0)
        series.append(Series("length only", "other", result.arm.labels, mean, np.full(len(mean), np.nan)))
    target, crossings, rings = None, [], ""
    c = result.headline
    if c is not None and result.baseline and not math.isnan(c.saving):
        target = 100 * c.target, f"target {percent(c.target, 1)}"
        reached = zip(styled(result.arms), (c.labels_arm, c.labels_baseline), strict=True)
        crossings = [Crossing(x, style, f"{arm.title} {count(x)}") for (arm, style), x in reached if math.isfinite(x)]
        rings = (
            " Rings: where each curve, smoothed by isotonic regression, reaches the target, "
            f"{share_words(c.share)} of what {result.baseline.title} gains."
        )
    seeds = len(result.arm.seeds)
    bands = f"Bands: 95% t-intervals over {seeds} seeds." if seeds > 1 else "One seed: no bands."
    prompts, pairs = len(result.arm.trials.pairs), int(result.arm.trials.pairs.sum())
    base = (result.baseline or result.arm).title
    length = f" Length only: longer or shorter wins, as {base}\u2019s labels say." if rule is not None else ""
    caption = f"{prompts:,} prompts that no model saw, {pairs:,} pairs. {bands}{rings}{length}"
    chart = wide_and_narrow("Held-out accuracy, %, against labels acquired", series, target, crossings)
    return {"lead": "", "chart": chart, "caption": caption}


def _targets(result: Result) -> dict[str, Any] | None:
    """Labels to each target, and the difference over the whole curve; None where there is nothing to compare."""
    if result.baseline is None or not result.comparisons:
        return None
    area = ""
    if result.area is not None:
        i = result.area.interval
        within = "" if i is None else f"; 95% interval {points(i.low)} to {points(i.high)}"
        area = (
            f"Averaged over the whole curve, {result.arm.title} differs from {result.baseline.title} by "
            f"{points(result.area.value)} points of held-out accuracy{within}."
        )
    rows = [
        TableRow([share_words(c.share), *_target_cells(c)], strong=c.share == result.target) for c in result.comparisons
    ]
    return {"rows": rows, "area": area}


def _target_cells(c: Comparison) -> list[str]:
    """Accuracy, labels of both arms, saving, its interval, draws that reach it and the null control at one target."""
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


def _curves(result: Result, benchmark: Mapping[str, Any], rule: str) -> dict[str, Any]:
    """Charts of likelihood, calibration and the benchmark, with notes on how the benchmark is scored."""
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
            figures.append((title, line_chart(f"{title}, against labels acquired", series, width=360, height=220)))
    return {
        "figures": figures,
        "benchmark": result.arm.curve("benchmark", "all", "accuracy") is not None,
        "notes": benchmark_notes(result, benchmark, rule),
    }


def _rules(result: Result, baselines: Mapping[str, Any]) -> dict[str, Any] | None:
    """Accuracy of rules that understand no word, in percent, beside the model's; None where no rule was measured."""
    rules = baselines.get("rules", {})
    if not rules:
        return None
    sections = sorted({name for rule in rules.values() for name in rule.get("benchmark", {}) if name != "all"})
    keys = [("heldout", "all"), *(("benchmark", name) for name in ("all", *sections))]
    rows = []
    for name, rule in rules.items():
        labels = "none" if name == "first" else count(baselines.get("labels", 0))
        scores = (rule.get(split, {}).get(section) for split, section in keys)
        rows.append(TableRow([RULES.get(name, name), labels, *map(_score, scores)]))
    for arm, style in styled(result.arms):
        curves = (arm.curve(split, section, "accuracy") for split, section in keys)
        scores = (None if curve is None else float(curve[:, -1].mean()) for curve in curves)
        rows.append(TableRow([f"the model, {arm.title}", count(arm.labels[-1]), *map(_score, scores)], style))
    notes = [f"{note[:1].upper() + note[1:]}." for note in baselines.get("notes", [])]
    return {"sections": sections, "rows": rows, "notes": notes}


def _score(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def _findings(result: Result) -> list[dict[str, Any]]:
    """What the fits of each arm chose for themselves: means over seeds at each point of the curve."""
    out = []
    for arm, style in styled(result.arms):
        found = {metric: values for (split, _, metric), values in arm.values.items() if split == "model"}
        names = sorted(found, key=lambda name: name not in FINDINGS)  # stable: the named ones first
        rows = [
            TableRow([FINDINGS.get(name, name.replace("_", " ")), *map(_short, _means(found[name]))]) for name in names
        ]
        if rows:
            out.append({"title": arm.title, "style": style, "labels": [*map(count, arm.labels.tolist())], "rows": rows})
    return out


def _means(values: np.ndarray) -> list[float]:
    """Mean over seeds at each point, [T] from [S, T], over the seeds that have a number there."""
    measured = ~np.isnan(values)
    return [float(v[m].mean()) if m.any() else math.nan for v, m in zip(values.T, measured.T, strict=True)]


def _short(value: float) -> str:
    """A number to three digits; nothing for NaN."""
    if math.isnan(value):
        return ""
    text = f"{value:,.0f}" if value == round(value) and abs(value) < 1e6 else f"{value:.3g}"
    digits, exponent, power = text.partition("e")
    digits = digits.replace("-", MINUS)
    if not exponent:
        return digits
    return digits + Markup("\N{MULTIPLICATION SIGN}10<sup>{}</sup>").format(f"{int(power)}".replace("-", MINUS))


def _data(params: Mapping[str, Any], pool: PoolTables, summary: Mapping[str, Any]) -> str:
    """Where texts and preferences come from, and how many pairs there are."""
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
    return f"{what}; {sizes}.{cyclic}"
