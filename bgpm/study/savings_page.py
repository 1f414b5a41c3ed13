"""The study written down: figures of curves and savings, and one page of tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from bgpm.evaluation.savings import INDICATIVE_BELOW, Comparison, aulc_p_value, holm
from bgpm.reporting.figure import RC, band_to_draw, save
from bgpm.reporting.words import ends, percent
from bgpm.study import ArmPlan, StudyPlan
from bgpm.study.table import Outcome

# Okabe and Ito's palette, the baseline in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5195", "#000000")
BASELINE = "#888888"
HEADER = (
    "arm",
    "labels saved",
    "95% interval",
    "null control",
    "labels, arm / baseline",
    "area, points",
    "last accuracy",
)

FITTED = (
    "**Simulated labels**: drawn from Bradley-Terry as all recorded labels fit it, and held-out pairs are labelled by "
    "the side that this fit favours. What is saved here is saved where the model is right."
)


def draw_curves(outcomes: Sequence[Outcome], arms: Sequence[str], stem: Path) -> None:
    """Held-out accuracy against labels with 95% t-bands: a panel a pool that has all these arms, a line an arm."""
    found = {(o.pool, o.arm): o for o in outcomes}
    pools = [pool for pool in dict.fromkeys(o.pool for o in outcomes) if all((pool, arm) in found for arm in arms)]
    columns = min(3, len(pools))
    rows = math.ceil(len(pools) / columns)
    names = [arm for arm in arms if arm != "random"]
    colour = dict(zip(names, [COLOURS[n % len(COLOURS)] for n in range(len(names))], strict=True)) | {
        "random": BASELINE
    }
    with mpl.rc_context(RC):
        across = 2 * columns + (columns == 1)  # names in a row of the legend
        size = (max(6.4, 4.2 * columns), 3.1 * rows + 0.6 * (columns == 1) + 0.25 * math.ceil(len(arms) / across))
        figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
        for axis, pool in zip(axes.flat, pools, strict=False):
            for o in (found[pool, arm] for arm in arms):
                mean, half = band_to_draw(100 * o.trials.curves)
                axis.plot(o.trials.labels, mean, color=colour[o.arm], linewidth=1.6, label=o.arm)
                axis.fill_between(
                    o.trials.labels, mean - half, mean + half, color=colour[o.arm], alpha=0.12, linewidth=0
                )
            axis.set_title(pool, loc="left", fontsize=10)
            axis.grid(axis="y", color="#000000", alpha=0.08)
        _finish(axes, len(pools), "labels acquired")
        for axis in axes[:, 0]:
            axis.set_ylabel("held-out accuracy, %")
        handles = {
            name: line for axis in axes.flat for line, name in zip(*axis.get_legend_handles_labels(), strict=True)
        }
        figure.legend(
            handles.values(), handles.keys(), loc="outside lower center", ncols=min(across, len(handles)), frameon=False
        )
        save(figure, stem)


def draw_savings(outcomes: Sequence[Outcome], arms: Sequence[str], share: float, stem: Path) -> None:
    """Savings of some arms at one target with 95% intervals over the null control's range, one panel a pool."""
    compared = [o for o in outcomes if o.arm != o.plan.baseline and o.arm in arms]
    pools = list(dict.fromkeys(o.pool for o in compared))
    arms = [arm for arm in arms if any(o.arm == arm for o in compared)]
    columns = min(4, len(pools))
    rows = math.ceil(len(pools) / columns)
    with mpl.rc_context(RC):
        size = (1.6 + 2.1 * columns, rows * (1.0 + 0.27 * len(arms)))
        figure, axes = plt.subplots(rows, columns, figsize=size, sharey=True, squeeze=False, layout="constrained")
        for axis, pool in zip(axes.flat, pools, strict=False):
            for o in (o for o in compared if o.pool == pool):
                _saving(axis, len(arms) - 1 - arms.index(o.arm), o.at(share), o.plan.default)
            axis.set_title(pool, loc="left", fontsize=9)
            axis.set_xlim(-105, 105)
            axis.axvline(0, color="#888888", linewidth=0.8)
            axis.axvline(50, color="#888888", linewidth=0.8, linestyle=":")
        _finish(axes, len(pools), "labels saved, %")
        axes[0][0].set_yticks(range(len(arms)), arms[::-1])
        save(figure, stem)


def _finish(axes: np.ndarray, used: int, label: str) -> None:
    """Hide panels that are not used, and name the axis below the lowest of each column."""
    for axis in axes.flat[used:]:
        axis.set_visible(False)
    for axis in axes.flat[max(used - axes.shape[1], 0) : used]:
        axis.set_xlabel(label)


def _saving(axis: Axes, y: float, c: Comparison, default: bool) -> None:
    def clipped(value: float) -> float:
        return round(float(np.clip(100 * value, -105, 105)), 3)

    if c.null is not None:
        low, high = clipped(c.null.low), clipped(c.null.high)
        axis.barh(y, high - low, left=low, height=0.8, color="#000000", alpha=0.08, linewidth=0)
    colour = COLOURS[1] if default else COLOURS[0]
    if c.interval is not None:
        axis.plot([clipped(c.interval.low), clipped(c.interval.high)], [y, y], color=colour, linewidth=1.6)
    if math.isfinite(c.saving):
        axis.plot([clipped(c.saving)], [y], "o" if c.saving > -1.05 else "<", color=colour, markersize=5)
    else:
        axis.plot([-103], [y], "x", color=colour, markersize=5)


