"""The result as csv, JSON and Markdown; the same inputs give the same bytes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from bgpm.data.sheets import csv_text
from bgpm.evaluation.arm import COLUMNS, Arm
from bgpm.evaluation.result import Result, verdict
from bgpm.evaluation.savings import Comparison, Difference, Interval, aulc, band, isotonic
from bgpm.reporting.drawn_batches import estimates_markdown
from bgpm.reporting.expectations import ToCome, kept_words, out_of_reach, reach_cells, round_cells
from bgpm.reporting.pool import pool_json, pool_markdown, pool_metrics, pool_sentence
from bgpm.reporting.words import caveats, count, ends, percent, sentence, share_words


def as_csv(arms: Iterable[Arm]) -> str:
    """Every measured number of every arm, tidy; an empty value was not measured.

    Counts are whole, other numbers have four digits, what a model says of itself has three: it ends a search, whose
    tolerance is near the fifth. Later digits depend on the processor, which decides in which order sums are taken.
    """

    def shown(value: float, digits: int) -> str:
        return "" if math.isnan(value) else f"{value:.{digits}g}" if value % 1 else f"{value:.0f}"

    rows = (
        [arm.name, *(getattr(row, name) for name in COLUMNS[:-1]), shown(row.value, 3 if row.split == "model" else 4)]
        for arm in arms
        for row in arm.rows
    )
    return csv_text(["arm", *COLUMNS], rows)


def plot_csv(arm: Arm) -> str:
    """Means over seeds, one row a point, for `dvc plots`; an empty value was not measured by every seed."""
    curves = {
        f"{split}_{metric}": arm.curve(split, "all", metric)
        for split, section, metric in arm.values
        if section == "all" and split != "model"
    }
    rows = (
        [labels, *("" if c is None else number(c[:, at].mean()) for c in curves.values())]
        for at, labels in enumerate(arm.labels.tolist())
    )
    return csv_text(["labels", *curves], rows)


def number(value: float | None, digits: int = 6) -> float | None:
    """A number for JSON: rounded, null where it is not finite."""
    return None if value is None or not math.isfinite(value) else round(float(value), digits)


def metrics(result: Result) -> dict[str, float | int | None]:
    """The numbers that `dvc metrics` compares; null where a target was not reached or nothing was measured."""
    c, interval = result.headline, result.headline.interval if result.headline else None

    def last(arm: Arm | None, split: str, metric: str) -> float | None:
        curve = None if arm is None else arm.curve(split, "all", metric)
        return None if curve is None else number(curve[:, -1].mean())

    def area(arm: Arm | None) -> float | None:
        if arm is None or not arm.measured:
            return None
        return number(float(aulc(arm.trials.labels, arm.trials.curves.mean(0))))

    return {
        "label_savings": number(c.saving) if c else None,
        "label_savings_low": number(interval.low) if interval else None,
        "label_savings_high": number(interval.high) if interval else None,
        "labels_to_target": number(c.labels_arm, 2) if c else None,
        "baseline_labels_to_target": number(c.labels_baseline, 2) if c else None,
        "target": number(c.target) if c else None,
        "labels": int(result.arm.labels[-1]),
        "final_accuracy": last(result.arm, "heldout", "accuracy"),
        "baseline_final_accuracy": last(result.baseline, "heldout", "accuracy"),
        "aulc": area(result.arm),
        "baseline_aulc": area(result.baseline),
        "ece": last(result.arm, "heldout", "ece"),
        "benchmark_accuracy": last(result.arm, "benchmark", "accuracy"),
        "baseline_benchmark_accuracy": last(result.baseline, "benchmark", "accuracy"),
    } | pool_metrics(result.arms, result.pool)


def report_json(result: Result, outlook: Mapping[str, Any], rule: str) -> dict[str, Any]:
    """Everything the statistics found; null is a number that does not exist, most often a target not reached."""
    return {
        "acquisition": result.arm.name,
        "baseline": result.baseline.name if result.baseline else None,
        "seeds": result.arm.seeds.tolist(),
        "labels": result.arm.labels.tolist(),
        "heldout": _heldout(result.arm),
        "verdict": verdict(result),
        "sentence": sentence(result),
        "caveats": caveats(result),
        "indicative": result.indicative,
        "saturated": result.saturated if result.baseline else None,
        "targets": [_comparison(c) for c in result.comparisons],
        "aulc_difference": _difference(result.area),
        "baseline_gain": _difference(result.gain),
        "accuracy": {arm.name: _curve(arm) for arm in result.arms if arm.measured},
        "stands": {arm.name: arm.stands for arm in result.arms if arm.stands},
        "outlook": dict(outlook),
        "benchmark_rule": rule,
        "goal": result.goal,
        "pool_sentence": pool_sentence(result.arms, result.pool),
        "pool": pool_json(result.pool),
    }


def _heldout(arm: Arm) -> dict[str, int]:
    pairs = arm.heldout.pairs if arm.heldout else ()
    return {"prompts": len(pairs), "pairs": int(sum(pairs))}


def _comparison(c: Comparison) -> dict[str, Any]:
    null = c.null
    return {
        "share": number(c.share),
        "target": number(c.target),
        "labels": number(c.labels_arm, 2),
        "baseline_labels": number(c.labels_baseline, 2),
        "saving": number(c.saving),
        "reached": math.isfinite(c.labels_arm),
        "interval": _interval(c.interval),
        "draws_reached": number(c.reached),
        "null_control": null
        and {
            "median": number(null.median),
            "low": number(null.low),
            "high": number(null.high),
            "draws_reached": number(null.reached),
        },
    }


def _difference(difference: Difference | None) -> dict[str, Any] | None:
    return difference and {"value": number(difference.value), "interval": _interval(difference.interval)}


def _interval(interval: Interval | None) -> dict[str, Any] | None:
    if interval is None:
        return None
    out = {"low": number(interval.low), "high": number(interval.high), "method": interval.method}
    return out | ({"reason": interval.reason} if interval.reason else {})


def _curve(arm: Arm) -> dict[str, Any]:
    mean, half = band(arm.trials.curves)
    rows = {"mean": mean, "smoothed": isotonic(mean), "low": mean - half, "high": mean + half}
    return {name: [number(v) for v in values] for name, values in rows.items()}


def interval_words(interval: Interval | None) -> str:
    """An interval as text."""
    return "single seed" if interval is None else ends(interval.low, interval.high)


def benchmark_notes(result: Result, benchmark: Mapping[str, Any], rule: str) -> list[str]:
    """How the benchmark was scored, what it lacks and what was not counted, in sentences.

    Args:
        benchmark: What the prepare stage counted of it.
        rule: Its rule in words.
    """
    notes = [f"The benchmark is {benchmark['path']}. How it is scored: {rule}."] if rule else []
    lacking = [
        f"{'the benchmark' if section == 'all' else section} lacks {values.max():.0f}"
        for (split, section, metric), values in result.arm.values.items()
        if (split, metric) == ("benchmark", "missing_subsets") and values.max() > 0
    ]
    if lacking:
        notes.append(f"Partial, by missing subsets: {', '.join(lacking)}; nothing is filled in.")
    if strange := benchmark.get("unpublished subsets"):
        names = ", ".join(f"{name} ({number})" for name, number in strange.items())
        notes.append(f"Of subsets that the benchmark does not have, reported alone and in no section: {names}.")
    if dropped := benchmark.get("dropped"):
        names = ", ".join(f"{reason} ({tally['count']})" for reason, tally in dropped.items())
        notes.append(f"Not scored: {names}.")
    return notes


def _outlook(result: Result, to_come: ToCome) -> list[str]:
    lines = ["", "## What to expect from the next rounds", ""]
    for arm in result.arms:
        found = to_come.outlook.get(arm.name, {"missing": "no forecast was made"})
        if "missing" in found:
            lines.append(f"{arm.title}: {found['missing']}.")
            continue
        lines += [
            f"{arm.title}: {kept_words(found)}",
            "",
            "| labels | held-out accuracy | 95% interval |",
            "|---:|---:|---:|",
        ]
        lines += [f"| {count(r['labels'])} | {' | '.join(round_cells(r))} |" for r in found["rounds"]]
        lines += ["", "| accuracy | labels left | 95% interval | chance |", "|---:|---:|---:|---:|"]
        lines += [f"| {percent(r['target'], 1)} | {' | '.join(reach_cells(r))} |" for r in found["reach"]]
        lines.append("")
    law = "A power law is carried on, with the noise of measuring on these held-out prompts."
    lines.append(" ".join([law, *out_of_reach(to_come.outlook)]))
    if to_come.batch:
        lines += ["", f"The next batch: `{to_come.batch['label']}`. Its pairs: `{to_come.batch['show']}`."]
    lines += ["", f"The model of the last round: `{to_come.model}`."]
    return lines


def report_markdown(result: Result, to_come: ToCome, benchmark: Mapping[str, Any], rule: str) -> str:
    """The result, the caveats, labels to each target, the last points of the curves, the forecast and what to run."""
    arm, base = result.arm, result.baseline
    title = f"{arm.title} against {base.title}" if base else arm.title
    lines = [f"# Label efficiency: {title}", ""]
    second = pool_markdown(result.arms, result.pool)
    if result.goal == "pool":
        lines += [*second[1:], "", "## The model on unseen prompts", ""]
        second = []
    lines += [f"**{sentence(result)}**", ""]
    lines += [f"- {text}" for text in caveats(result)]
    if base and result.comparisons:
        lines += [
            "",
            "## Labels to target",
            "",
            f"Target: held-out accuracy at a share of {base.title}'s own gain. Saving = 1 - labels of {arm.title} / "
            f"labels of {base.title}; curves are smoothed by isotonic regression, nothing is extrapolated.",
            "",
            f"| share of gain | accuracy | labels, {arm.title} | labels, {base.title} | saving | 95% interval "
            "| null control, 95% range |",
            "|---:|---:|---:|---:|---:|---:|---:|",
        ]
        for c in result.comparisons:
            null = ends(c.null.low, c.null.high) if c.null else "single seed"
            saving = "no gain" if math.isnan(c.saving) else percent(c.saving)
            labels = (
                "no gain | no gain" if math.isnan(c.saving) else f"{count(c.labels_arm)} | {count(c.labels_baseline)}"
            )
            where = f"{share_words(c.share)} | {percent(c.target, 1)}"
            lines.append(f"| {where} | {labels} | {saving} | {interval_words(c.interval)} | {null} |")
    lines += second
    names = " | ".join(a.title for a in result.arms)
    lines += ["", f"## After {count(arm.labels[-1])} labels", "", f"| measure | {names} |"]
    lines.append("|---|" + "---:|" * len(result.arms))
    for name, split, section, metric in _endings(arm):
        curves = [a.curve(split, section, metric) for a in result.arms]
        shown = ["not measured" if c is None else f"{c[:, -1].mean():.3f}" for c in curves]
        lines.append(f"| {name} | " + " | ".join(shown) + " |")
    areas = [f"{float(aulc(a.trials.labels, a.trials.curves.mean(0))):.3f}" for a in result.arms if a.measured]
    if areas:
        lines.append("| area under the curve (mean held-out accuracy) | " + " | ".join(areas) + " |")
    seeds = len(arm.seeds)
    over = f"Means over {seeds} seeds" if seeds > 1 else "One seed"
    lines += ["", f"{over}; {count(_heldout(arm)['prompts'])} held-out prompts."]
    lines += [note for text in benchmark_notes(result, benchmark, rule) for note in ("", text)]
    lines += estimates_markdown(result.arms)
    lines += _outlook(result, to_come)
    return "\n".join(lines) + "\n"


def _endings(arm: Arm) -> list[tuple[str, str, str, str]]:
    rows = [
        ("held-out accuracy", "heldout", "all", "accuracy"),
        ("held-out negative log-likelihood, nats", "heldout", "all", "nll"),
        ("held-out ECE", "heldout", "all", "ece"),
        ("held-out Brier score", "heldout", "all", "brier"),
        ("AUROC of held-out errors by predictive entropy", "heldout", "all", "error_auroc_entropy"),
        ("AUROC of held-out errors by the score's standard deviation", "heldout", "all", "error_auroc_sd"),
        ("cyclic held-out triples ordered rightly", "heldout", "all", "cyclic_triples_right"),
        ("transitive held-out triples ordered rightly", "heldout", "all", "transitive_triples_right"),
        ("length rule at the same labels", "heldout", "all", "length_rule"),
        ("benchmark accuracy", "benchmark", "all", "accuracy"),
    ]
    for name in arm.sections("benchmark", "accuracy"):
        rows.append((f"benchmark accuracy, {name}", "benchmark", name, "accuracy"))
    return [row for row in rows if row[1:] in arm.values]
