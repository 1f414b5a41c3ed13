"""A small finished run on disk: learning curves with known shapes, as the stages would have left them."""

from __future__ import annotations

import contextlib
import csv
import functools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from bgpm.data.tables import concatenate, write_table
from bgpm.evaluation.arm import COLUMNS
from stages import report

SECTIONS = ("chat", "chat-hard", "safety", "reasoning")
METRICS = ("nll", "ece", "brier")


def params(acquisition: str, baseline: str, seeds: int, rounds: int) -> dict[str, object]:
    return {
        "acquisition": acquisition,
        "baseline": baseline,
        "seeds": list(range(seeds)),
        "rounds": [{"k": k, "next": k + 1} for k in range(rounds)],
        "batch_size": 32,
        "model": "gpm",
        "posterior": "laplace",
        "pool": {"path": "data/corpus", "hub": None},
        "benchmark": {"path": "data/corpus", "xstest_weights": "code"},
        "goal": "model",
        "oracle": "recorded",
        "oracles": {"recorded": {}, "human": {}},
        "audit": {"size": 40, "target": 0.95, "alpha": 0.05},
        "report": {"target": 0.9, "resamples": 400},
    }


class Run:
    """Writes the inputs of the report stage below a folder."""

    def __init__(
        self, root: Path, *, seeds: int = 5, rounds: int = 8, prompts: int = 60, pool_prompts: int = 200
    ) -> None:
        self.root, self.seeds, self.rounds, self.prompts = root, seeds, rounds, prompts
        self.measured = True  # whether somebody knows the pool's true labels
        self.rng = np.random.default_rng(7)
        self.difficulty = self.rng.normal(0, 0.9, prompts)
        self.pairs = self.rng.integers(4, 9, prompts)
        self._pool(pool_prompts)

    def _pool(self, prompts: int) -> None:
        rng, data = self.rng, self.root / "data"
        section = rng.choice(SECTIONS, prompts, p=(0.55, 0.1, 0.25, 0.1))
        split = np.where(np.arange(prompts) % 5 == 0, "heldout", "pool")
        texts = [
            f"Prompt {q}: which <b>answer</b> & why? " + "word " * int(rng.integers(3, 40)) for q in range(prompts)
        ]
        texts[1] = "<script>document.title='broken'</script> \u202eright to left\u202c " + "x" * 300
        write_table(
            data / "pool/prompts.parquet",
            {"prompt_id": [f"q{q}" for q in range(prompts)], "text": texts, "section": section, "split": split},
        )
        owner = np.repeat(np.arange(prompts), 4)
        responses = [
            f"Answer {r} to prompt {q}. " + "and so on " * int(rng.integers(1, 60)) for r, q in enumerate(owner)
        ]
        write_table(
            data / "pool/responses.parquet",
            {"response_id": [f"r{r}" for r in range(len(owner))], "prompt": owner, "text": responses},
        )
        response_a, response_b = (
            np.concatenate([4 * np.arange(prompts) + i for i in rows]) for rows in ((0, 0, 1), (1, 2, 3))
        )
        prompt = response_a // 4
        table = {
            "pair_id": [f"p{n}" for n in range(len(response_a))],
            "prompt": prompt,
            "response_a": response_a,
            "response_b": response_b,
        }
        write_table(
            data / "pool/pairs.parquet",
            {**table, "section": section[prompt], "subset": section[prompt], "split": split[prompt]},
        )
        self.pair_split = split[prompt]

    def params(self, acquisition: str, baseline: str, **changes: object) -> None:
        raw = params(acquisition, baseline, self.seeds, self.rounds) | changes
        (self.root / "params.yaml").write_text(yaml.safe_dump(raw, sort_keys=False), encoding="utf-8")

    def arm(
        self, name: str, accuracy: Callable[[np.ndarray], np.ndarray], *, seed: int = 0, noise: float = 0.03
    ) -> None:
        """An arm whose accuracy over label counts is ``accuracy``, up to noise between seeds and prompts."""
        rng = np.random.default_rng([seed, len(name)])
        labels = 32 * (1 + np.arange(self.rounds + 1))
        logit = np.log(accuracy(labels) / (1 - accuracy(labels)))
        logit = logit[:, None] + self.difficulty + rng.normal(0, 4 * noise, (self.seeds, len(labels), 1))
        right = rng.binomial(self.pairs, 1 / (1 + np.exp(-1.1 * logit))).astype(float)
        rows, acquired = [], []
        for s in range(self.seeds):
            pool = rng.permutation(np.flatnonzero(self.pair_split == "pool"))
            for k, n in enumerate(labels.tolist()):
                score = right[s, k].sum() / self.pairs.sum()
                rows.append((s, k, n, "heldout", "all", "accuracy", score))
                rows += [
                    (s, k, n, "heldout", "all", m, abs(v))
                    for m, v in zip(
                        METRICS,
                        (0.69 - 0.4 * (score - 0.5), rng.normal(0.06, 0.01), 0.24 - 0.2 * (score - 0.5)),
                        strict=True,
                    )
                ]
                rows.append((s, k, n, "heldout", "all", "length_rule", 0.55 + 0.01 * (k > 2)))
                parts = score + rng.normal(0, 0.02, len(SECTIONS))
                rows.append((s, k, n, "benchmark", "all", "accuracy", parts.mean()))
                rows += [
                    (s, k, n, "benchmark", section, "accuracy", v) for section, v in zip(SECTIONS, parts, strict=True)
                ]
                rows += self.pool(s, k, n, score, rng)
                rows += [
                    (s, k, n, "model", "all", m, v)
                    for m, v in (("tau", 1.0), ("prior_precision", 4.5e-4 * 2**k), ("blocks_active", float(k > 3)))
                ]
                size = 32
                part = pool[(size * k) % len(pool) :][:size]
                acquired.append(
                    {
                        "seed": np.full(len(part), s),
                        "round": np.full(len(part), k),
                        "pair": part,
                        "pair_id": np.array([f"p{p}" for p in part]),
                        "label": rng.integers(0, 2, len(part)).astype(float),
                        "margin": np.full(len(part), np.nan),
                        **{
                            n: rng.normal(0, 1, len(part)) if k else np.full(len(part), np.nan)
                            for n in ("value", "mean")
                        },
                        "variance": rng.uniform(0.2, 2, len(part)) if k else np.full(len(part), np.nan),
                    }
                )
        folder = self.root / "data" / name / f"round-{self.rounds}"
        (folder / "evaluation").mkdir(parents=True)
        with (folder / "evaluation/curve.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])
        with (folder / "evaluation/figures.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["seed", "figure", "series", "x", "y", "count"])
            for s in range(self.seeds):
                for b in range(10):
                    x = 0.525 + 0.05 * b
                    if b < 9 or s % 2:  # a bin may be empty under some seed
                        writer.writerow([s, "reliability", f"{x:.2f}", x, x - 0.03 + rng.normal(0, 0.01), 10 + b])
                for share in np.arange(1, 21) / 20:
                    for metric in ("entropy", "sd"):
                        writer.writerow([s, "coverage", metric, share, 0.9 - 0.2 * share + rng.normal(0, 0.01), 9])
                for n in range(1, 5):
                    writer.writerow([s, "best_of_n", "model", n, 0.5 + 0.06 * (n - 1) + 0.001 * s, 31])
                    writer.writerow([s, "best_of_n", "oracle", n, 0.5 + 0.1 * (n - 1), 31])
        grid = np.indices(right.shape).reshape(3, -1)
        write_table(
            folder / "evaluation/prompts.parquet",
            {
                "seed": grid[0],
                "round": grid[1],
                "prompt": 5 * grid[2],
                "pairs": self.pairs[grid[2]].astype(float),
                "right": right.ravel(),
            },
        )
        write_table(folder / "labels.parquet", concatenate(acquired))

    def pool(self, s: int, k: int, n: int, score: float, rng: np.random.Generator) -> list[tuple[object, ...]]:
        """Rows of the second prize on a pool of 400 pairs whose inferred labels are a little better than held-out."""
        wrong = float(rng.binomial(40, max(0.0, 0.9 - score)))
        rows = {
            "right": min(1.0, (n + (400 - n) * (score + 0.22)) / 400),
            "pairs": 400.0,
            **{f"export_{p}_{name}": 0.9 for p in (0.8, 0.9, 0.95) for name in ("share", "right", "stated")},
            **{"audit_pool": 400.0, "audit_given": float(n), "audit_inferred": 400.0 - n, "audit_audited": 40.0},
            "audit_wrong": wrong,
        }
        return [(s, k, n, "pool", "all", m, v) for m, v in rows.items()] if self.measured else []

    def extras(self) -> None:
        """Side files: baselines and timings."""
        rule = {"heldout": {"all": 0.55}, "benchmark": {"all": 0.5} | dict.fromkeys(SECTIONS, 0.5)}
        value = {
            "labels": 288,
            "notes": ["length: the longer response is taken for the better one"],
            "rules": {"first": rule, "length": rule, "words": rule},
        }
        (self.root / "data/baselines.json").write_text(json.dumps(value), encoding="utf-8")
        benchmark = {"rule": "pairs", "unpublished subsets": {"<i>mine": 3}, "dropped": {"tie": {"count": 2}}}
        (self.root / "data/truth").mkdir()
        (self.root / "data/truth/summary.json").write_text(json.dumps({"pool": {}, "benchmark": benchmark}))
        (self.root / ".timings").mkdir()
        for name in (
            "prepare",
            "embed-pool",
            "train-start",
            "train-entropy-1",
            "train-random-1",
            "train-mv-1",
            "train-entropy-30",
        ):
            cost = {"seconds": 2.0, "cpu_seconds": 1.5, "peak_mib": 512.0}
            (self.root / f".timings/{name}.json").write_text(json.dumps(cost), encoding="utf-8")


def climbing(speed: float, top: float) -> Callable[[np.ndarray], np.ndarray]:
    """An accuracy that climbs from 0.55 to ``top``, ``speed`` times as fast as e-folding in 100 labels."""
    return lambda labels: 0.55 + (top - 0.55) * (1 - np.exp(-(labels - 32) * speed / 100))


SAVED = {"entropy": (2.6, 0.72), "random": (0.8, 0.72)}  # speed and top of each arm


def make_run(
    root: Path,
    arms: dict[str, tuple[float, float]] = SAVED,
    *,
    seeds: int = 5,
    rounds: int = 8,
    extras: bool = True,
    measured: bool = True,
    pool_prompts: int = 200,
    **changes: object,
) -> Path:
    """Write a finished run into a folder."""
    run = Run(root, seeds=seeds, rounds=rounds, pool_prompts=pool_prompts)
    run.measured = measured
    acquisition, *_, baseline = [*arms, *arms]  # one arm alone is its own baseline
    run.params(acquisition, baseline, **changes)
    for seed, (name, shape) in enumerate(arms.items()):
        run.arm(name, climbing(*shape), seed=seed)
    if extras:
        run.extras()
    return root


@pytest.fixture
def finished_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Make a finished run in a folder of its own, which becomes the working directory."""
    monkeypatch.chdir(tmp_path)
    return functools.partial(make_run, tmp_path)


def reported(root: Path, **settings: int) -> Path:
    """A finished run with its report, for tests that only read."""
    with contextlib.chdir(make_run(root, **settings)):
        report.main()
    return root


@pytest.fixture(scope="module")
def reported_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reported(tmp_path_factory.mktemp("reported"))


@pytest.fixture(scope="module")
def reported_by_20(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reported(tmp_path_factory.mktemp("reported-by-20"), seeds=20)
