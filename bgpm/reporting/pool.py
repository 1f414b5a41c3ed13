"""The labelled pool in the report: sentences, tables and a figure of the labels it costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt

from bgpm.evaluation.arm import Arm
from bgpm.evaluation.certificate import Certificate
from bgpm.evaluation.pool_labels import EXPORTS
from bgpm.evaluation.result import PoolResult
from bgpm.evaluation.savings import Comparison, band
from bgpm.reporting.certified import bound_words, stop_words
from bgpm.reporting.charts import Series, every, wide_and_narrow
from bgpm.reporting.figure import COLOURS, RC, STYLES, band_to_draw, not_measured, save
from bgpm.reporting.shown import Number, TableRow, shown, styled
from bgpm.reporting.words import NOT_REACHED, count, ends, percent

TITLE = "Labels of the whole pool"
NOT_MEASURED = (
    "Not measured: nobody knows the true labels of the pool's pairs. With goal: pool people and judges are asked for "
    "audits, and a lower bound of the share of right labels follows."
)


def pool_sentence(arms: Sequence[Arm], pool: PoolResult | None) -> str:
    """The result in one sentence: labels to the middle target, or where the curve ends."""
    if pool is None:
        return NOT_MEASURED
    arm = arms[0]
    if not pool.right:
        c = pool.certificates[arm.name]
        return f"{bound_words(arm, c)} {stop_words(arm, c)}"
    last = percent(float(pool.right[arm.name][:, -1].mean()), 1)
    so_far = f"With {_of_pool(arm.labels[-1], pool)} {last} of the pool's labels are right under {arm.title}"
    c = next((c for c in pool.comparisons if c.target == 0.95), None)
    if c is None:
        return f"{so_far}."
    if not math.isfinite(c.labels_arm):
        other = percent(float(pool.right[arms[1].name][:, -1].mean()), 1)
        return f"{so_far}, {other} under {arms[1].title}; {percent(c.target)} was not reached, so no saving is shown."
    floor = "at least " if c.at_least else ""
    base = f"more than {count(arms[1].labels[-1])}" if c.at_least else _of_pool(c.labels_baseline, pool, "")
    amount = f"{percent(abs(c.saving))} {'fewer' if c.saving >= 0 else 'more'}"
    within = "a single seed, so no interval" if c.interval is None else f"95% interval {_ends(c)}"
    return (
        f"For {percent(c.target)} right labels in the whole pool {arm.title} needed {_of_pool(c.labels_arm, pool)} "
        f"where {arms[1].title} needed {base}: {floor}{amount} ({within})."
    )


def pool_number(arms: Sequence[Arm], pool: PoolResult | None) -> Number:
    """The number to read first where the goal is the pool."""
    if pool is None:
        return Number("not measured", ("the pool's true labels", "are not known"), "words muted")
    if not pool.right:
        found = pool.certificates[arms[0].name]
        sure = f"with {percent(1 - found.alpha)} confidence"
        reached = bool((found.bound[:, -1] >= found.target).all())
        below = "of the labels are right,", f"{sure}: {'stop here' if reached else 'not certified yet'}"
        return Number(f"≥ {percent(float(found.bound[:, -1].mean()), 1)}", below, "" if reached else "muted")
    c = next((c for c in pool.comparisons if c.target == 0.95), None)
    if c is None:
        right = percent(float(pool.right[arms[0].name][:, -1].mean()), 1)
        return Number(right, ("of the pool's labels", "are right"))
    if not math.isfinite(c.labels_arm):
        return Number(NOT_REACHED, ("95% right labels, with every", "label that was acquired"), "words muted")
    what = "fewer labels" if c.saving >= 0 else "negative saving: more labels"
    within = "one seed, no interval" if c.interval is None else f"95% interval {_ends(c)}"
    sure = c.interval is not None and (c.interval.low > 0 or c.interval.high < 0)
    return Number(percent(c.saving), (f"{what} for 95% right", within), "" if sure else "muted")


def pool_metrics(arms: Sequence[Arm], pool: PoolResult | None) -> dict[str, float | int | None]:
    """The numbers of the labelled pool that `dvc metrics` compares; null where not reached or not measured."""
    c = None if pool is None else next((c for c in pool.comparisons if c.target == 0.95), None)

    def last(arm: Arm) -> float | None:
        return round(float(pool.right[arm.name][:, -1].mean()), 6) if pool and pool.right else None

    found = pool.certificates.get(arms[0].name) if pool else None

    return {
        "pool_right": last(arms[0]),
        "baseline_pool_right": last(arms[1]) if len(arms) > 1 else None,
        "pool_label_savings": round(c.saving, 6) if c and math.isfinite(c.saving) else None,
        "pool_certified": round(float(found.bound[:, -1].mean()), 6) if found else None,
        "pool_labels_to_95": round(c.labels_arm, 2) if c and math.isfinite(c.labels_arm) else None,
    }


def pool_cells(c: Comparison, pool: PoolResult) -> list[str]:
    """Labels of both arms with their share of the pool, saving, interval and null control at one target."""
    return [
        _of_pool(c.labels_arm, pool, ""),
        _of_pool(c.labels_baseline, pool, ""),
        ("at least " if c.at_least else "") + percent(c.saving),
        "single seed" if c.interval is None else _ends(c),
        "single seed" if c.null is None else ends(c.null.low, c.null.high),
    ]


def _of_pool(labels: float, pool: PoolResult, unit: str = " labels", of: str = " of the pool") -> str:
    """A budget in labels and as a share of the pool."""
    if not math.isfinite(labels):
        return count(labels)
    return f"{count(labels)}{unit} ({percent(labels / pool.pairs)}{of if unit else ''})"


def _ends(c: Comparison) -> str:
    assert c.interval is not None
    return ends(c.interval.low, c.interval.high)


def certified_words(arms: Sequence[Arm], pool: PoolResult) -> str:
    """Labels until the target is certified, audits counted; empty where nothing was audited."""
    known = [(arm.title, pool.certificates[arm.name]) for arm in arms if arm.name in pool.certificates]
    if not known:
        return ""
    found = "; ".join(
        f"{name} {count(c.labels_certified)} (bound at the end {percent(float(c.bound[:, -1].mean()), 1)})"
        for name, c in known
    )
    target = percent(known[0][1].target)
    return f"Labels until {target} right is certified by audits, audits counted as labels: {found}."


def certificate_rows(arm: Arm, c: Certificate) -> list[list[str]]:
    """Of each round: labels, audits, wrong ones among them, and the lower bound; means over seeds."""
    columns = (c.audited, c.wrong)
    return [
        [count(arm.labels[t]), *(count(column[:, t].mean()) for column in columns), percent(c.bound[:, t].mean(), 1)]
        for t in range(len(arm.labels))
    ]


def export_rows(arm: Arm) -> list[list[str]]:
    """Of the last round, for each least probability: share of the pairs, share right, probability stated."""
    out = []
    for least in EXPORTS:
        curves = [arm.curve("pool", "all", f"export_{least}_{name}") for name in ("share", "right", "stated")]
        cells = ["none" if c is None else percent(float(c[:, -1].mean()), 1) for c in curves]
        out.append([f"{least:.2f}", *cells])
    return out


def pool_markdown(arms: Sequence[Arm], pool: PoolResult | None) -> list[str]:
    """Lines of the Markdown report."""
    lines = ["", f"## {TITLE}", "", f"**{pool_sentence(arms, pool)}**"]
    if pool is None:
        return lines
    if pool.comparisons:
        names = " | ".join(f"labels, {arm.title}" for arm in arms)
        lines += ["", f"| right | {names} | saving | 95% interval | null control, 95% range |", "|" + "---:|" * 6]
        lines += [f"| {percent(c.target)} | {' | '.join(pool_cells(c, pool))} |" for c in pool.comparisons]
    if words := certified_words(arms, pool):
        lines += ["", words]
    if not pool.right:
        for arm in arms:
            if arm.name in pool.certificates:
                rows = certificate_rows(arm, pool.certificates[arm.name])
                lines += ["", f"| {arm.title}: labels | audits | wrong | right at least |", "|" + "---:|" * 4]
                lines += [f"| {' | '.join(cells)} |" for cells in rows]
        return lines
    for arm in arms:
        lines += ["", f"| {arm.title}: least probability | share of the pairs | right | stated |", "|" + "---:|" * 4]
        lines += [f"| {' | '.join(cells)} |" for cells in export_rows(arm)]
    return lines


def pool_section(arms: Sequence[Arm], pool: PoolResult | None) -> dict[str, Any]:
    """What the page says of the pool: of its true labels, or of what audits found where nobody knows them."""
    said = {"title": TITLE, "sentence": pool_sentence(arms, pool), "known": pool is not None and bool(pool.right)}
    if pool is None:
        return said | {"chart": None}
    certificates = pool.certificates
    if not pool.right:
        bounds = [(arm, style, certificates[arm.name]) for arm, style in styled(arms) if arm.name in certificates]
        lines = [Series(arm.title, style, arm.labels, *band(100 * c.bound)) for arm, style, c in bounds]
        return said | {
            "chart": wide_and_narrow("Certified share of right labels, %, against labels acquired", lines),
            "bounds": shown(arms, lambda arm: certificate_rows(arm, c) if (c := certificates.get(arm.name)) else []),
        }
    lines = [Series(arm.title, style, arm.labels, *band(100 * pool.right[arm.name])) for arm, style in styled(arms)]
    return said | {
        "chart": wide_and_narrow("Right labels in the whole pool, %, against labels acquired", lines),
        "targets": [TableRow([percent(c.target), *pool_cells(c, pool)]) for c in pool.comparisons],
        "exports": shown(arms, export_rows),
        "certified": certified_words(arms, pool),
    }


def draw_pool(arms: Sequence[Arm], pool: PoolResult | None, stem: Path) -> None:
    """Write ``stem.png`` and ``stem.svg``: share of right labels against labels, with 95% t-bands and the targets."""
    with mpl.rc_context(RC):
        figure, axis = plt.subplots(figsize=(5.6, 3.6), layout="constrained")
        axis.set_title("right labels in the whole pool, %", loc="left", fontsize=10)
        axis.set_xlabel("labels acquired")
        if pool is None:
            not_measured(axis)
        elif not pool.right:
            axis.set_title("certified share of right labels, %", loc="left", fontsize=10)
            for arm, colour, style in zip(arms, COLOURS, STYLES, strict=False):
                if found := pool.certificates.get(arm.name):
                    axis.axhline(100 * found.target, color="#555555", linewidth=0.8, linestyle=":")
                    axis.plot(arm.labels, 100 * found.bound.mean(0), color=colour, linestyle=style, linewidth=1.8,
                              marker="o", markersize=3, label=arm.title)  # fmt: skip
            axis.set_xticks(every(arms[0].labels.tolist(), 6))
            axis.legend(frameon=False, loc="lower right")
        else:
            for c in pool.comparisons:
                axis.axhline(round(100 * c.target, 3), color="#555555", linewidth=0.8, linestyle=":")
            for arm, colour, style in zip(arms, COLOURS, STYLES, strict=False):
                mean, half = band_to_draw(100 * pool.right[arm.name])
                axis.fill_between(arm.labels, mean - half, mean + half, color=colour, alpha=0.15, linewidth=0)
                axis.plot(arm.labels, mean, color=colour, linestyle=style, linewidth=1.8, marker="o", markersize=3,
                          label=arm.title)  # fmt: skip
            axis.set_xticks(every(arms[0].labels.tolist(), 6))
            axis.grid(axis="y", color="#000000", alpha=0.08)
            axis.legend(frameon=False, loc="lower right")
        save(figure, stem)


def pool_json(pool: PoolResult | None) -> dict[str, Any] | None:
    """All results on the labelled pool for JSON; null is a number that does not exist."""

    def number(value: float) -> float | None:
        return round(float(value), 6) if math.isfinite(value) else None

    return pool and {
        "targets": [
            {
                "target": c.target,
                "labels": number(c.labels_arm),
                "baseline_labels": number(c.labels_baseline),
                "saving": number(c.saving),
                "at_least": c.at_least,
                "interval": c.interval and {"low": number(c.interval.low), "high": number(c.interval.high)},
                "null_control": c.null and {"low": number(c.null.low), "high": number(c.null.high)},
            }
            for c in pool.comparisons
        ],
        "right": {name: [number(v) for v in values.mean(0)] for name, values in pool.right.items()},
        "pairs": pool.pairs,
        "certified": {name: [number(v) for v in c.bound.mean(0)] for name, c in pool.certificates.items()},
        "labels_to_certified": {name: number(c.labels_certified) for name, c in pool.certificates.items()},
        "certify": next((c.target for c in pool.certificates.values()), None),
        "audits_missing": {
            name: [{"at_least": least, "likely": likely} for least, likely in c.missing]
            for name, c in pool.certificates.items()
        },
    }
