"""The learning curves as one figure, png and svg; the same inputs give the same bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

mpl.use("agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bgpm.evaluation.arm import Arm
from bgpm.evaluation.result import Result
from bgpm.evaluation.savings import band
from bgpm.reporting.charts import every
from bgpm.reporting.words import count, share_words

# Okabe and Ito's palette: told apart by every common kind of colour vision.
COLOURS = ("#0072B2", "#D55E00")
STYLES = ("-", (0, (5, 2)))
RC: dict[Any, Any] = {
    "svg.hashsalt": "bgpm",
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "axes.labelcolor": "#333333",
    "xtick.color": "#555555",
    "ytick.color": "#555555",
}


def draw(result: Result, stem: Path) -> None:
    """Write ``stem.png`` and ``stem.svg``: held-out and benchmark accuracy against labels, with 95% t-bands.

    Where neither is measured the figure says so.
    """
    panels = [("heldout", "held-out accuracy, %"), ("benchmark", "benchmark accuracy, %")]
    panels = [(split, title) for split, title in panels if result.arm.curve(split, "all", "accuracy") is not None]
    with mpl.rc_context(RC):
        columns = max(1, len(panels))
        figure, axes = plt.subplots(1, columns, figsize=(4.4 * columns, 3.4), squeeze=False, layout="constrained")
        if not panels:
            axes[0][0].set_title("accuracy on unseen prompts, %", loc="left", fontsize=10)
            not_measured(axes[0][0])
            save(figure, stem)
            return
        for axis, (split, title) in zip(axes[0], panels, strict=True):
            ends = [
                (arm, colour, _curve(axis, arm, split, colour, style))
                for arm, colour, style in zip(result.arms, COLOURS, STYLES, strict=False)
            ]
            _direct_labels(axis, ends)
            axis.set_title(title, loc="left", fontsize=10)
            axis.set_xlabel("labels acquired")
            axis.set_xticks(every(result.arm.labels.tolist(), 6))
            axis.margins(x=0.02)
            axis.grid(axis="y", color="#000000", alpha=0.08)
        _mark_target(axes[0][0], result)
        save(figure, stem)


def not_measured(axis: Axes) -> None:
    """Say in the middle of a panel that there is nothing to draw."""
    axis.text(0.5, 0.5, "not measured", ha="center", transform=axis.transAxes, color="#555555")


def save(figure: Figure, stem: Path) -> None:
    """Write ``stem.png`` and ``stem.svg``, each whole or not at all, and close the figure."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
        part = stem.with_name(f"{stem.name}.{kind}.part")
        figure.savefig(part, format=kind, dpi=160, metadata=metadata)
        part.replace(stem.with_name(f"{stem.name}.{kind}"))
    plt.close(figure)


def band_to_draw(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and half-width of the 95% t-band over seeds, [T] each, of values [S, T]: to five digits.

    An SVG has nine of each point, of which the last ones depend on the processor.
    """
    mean, half = (np.array([float(f"{v:.5g}") for v in part]) for part in band(values))
    return mean, half


def _curve(axis: Axes, arm: Arm, split: str, colour: str, style: object) -> float:
    values = arm.curve(split, "all", "accuracy")
    assert values is not None
    mean, half = band_to_draw(100 * values)
    axis.fill_between(arm.labels, mean - half, mean + half, color=colour, alpha=0.15, linewidth=0)
    axis.plot(arm.labels, mean, color=colour, linestyle=style, linewidth=1.8, marker="o", markersize=3)
    return float(mean[-1])


def _direct_labels(axis: Axes, ends: list[tuple[Arm, str, float]]) -> None:
    low, high = axis.get_ylim()
    gap, place = (high - low) * 0.055, -float("inf")
    for arm, colour, y in sorted(ends, key=lambda end: end[2]):
        place = max(y, place + gap)
        axis.annotate(
            arm.title, (1.02, place), xycoords=("axes fraction", "data"), color=colour, va="center", fontweight="bold"
        )  # fmt: skip


def _mark_target(axis: Axes, result: Result) -> None:
    c = result.headline
    if c is None or result.baseline is None or c.saving != c.saving:
        return
    axis.axhline(round(100 * c.target, 3), color="#555555", linewidth=0.8, linestyle=":")
    reached = f"{count(c.labels_arm)} against {count(c.labels_baseline)} labels"
    words = f"{share_words(c.share)} of {result.baseline.title}'s gain: {reached}"
    axis.annotate(words, (0.99, 0.03), xycoords="axes fraction", ha="right", fontsize=8, color="#333333")
