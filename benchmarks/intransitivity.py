"""Cyclic and transitive preferences over features: what a general preference model gains and what it costs.

``python -m benchmarks.intransitivity`` writes reports/intransitivity.svg and .md in some minutes. Both problems have
24 features, whole prompts (so whole triples) held out, and noisy labels:

* cyclic: three responses a prompt, of three kinds, where kind k beats kind k + 1;
* transitive: four responses a prompt with a linear reward.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bgpm.models import Model
from bgpm.models.bt import Bt
from bgpm.models.gpm import Gpm
from bgpm.posteriors import Posterior
from bgpm.posteriors.amortized import Amortized
from bgpm.posteriors.laplace import Laplace
from bgpm.posteriors.point import Point
from bgpm.types import Comparisons, Features, Pairs

FEATURES, TESTS = 24, 2000
LABELS = (32, 64, 128, 256, 512, 1024)
SEEDS = range(100, 120)  # the amortised head's steps and rate were chosen on seeds from 0
REPORTS = Path("reports")
MODELS: dict[str, tuple[Posterior, Model]] = {
    "Bradley-Terry": (Laplace(), Bt()),
    "GPM (default)": (Point(), Gpm()),
    "BGPM (default, Laplace)": (Laplace(), Gpm()),
    "BGPM as published (amortised, unit sphere)": (Amortized(), Gpm(bt_block=False, normalize="sphere")),
}
World = tuple[Features, Comparisons, Pairs, np.ndarray]


def cyclic(labels: int, seed: int) -> World:
    """Kind k beats kind k + 1 with probability 0.95."""
    rng = np.random.default_rng([seed, 1])
    prompts = labels + TESTS // 3 + 1
    centres = np.linalg.qr(rng.standard_normal((FEATURES, 3)))[0].T * FEATURES**0.5
    kind = np.concatenate([rng.permutation(3) for _ in range(prompts)])
    responses = centres[kind] + 0.7 * rng.standard_normal((3 * prompts, FEATURES))
    rows = [(3 * q + a, 3 * q + b, q) for q in range(prompts) for a, b in itertools.combinations(range(3), 2)]
    pairs = Pairs(*np.array(rows).T.copy())
    truth = np.where((kind[pairs.response_b] - kind[pairs.response_a]) % 3 == 1, 3.0, -3.0)
    return _split(rng, responses, pairs, truth, labels, prompts)


def transitive(labels: int, seed: int) -> World:
    """A linear reward; a difference of rewards has standard deviation 3 logits."""
    rng = np.random.default_rng([seed, 2])
    prompts = labels + TESTS // 6 + 1
    responses = rng.standard_normal((4 * prompts, FEATURES))
    reward = rng.standard_normal(FEATURES)
    reward *= 3 / 2**0.5 / np.linalg.norm(reward)
    rows = [(4 * q + a, 4 * q + b, q) for q in range(prompts) for a, b in itertools.combinations(range(4), 2)]
    pairs = Pairs(*np.array(rows).T.copy())
    return _split(
        rng, responses, pairs, (responses[pairs.response_a] - responses[pairs.response_b]) @ reward, labels, prompts
    )


def _split(
    rng: np.random.Generator, responses: np.ndarray, pairs: Pairs, truth: np.ndarray, labels: int, prompts: int
) -> World:
    """Labels on the first prompts, tests on the others: no prompt is in both."""
    train = rng.permutation(np.flatnonzero(pairs.prompt < labels))[:labels]
    test = np.flatnonzero(pairs.prompt >= labels)
    label = rng.random(labels) < 1 / (1 + np.exp(-truth[train]))
    features = Features(responses.astype(np.float32), np.zeros((prompts, FEATURES), np.float32))
    return features, Comparisons(pairs.take(train), label.astype(float)), pairs.take(test), truth[test]


def measure(world: Callable[[int, int], World]) -> dict[str, np.ndarray]:
    """Held-out accuracy, [seeds, label counts], and active blocks of the default model beside it."""
    found = {name: np.zeros((len(SEEDS), len(LABELS))) for name in [*MODELS, "blocks"]}
    for (row, seed), (k, labels) in itertools.product(enumerate(SEEDS), enumerate(LABELS)):
        features, data, test, truth = world(labels, seed)
        for name, (posterior, head) in MODELS.items():
            model = posterior.fit(head, features, data, seed=seed)
            found[name][row, k] = ((model.moments(features, test).mean.numpy() > 0) == (truth > 0)).mean()
            if name.startswith("BGPM (default"):
                found["blocks"][row, k] = int(model.summary()["blocks_active"])
    return found


def table(results: dict[str, dict[str, np.ndarray]]) -> str:
    """Means over seeds as Markdown."""
    lines = [
        "Held-out accuracy on cyclic and transitive preferences over 24 features, mean of "
        f"{len(SEEDS)} seeds; labels are noisy, whole prompts held out.",
        "Made by `python -m benchmarks.intransitivity`.",
    ]
    for problem, found in results.items():
        lines += ["", f"| {problem}, labels | " + " | ".join(map(str, LABELS)) + " |", "|---" * (len(LABELS) + 1) + "|"]
        for name in MODELS:
            lines.append(f"| {name} | " + " | ".join(f"{value:.3f}" for value in found[name].mean(0)) + " |")
        lines.append("| active blocks | " + " | ".join(f"{value:.1f}" for value in found["blocks"].mean(0)) + " |")
    return "\n".join(lines) + "\n"


def draw(results: dict[str, dict[str, np.ndarray]], path: Path) -> None:
    """One panel a problem; bands span the seeds."""
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    mpl.rcParams |= {
        "svg.hashsalt": "intransitivity",
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    figure, panels = plt.subplots(1, len(results), figsize=(9.5, 3.8), sharey=True, layout="constrained")
    for panel, (problem, found) in zip(panels, results.items(), strict=True):
        # widths and order keep curves that coincide visible: a wide one below, a dashed one on top
        looks = (
            ("#1c1d1f", (0, (2, 3)), 2.2, 5),
            ("#e69f00", "-", 7, 2),
            ("#0072b2", "-", 2.6, 3),
            ("#cc79a7", "-.", 2, 4),
        )
        for name, (colour, dash, width, order) in zip(MODELS, looks, strict=True):
            accuracy = found[name]
            panel.plot(
                LABELS, accuracy.mean(0), color=colour, linestyle=dash, linewidth=width, zorder=order, label=name
            )
            panel.fill_between(LABELS, accuracy.min(0), accuracy.max(0), color=colour, alpha=0.1, linewidth=0)
        panel.set_xscale("log", base=2)
        panel.set_xticks(LABELS, map(str, LABELS))
        panel.set_ylim(0.4, 1.01)
        panel.grid(axis="y", alpha=0.25)
        panel.set_title(problem, loc="left")
        panel.set_xlabel("labels")
    panels[0].set_ylabel("held-out accuracy")
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=2, frameon=False)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    results = {"Cyclic preferences": measure(cyclic), "Transitive preferences": measure(transitive)}
    REPORTS.mkdir(exist_ok=True)
    draw(results, REPORTS / "intransitivity.svg")
    (REPORTS / "intransitivity.md").write_text(table(results), encoding="utf-8")
    print(table(results), end="")


if __name__ == "__main__":
    main()
