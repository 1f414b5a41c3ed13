"""One point of a learning curve against slow, obvious sums."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from bgpm import functional as F
from bgpm.data.subsets import REWARDBENCH, SECTION_OF
from bgpm.evaluation.accuracy import correct
from bgpm.evaluation.benchmark import benchmark_score
from bgpm.evaluation.curve import CurveRow, heldout_rows, length_rule, mean_nll, probabilities
from bgpm.evaluation.curve import benchmark_rows as rows_of_score
from bgpm.evaluation.labelled_pairs import Split
from bgpm.evaluation.rewardbench import section_scores
from bgpm.types import Pairs, ScoreMoments

N = 400


def moments(mean: object, variance: object = 0.0, tau: float = 1.0) -> ScoreMoments:
    m = torch.as_tensor(np.asarray(mean, np.float64))
    return ScoreMoments(m, torch.as_tensor(np.broadcast_to(np.asarray(variance, np.float64), m.shape).copy()), tau)


def benchmark_rows(
    m: ScoreMoments, label: np.ndarray, section: np.ndarray, subset: np.ndarray, *, xstest: str
) -> Iterator[CurveRow]:
    rows = np.arange(len(label))
    split = Split(Pairs(rows, rows, rows), label, section, subset, rows)
    return rows_of_score(m, label, benchmark_score(m.mean.numpy(), split, xstest))


def values(rows: object) -> dict[tuple[str, str, str], float]:
    seen: dict[tuple[str, str, str], float] = {}
    for split, section, metric, value in rows:  # type: ignore[attr-defined]
        assert type(value) is float
        assert (split, section, metric) not in seen, "two rows of one name"
        seen[split, section, metric] = value
    return seen


@pytest.fixture
def example() -> tuple[ScoreMoments, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    section = rng.choice(["east", "west", ""], N)
    return moments(rng.normal(0, 2, N), rng.gamma(2, 1, N), 0.7), rng.integers(0, 2, N).astype(np.float64), section


def test_right_wrong_and_tied() -> None:
    mean = np.array([2.0, -2.0, 2.0, -2.0, 0.0, 0.0, 5.0, 1e-300])
    label = np.array([1.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.5, 0.9])
    np.testing.assert_array_equal(correct(mean, label, tie=0.5), [1, 0, 0, 1, 0.5, 0.5, np.nan, 1])
    np.testing.assert_array_equal(correct(mean, label, tie=0.0), [1, 0, 0, 1, 0, 0, np.nan, 1])


def test_heldout_numbers_are_the_obvious_averages(example: tuple[ScoreMoments, np.ndarray, np.ndarray]) -> None:
    m, label, section = example
    got = values(heldout_rows(m, label, section))
    nodes, node_weights = np.polynomial.hermite_e.hermegauss(200)
    p = np.array(
        [
            float(np.sum(node_weights / node_weights.sum() / (1 + np.exp(-(mu + sd * nodes) / m.tau))))
            for mu, sd in zip(m.mean.tolist(), m.variance.sqrt().tolist(), strict=True)
        ]
    )
    right = [(s > 0) == (y > 0.5) for s, y in zip(m.mean.tolist(), label, strict=True)]
    assert got["heldout", "all", "accuracy"] == pytest.approx(sum(right) / N, abs=1e-12)
    for name in ("east", "west"):
        here = [r for r, s in zip(right, section, strict=True) if s == name]
        assert got["heldout", name, "accuracy"] == pytest.approx(sum(here) / len(here), abs=1e-12)
    of_label = np.where(label == 1, p, 1 - p)
    assert got["heldout", "all", "nll"] == pytest.approx(-np.log(of_label).mean(), abs=1e-6)
    assert got["heldout", "all", "brier"] == pytest.approx(((p - label) ** 2).mean(), abs=1e-6)
    assert got["heldout", "all", "mean_probability_of_winner"] == pytest.approx(of_label.mean(), abs=1e-6)
    confidence, hit = np.maximum(p, 1 - p), np.where(p > 0.5, label, 1 - label)
    ece = 0.0
    for low in np.arange(10) / 20 + 0.5:
        bucket = (confidence >= low) & (confidence < low + 0.05)
        if bucket.any():
            ece += bucket.mean() * abs(hit[bucket].mean() - confidence[bucket].mean())
    assert got["heldout", "all", "ece"] == pytest.approx(ece, abs=1e-5)
    assert {key[1] for key in got} == {"all", "east", "west"}  # pairs without a section count in `all` alone


def test_the_order_of_answers_changes_no_number(example: tuple[ScoreMoments, np.ndarray, np.ndarray]) -> None:
    m, label, section = example
    turned = values(heldout_rows(moments(-m.mean.numpy(), m.variance.numpy(), m.tau), 1 - label, section))
    assert turned == pytest.approx(values(heldout_rows(m, label, section)), abs=1e-12)


def test_score_and_temperature_scale_together(example: tuple[ScoreMoments, np.ndarray, np.ndarray]) -> None:
    m, _, _ = example
    scaled = moments(10 * m.mean.numpy(), 100 * m.variance.numpy(), 10 * m.tau)
    np.testing.assert_allclose(probabilities(scaled), probabilities(m), atol=1e-12)


def test_tied_labels_are_no_accuracy_but_a_likelihood() -> None:
    got = values(heldout_rows(moments([1.0, -1.0, 3.0]), np.array([1.0, 0.5, 0.5]), np.array(["a", "a", "b"])))
    assert got["heldout", "all", "accuracy"] == 1.0
    assert got["heldout", "a", "accuracy"] == 1.0
    assert ("heldout", "b", "accuracy") not in got
    nll = [math.log1p(math.exp(-1)), math.log1p(math.exp(-1)) + 0.5, math.log1p(math.exp(-3)) + 1.5]
    assert got["heldout", "all", "nll"] == pytest.approx(np.mean(nll), abs=1e-9)
    assert got["heldout", "all", "mean_probability_of_winner"] == pytest.approx(1 / (1 + math.exp(-1)), abs=1e-9)


def test_a_model_that_is_sure_and_wrong_is_measured_and_not_refused() -> None:
    m = moments([1000.0, -1000.0, 800.0], 0.0)
    label = np.array([0.0, 1.0, 1.0])
    assert probabilities(m).tolist() == [1.0, 0.0, 1.0]
    assert values(heldout_rows(m, label, np.array(["", "", ""])))["heldout", "all", "nll"] == pytest.approx(2000 / 3)
    name = np.array(["a"] * 3)
    assert values(benchmark_rows(m, label, name, name, xstest="code"))["benchmark", "all", "nll"] == pytest.approx(
        2000 / 3
    )


def test_likelihood_from_logits_is_likelihood_from_probabilities(
    example: tuple[ScoreMoments, np.ndarray, np.ndarray],
) -> None:
    m, label, _ = example
    plain = float(F.negative_log_likelihood(torch.from_numpy(probabilities(m)), torch.from_numpy(label)))
    assert mean_nll(m, label) == pytest.approx(plain, abs=1e-12)


def benchmark(rng: np.random.Generator, subsets: list[str], sections: dict[str, str], each: int) -> tuple[object, ...]:
    subset = np.repeat(subsets, each)
    label = rng.integers(0, 2, len(subset)).astype(np.float64)
    section = np.array([sections[name] for name in subset])
    return moments(rng.normal(0, 1, len(subset)).round(1)), label, section, subset


def test_rewardbench_subsets_are_scored_by_its_weights_and_a_tie_scores_0() -> None:
    m, label, section, subset = benchmark(np.random.default_rng(0), sorted(SECTION_OF), SECTION_OF, 23)
    assert (m.mean == 0).any()
    got = values(benchmark_rows(m, label, section, subset, xstest="dataset"))
    accuracy = {}
    for name in SECTION_OF:
        scored = zip(m.mean[subset == name].tolist(), label[subset == name].tolist(), strict=True)
        wins = [(s > 0 and y == 1) or (s < 0 and y == 0) for s, y in scored]
        accuracy[name] = sum(wins) / len(wins)
        assert got["benchmark", f"subset:{name}", "accuracy"] == pytest.approx(accuracy[name], abs=1e-12)
    for name, score in section_scores(accuracy, "dataset").items():
        assert got["benchmark", name, "accuracy"] == pytest.approx(score.score, abs=1e-12)
        assert got["benchmark", name, "missing_subsets"] == 0
    assert got["benchmark", "all", "accuracy"] == pytest.approx(
        sum(got["benchmark", name, "accuracy"] for name in REWARDBENCH) / 4, abs=1e-12
    )
    other = values(benchmark_rows(m, label, section, subset, xstest="code"))
    assert other["benchmark", "safety", "accuracy"] != got["benchmark", "safety", "accuracy"]
    assert other["benchmark", "reasoning", "accuracy"] == got["benchmark", "reasoning", "accuracy"]


def test_a_partial_rewardbench_says_what_it_lacks() -> None:
    names = ["math-prm", "hep-go", "donotanswer"]
    args = benchmark(np.random.default_rng(1), names, SECTION_OF, 8)
    got = values(benchmark_rows(*args, xstest="code"))  # type: ignore[arg-type]
    lacks = {section: value for (_, section, metric), value in got.items() if metric == "missing_subsets"}
    assert lacks == {"chat": 5.0, "chat-hard": 6.0, "safety": 4.0, "reasoning": 5.0}
    assert ("benchmark", "chat", "accuracy") not in got
    accuracy = {name: got["benchmark", f"subset:{name}", "accuracy"] for name in names}
    reasoning = (984 * accuracy["math-prm"] + 164 * accuracy["hep-go"]) / 1148
    assert got["benchmark", "reasoning", "accuracy"] == pytest.approx(reasoning, abs=1e-12)
    assert got["benchmark", "all", "accuracy"] == pytest.approx((reasoning + accuracy["donotanswer"]) / 2, abs=1e-12)


def test_a_subset_of_ones_own_does_not_switch_rewardbenchs_weights_off() -> None:
    names, sections = sorted(SECTION_OF), SECTION_OF | {"house-style": "chat"}
    m, label, section, subset = benchmark(np.random.default_rng(2), [*names, "house-style"], sections, 12)
    official = subset != "house-style"
    alone = values(
        benchmark_rows(
            moments(m.mean[official].numpy()), label[official], section[official], subset[official], xstest="code"
        )
    )
    got = values(benchmark_rows(m, label, section, subset, xstest="code"))
    assert all(got[key] == alone[key] for key in alone if key[1] in REWARDBENCH)
    assert any(key[1] == "reasoning" for key in alone)
    assert got["benchmark", "all", "accuracy"] == alone["benchmark", "all", "accuracy"]
    assert ("benchmark", "subset:house-style", "accuracy") in got


def test_another_benchmark_is_the_mean_of_its_sections_over_pairs() -> None:
    m = moments([1.0, 1.0, 1.0, -1.0, 0.0])
    label = np.ones(5)
    section, subset = np.array(["x", "x", "x", "y", "y"]), np.array(["s", "t", "t", "u", "u"])
    got = values(benchmark_rows(m, label, section, subset, xstest="code"))
    assert got["benchmark", "x", "accuracy"] == 1.0
    assert got["benchmark", "y", "accuracy"] == 0.0
    assert got["benchmark", "all", "accuracy"] == 0.5
    assert got["benchmark", "subset:t", "accuracy"] == 1.0
    assert not any(metric == "missing_subsets" for _, _, metric in got)


def test_a_benchmark_whose_first_answer_is_always_chosen_is_scored_like_its_shuffle() -> None:
    rng = np.random.default_rng(5)
    m, _, section, subset = benchmark(rng, sorted(SECTION_OF), SECTION_OF, 9)
    chosen_first = values(benchmark_rows(m, np.ones(len(subset)), section, subset, xstest="code"))
    turn = rng.random(len(subset)) < 0.5
    shuffled = moments(np.where(turn, -m.mean.numpy(), m.mean.numpy()))
    assert values(benchmark_rows(shuffled, 1.0 - turn, section, subset, xstest="code")) == pytest.approx(
        chosen_first, abs=1e-12
    )


@pytest.mark.parametrize(
    ("known_gap", "known_label", "expected"),
    [
        ([3, 2, -1], [1, 1, 1], 0.625),  # longer wins 2 to 1
        ([3, 2, -1], [0, 0, 0], 0.375),  # shorter wins 2 to 1
        ([3, -2], [1, 1], 0.625),  # undecided: longer
        ([0, 0, -4], [1, 1, 1], 0.375),  # equal lengths say nothing
        ([3, 3, -3], [0.5, np.nan, 1], 0.375),  # nor do ties or unknown labels
    ],
)
def test_the_length_rule_learns_its_direction_from_known_labels_only(
    known_gap: list[float], known_label: list[float], expected: float
) -> None:
    gap, label = (
        np.array([5, 5, -5, 0, 9]),
        np.array([1.0, 0.0, 0.0, 1.0, 0.5]),
    )  # longer: right, wrong, right, half, tie
    assert length_rule(np.array(known_gap), np.array(known_label), gap, label) == expected


def test_rows_are_named_for_the_reports_that_read_them() -> None:
    rows: list[CurveRow] = list(heldout_rows(moments([1.0]), np.array([1.0]), np.array(["chat"])))
    assert [row[:3] for row in rows] == [
        ("heldout", "all", name)
        for name in (
            *("accuracy", "nll", "brier", "ece", "mean_probability_of_winner"),
            *("aurc_entropy", "error_auroc_entropy", "aurc_sd", "error_auroc_sd"),
        )
    ] + [("heldout", "chat", "accuracy")]
