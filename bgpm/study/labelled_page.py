"""The study of labelled pools written down: one figure and the tables of its page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("agg")
import matplotlib.pyplot as plt
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from bgpm.evaluation.savings import band
from bgpm.reporting.figure import RC, save
from bgpm.reporting.words import ends, percent
from bgpm.study import LabelledPools
from bgpm.study.labelled_table import Curves, WholeOutcome, labels_needed
from bgpm.study.savings_page import BASELINE, COLOURS

HEADER = ("arm", "against", "acquired, arm / baseline", "labels saved", "95% interval", "null control", "certified")


def draw_whole(study: LabelledPools, outcomes: Sequence[WholeOutcome], stem: Path) -> None:
    """Right labels of each pool against the share that was acquired, a line an arm, with 95% t-bands."""
    found = {(o.pool, o.arm): o.curves for o in outcomes}
    colours = _colours(study)
    columns = min(3, len(study.pools))
    lines = math.ceil(len(study.pools) / columns)
    with mpl.rc_context(RC):
        size = (max(6.4, 3.6 * columns), 2.9 * lines + 0.4)
        figure, axes = plt.subplots(lines, columns, figsize=size, squeeze=False, layout="constrained")
        for axis, pool in zip(axes.flat, study.pools, strict=False):
            for arm in study.arms:
                curves = found[pool, arm]
                x, (mean, half) = 100 * curves.labels / curves.pairs, band(100 * curves.right)
                plan = study.arm_plans[arm]
                style = ":" if plan.hindsight else "-" if plan.effects else "--"
                axis.plot(x, mean, style, color=colours[arm], linewidth=1.5, label=arm)
                axis.fill_between(x, mean - half, mean + half, color=colours[arm], alpha=0.12, linewidth=0)
            axis.axhline(100 * study.headline, color="#888888", linewidth=0.8)
            axis.set_xlim(0, 100)
            axis.set_ylim(min(90.0, axis.get_ylim()[0]), 100)
            axis.set_title(f"{pool}: {found[pool, study.arms[0]].pairs:,} pairs", loc="left", fontsize=10)
            axis.grid(axis="y", color="#000000", alpha=0.08)
        for axis in axes.flat[len(study.pools) :]:
            axis.set_visible(False)
        for axis in axes.flat[max(len(study.pools) - columns, 0) : len(study.pools)]:
            axis.set_xlabel("pairs acquired, % of the pool")
        for axis in axes[:, 0]:
            axis.set_ylabel("labels right, %")
        handles, names = axes[0][0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False)
        save(figure, stem)


def draw_shares(study: LabelledPools, outcomes: Sequence[WholeOutcome], stem: Path) -> None:
    """Share of each pool that the headline arm and its baseline acquire until the headline's target is right.

    Beside the bars the saving with its 95% interval, and a mark where the arm that all are compared with stands.
    """
    arm = headline_arm(study)
    found = {(o.pool, o.arm): o.curves for o in outcomes}
    compared = {o.pool: o for o in outcomes if (o.arm, o.baseline) == (arm, study.arm_plans[arm].baseline)}
    with mpl.rc_context(RC):
        figure, axis = plt.subplots(figsize=(7.2, 0.7 + 0.55 * len(study.pools)), layout="constrained")
        for y, pool in enumerate(reversed(study.pools)):
            o = compared[pool]
            c = o.at(study.headline)
            for shift, labels, colour in ((0.19, c.labels_baseline, BASELINE), (-0.19, c.labels_arm, COLOURS[0])):
                axis.barh(y + shift, 100 * labels / o.curves.pairs, height=0.34, color=colour, linewidth=0)
            beside = 100 * labels_needed(found[pool, study.beside], study.headline)
            axis.plot([beside, beside], [y, y + 0.38], color="#000000", linewidth=1.2)
            interval = f" ({ends(c.interval.low, c.interval.high)})" if c.interval else ""
            axis.text(101, y, f"saves {percent(c.saving)}{interval}", va="center", fontsize=8)
        axis.set_yticks(range(len(study.pools)), list(reversed(study.pools)))
        axis.set_xlim(0, 100)
        axis.set_xlabel(f"pairs acquired until {percent(study.headline)} of all labels are right, % of the pool")
        handles = [Patch(color=BASELINE), Patch(color=COLOURS[0]), Line2D([], [], color="#000000", linewidth=1.2)]
        names = [compared[study.pools[0]].baseline, arm, study.beside]
        figure.legend(handles, names, loc="outside lower center", ncols=3, frameon=False)
        save(figure, stem)


def headline_arm(study: LabelledPools) -> str:
    """The default arm, or the first that is not its own baseline."""
    arms = [arm for arm in study.arms if study.arm_plans[arm].baseline != arm and not study.arm_plans[arm].hindsight]
    return next((arm for arm in arms if study.arm_plans[arm].default), arms[0])


def _colours(study: LabelledPools) -> dict[str, str]:
    """Grey for random, black for hindsight, a colour for each other acquisition function."""
    plans = {arm: study.arm_plans[arm] for arm in study.arms}
    functions = dict.fromkeys(p.acquisition for p in plans.values() if not p.hindsight and p.acquisition != "random")
    colour = dict(zip(functions, COLOURS, strict=False)) | {"random": BASELINE}
    return {arm: "#000000" if plan.hindsight else colour[plan.acquisition] for arm, plan in plans.items()}


def whole_markdown(study: LabelledPools, outcomes: Sequence[WholeOutcome]) -> list[str]:
    """A table of all pools at the headline's target, and one for each target."""
    without = [arm for arm in study.arms if not study.arm_plans[arm].effects]
    out = [
        "# Labelled pools",
        "",
        "How much of a pool has to be acquired until so many of *all* its labels, acquired or inferred, are right. "
        f"Saving: 1 - labels of the arm / labels of its baseline; {study.seeds} paired seeds, 95% BCa interval over "
        "seeds; the pool itself is given. *Null control*: the same estimate for the baseline against itself. "
        "*Certified*: share of the pool acquired or audited until audits prove "
        f"{percent(study.audit.target)} right (a campaign that never proves it counts as the whole pool). Without "
        f"response effects: {', '.join(without)}. *hindsight* is no method: it knows the label of every other pair.",
        "",
        "![Share of each pool acquired until the target](pool_shares.png)",
        "",
        "![Right labels of each pool](pool_labels.png)",
        "",
    ]
    found = {(o.pool, o.arm): o.curves for o in outcomes}
    for target in study.targets:
        out += [f"## {percent(target)} right", "", *_needed(study, found, target), ""]
        out += ["| pool | " + " | ".join(HEADER) + " |", "|---" * (len(HEADER) + 1) + "|"]
        out += [_line(o, target) for o in outcomes if o.comparisons]
        out.append("")
    return out


def _needed(study: LabelledPools, found: dict[tuple[str, str], Curves], target: float) -> list[str]:
    out = ["| share of the pool acquired | " + " | ".join(study.arms) + " |", "|---" * (len(study.arms) + 1) + "|"]
    for pool in study.pools:
        shares = [percent(labels_needed(found[pool, arm], target), 1) for arm in study.arms]
        out.append(f"| {pool} | " + " | ".join(shares) + " |")
    return out


def _line(o: WholeOutcome, target: float) -> str:
    c = o.at(target)
    name = f"**{o.arm}**" if o.plan.default else o.arm
    shares = " / ".join(percent(n / o.curves.pairs, 1) for n in (c.labels_arm, c.labels_baseline))
    interval = ends(c.interval.low, c.interval.high) if c.interval else ""
    null = ends(c.null.low, c.null.high) if c.null else ""
    certified = " / ".join("" if math.isnan(n) else percent(n) for n in (o.curves.certified, o.against.certified))
    return f"| {o.pool} | {name} | {o.baseline} | {shares} | {percent(c.saving)} | {interval} | {null} | {certified} |"
