"""Agreement and error rates, against published examples and a slow, obvious maximum."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from bgpm.annotations.agreement import cohen, error_rates, fleiss

LabelsByPair = dict[str, dict[str, float]]


def drawn(rng: np.random.Generator, pairs: int, rates: dict[str, float], share: float = 1.0) -> LabelsByPair:
    """LabelsByPair under the model itself; each person answers a share of the pairs."""
    truth = rng.integers(0, 2, pairs)
    return {
        f"p{n}": {r: float(t ^ (rng.random() < e)) for r, e in rates.items() if rng.random() < share}
        for n, t in enumerate(truth.tolist())
    }


def test_cohens_kappa_is_that_of_scikit_learn_over_the_pairs_that_both_answered() -> None:
    rng = np.random.default_rng(0)
    mine, yours = rng.choice([0, 0.5, 1], 80), rng.choice([0, 0.5, 1], 80)
    yours = np.where(rng.random(80) < 0.5, mine, yours)
    annotations = {
        f"p{n}": {"ada": a, "bo": b} for n, (a, b) in enumerate(zip(mine.tolist(), yours.tolist(), strict=True))
    }
    annotations |= {"alone": {"ada": 1.0}, "others": {"bo": 0.0, "cy": 1.0}}
    found = cohen(annotations, "ada", "bo")
    assert found.pairs == 80
    assert found.raw == pytest.approx((mine == yours).mean())
    assert found.kappa == pytest.approx(cohen_kappa_score(2 * mine, 2 * yours))


def test_fleiss_kappa_of_a_table_worked_by_hand() -> None:
    # Three raters, four pairs: AAA, AAB, ABB, BBB. Raw: (1 + 1/3 + 1/3 + 1) / 4 = 2/3. Chance: 1/2. Kappa: 1/3.
    said = {"p": (1.0, 1.0, 1.0), "q": (1.0, 1.0, 0.0), "r": (1.0, 0.0, 0.0), "s": (0.0, 0.0, 0.0)}
    found = fleiss({pair: dict(zip("xyz", labels, strict=True)) for pair, labels in said.items()})
    assert (found.pairs, found.raw, found.kappa) == (4, pytest.approx(2 / 3), pytest.approx(1 / 3))


def test_agreement_of_nobody_and_of_people_who_always_say_the_same() -> None:
    assert fleiss({"p": {"ada": 1.0}}).pairs == 0
    assert math.isnan(cohen({"p": {"ada": 1.0}}, "ada", "bo").raw)
    same = {f"p{n}": {"ada": 1.0, "bo": 1.0} for n in range(3)}
    assert fleiss(same).raw == 1.0
    assert math.isnan(fleiss(same).kappa)


def log_likelihood(annotations: LabelsByPair, rate: dict[str, float]) -> float:
    """Log of the probability of every answer, the better answer summed out."""
    total = 0.0
    for said in annotations.values():
        if_a = math.prod(1 - rate[r] if x == 1 else rate[r] for r, x in said.items())
        if_b = math.prod(1 - rate[r] if x == 0 else rate[r] for r, x in said.items())
        total += math.log((if_a + if_b) / 2)
    return total


def test_error_rates_are_where_the_likelihood_is_greatest() -> None:
    annotations = drawn(np.random.default_rng(3), 60, {"ada": 0.05, "bo": 0.2, "cy": 0.3}, share=0.8)
    found = error_rates(annotations)
    shared = {p: said for p, said in annotations.items() if len(said) > 1}
    assert {r: n for r, (_, n) in found.items()} == {r: sum(r in said for said in shared.values()) for r in found}
    rate = {r: e for r, (e, _) in found.items()}
    top = log_likelihood(shared, rate)
    for r in rate:  # no step along a person's rate, nor a move of all at once, gives more
        for step in (-0.02, -0.002, 0.002, 0.02):
            if 0 < rate[r] + step < 0.5:
                assert log_likelihood(shared, {**rate, r: rate[r] + step}) < top
    rng = np.random.default_rng(0)
    assert all(log_likelihood(shared, {r: float(rng.uniform(0.01, 0.49)) for r in rate}) < top for _ in range(300))


def test_error_rates_find_the_truth_in_many_answers_whatever_the_ties() -> None:
    rates = {"ada": 0.02, "bo": 0.15, "cy": 0.3}
    annotations = drawn(np.random.default_rng(1), 4000, rates)
    annotations["tie"] = {"ada": 0.5, "bo": 0.5}
    found = error_rates(annotations)
    for name, rate in rates.items():
        assert found[name][0] == pytest.approx(rate, abs=4 * math.sqrt(rate / 4000) + 0.01)
        assert found[name][1] == 4000


def test_two_people_get_equal_rates_that_explain_how_often_they_agree() -> None:
    annotations = {f"p{n}": {"ada": 1.0, "bo": float(n % 5 > 0)} for n in range(100)}
    rate, n = error_rates(annotations)["ada"]
    assert error_rates(annotations)["bo"] == (pytest.approx(rate), n)
    assert 2 * rate * (1 - rate) == pytest.approx(0.2, abs=1e-6)


def test_people_who_share_no_pair_have_no_error_rate() -> None:
    assert error_rates({"p": {"ada": 1.0}, "q": {"bo": 0.0}}) == {}