def study_markdown(plan: StudyPlan, outcomes: Sequence[Outcome]) -> str:
    """The tables: one a pool at the headline's target, with what is known of the pool."""
    share = plan.headline
    out = [
        "# Label efficiency on real pools",
        "",
        f"Labels saved against `random` to reach {percent(share)} of random's own gain in held-out accuracy: "
        f"1 - labels of the arm / labels of random, {plan.seeds} paired seeds, 95% BCa interval over seeds and "
        "held-out prompts. *Null control*: the same estimate for random against random. *Not reached* counts as worse "
        "than any number. `python -m stages.study_report` wrote this page; `make study POOLS=FOLDER` runs everything.",
        "",
    ]
    if plan.seeds < INDICATIVE_BELOW:
        out += [f"**{plan.seeds} seeds are indicative only**: intervals cover less than they promise.", ""]
    out += ["![Labels saved](savings.png)", ""]
    for name, arms in plan.figures.items():
        out += [f"![Learning curves of {', '.join(arms)}]({name}.png)", ""]
    for pool in plan.pools:
        here = [o for o in outcomes if o.pool == pool]
        random = here[0]
        out += [
            f"## {pool}",
            "",
            *([FITTED, ""] if plan.pool_plans[pool].labels == "fitted" else []),
            f"Random goes from {_points(random.curves.baseline[0])} to {_points(random.curves.baseline[-1])} with "
            f"{random.curves.labels[-1]:.0f} labels"
            + (" and **stops climbing before the end** (saturated)." if random.saturated else "."),
            "",
            "| " + " | ".join(HEADER) + " |",
            "|---" * len(HEADER) + "|",
        ]
        out += [_line(o, o.at(share)) for o in here if o.arm != o.plan.baseline]
        out.append("")
    return "\n".join([*out, *_everywhere(plan, outcomes)])


def _everywhere(plan: StudyPlan, outcomes: Sequence[Outcome]) -> list[str]:
    """The arms that ran on every pool: area against random, pools of recorded and of simulated labels apart."""
    recorded = [pool for pool in plan.pools if plan.pool_plans[pool].labels == "recorded"]
    fitted = [pool for pool in plan.pools if pool not in recorded]
    found = {(o.pool, o.arm): o for o in outcomes}
    arms = [arm for arm in plan.arms if plan.arm_plans[arm].baseline != arm]
    out: list[str] = []
    if len(recorded) > 1:
        out += [
            "## All pools of recorded labels",
            "",
            "Difference of the area under the curve from the baseline's, points. The p-value is that of a two-sided "
            f"bootstrap, corrected by Holm's rule for {len(recorded)} pools, but not for the number of arms.",
            "",
            *_by_arm(plan, recorded, {arm: _corrected([found[pool, arm] for pool in recorded]) for arm in arms}),
        ]
    if len(fitted) > 1:
        cells = {arm: [_area(found[pool, arm]) for pool in fitted] for arm in arms}
        out += [
            "## All pools of simulated labels",
            "",
            "Difference of the area under the curve from the baseline's with its 95% interval, points, where the model "
            "is right.",
            "",
            *_by_arm(plan, fitted, cells),
        ]
    return out


def _by_arm(plan: StudyPlan, pools: Sequence[str], cells: Mapping[str, Sequence[str]]) -> list[str]:
    """A table with a row an arm and a column a pool."""
    rows = [(_named(arm, plan.arm_plans[arm]), *row) for arm, row in cells.items()]
    return [
        f"| arm | {' | '.join(pools)} |",
        "|---" * (len(pools) + 1) + "|",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
    ]


def _named(arm: str, plan: ArmPlan) -> str:
    """The arm, in bold where it is what params.yaml ships."""
    return f"**{arm}**" if plan.default else arm


def _corrected(here: Sequence[Outcome]) -> list[str]:
    """Area of an arm on each pool, with its p-value corrected for their number."""
    values = holm([aulc_p_value(o.curves) for o in here])
    return [
        f"{100 * o.area.value:+.1f} (p {'< 0.01' if p < 0.01 else f'{p:.2f}'})"
        for o, p in zip(here, values, strict=True)
    ]


def _area(o: Outcome) -> str:
    """Area against the baseline's with its interval, points."""
    area = o.area.interval
    half = f" ({100 * area.low:+.1f} to {100 * area.high:+.1f})" if area else ""
    return f"{100 * o.area.value:+.1f}{half}"


def _points(value: float) -> str:
    return f"{100 * value:.1f}%"


def _line(o: Outcome, c: Comparison) -> str:
    name = _named(o.arm, o.plan)
    if o.plan.baseline != "random":
        name += f" (against {o.plan.baseline})"
    interval = ends(c.interval.low, c.interval.high) if c.interval else ""
    null = ends(c.null.low, c.null.high) if c.null else ""
    labels = " / ".join(f"{n:.0f}" if math.isfinite(n) else "-" for n in (c.labels_arm, c.labels_baseline))
    last = f"{_points(o.curves.arm[-1])} / {_points(o.curves.baseline[-1])}"
    saved = "no gain" if math.isnan(c.saving) else percent(c.saving)
    return f"| {name} | {saved} | {interval} | {null} | {labels} | {_area(o)} | {last} |"
