"""Recorded labels: every arm hears the same answer, and none is invented."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bgpm.data.tables import write_table
from bgpm.errors import ConfigError, MissingLabelError, StateError
from bgpm.oracles import Oracle, OracleFiles, Query
from bgpm.oracles.recorded import Recorded
from bgpm.registry import build

N = 4000


@pytest.fixture
def files(tmp_path: Path) -> OracleFiles:
    rng = np.random.default_rng(0)
    write_table(
        tmp_path / "truth.parquet",
        {
            "pair_id": [f"pair-{n}" for n in range(N)],
            "label": rng.integers(0, 2, N).astype(np.float64),
            "margin": rng.random(N),
        },
    )
    return OracleFiles(tmp_path / "truth.parquet", tmp_path / "annotations", tmp_path / "batch.parquet", tmp_path)


def queries(seed: int = 0, rows: range | list[int] = range(N)) -> list[Query]:
    return [Query(f"pair-{n}", seed) for n in rows]


def heard(oracle: Recorded, asked: list[Query], files: OracleFiles) -> tuple[np.ndarray, np.ndarray]:
    verdicts = oracle(asked, files)
    assert len(verdicts.annotations) == len(asked)
    return verdicts.label, verdicts.margin


def test_without_noise_the_record_is_repeated_whatever_the_order(files: OracleFiles) -> None:
    label, margin = heard(Recorded(), queries(), files)
    backwards = list(range(N))[::-1]
    again, margin_again = heard(Recorded(), queries(3, backwards), files)
    assert label.dtype == margin.dtype == np.float64
    assert 0.45 < label.mean() < 0.55
    np.testing.assert_array_equal(again, label[backwards])
    np.testing.assert_array_equal(margin_again, margin[backwards])
    assert not np.isnan(margin).any()


@pytest.mark.parametrize("noise", [0.05, 0.2, 0.45])
def test_noise_flips_its_share_of_labels_and_drops_their_margins(files: OracleFiles, noise: float) -> None:
    truth, _ = heard(Recorded(), queries(), files)
    label, margin = heard(Recorded(noise=noise), queries(), files)
    flipped = label != truth
    error = np.sqrt(noise * (1 - noise) / N)
    assert abs(flipped.mean() - noise) < 4 * error
    np.testing.assert_array_equal(label[flipped], 1 - truth[flipped])
    np.testing.assert_array_equal(np.isnan(margin), flipped)
    assert abs(flipped[truth == 1].mean() - flipped[truth == 0].mean()) < 8 * error  # to either side alike


def test_an_answer_depends_on_pair_and_seed_and_not_on_who_asks_with_it(files: OracleFiles) -> None:
    noisy = Recorded(noise=0.3)
    whole, _ = heard(noisy, queries(7), files)
    part = [5, 3999, 17, 5]
    np.testing.assert_array_equal(heard(noisy, queries(7, part), files)[0], whole[part])
    truth, _ = heard(Recorded(), queries(), files)
    flips = np.array([heard(noisy, queries(seed), files)[0] != truth for seed in (7, 8)])
    both = (flips[0] & flips[1]).mean()
    assert abs(both - 0.09) < 4 * np.sqrt(0.09 * 0.91 / N)  # seeds are independent


def test_more_noise_flips_the_same_pairs_and_more(files: OracleFiles) -> None:
    truth, _ = heard(Recorded(), queries(), files)
    few, many = (heard(Recorded(noise=noise), queries(), files)[0] != truth for noise in (0.1, 0.3))
    assert (many | ~few).all()


def test_soft_labels_and_ties_survive(tmp_path: Path) -> None:
    files = OracleFiles(tmp_path / "t.parquet", tmp_path, tmp_path / "b.parquet", tmp_path)
    ids = [f"pair-{n}" for n in range(200)]
    write_table(files.truth, {"pair_id": ids, "label": [0.5, 0.75] * 100, "margin": [np.nan] * 200})
    label, margin = heard(Recorded(noise=0.4), [Query(i, 0) for i in ids], files)
    assert set(label[::2]) == {0.5}
    assert set(label[1::2]) == {0.25, 0.75}
    assert np.isnan(margin).all()


def test_a_missing_label_is_an_error_that_counts_and_names(files: OracleFiles) -> None:
    with pytest.raises(
        MissingLabelError,
        match=r"batch\.parquet: 2 of 3 pairs have no recorded label, the first is pair-4000; .*oracle=human",
    ):
        heard(Recorded(), queries(0, [N, 0, N + 1]), files)
    write_table(files.truth, {"pair_id": ["pair-0", "pair-1"], "label": [1.0, np.nan], "margin": [np.nan, np.nan]})
    with pytest.raises(MissingLabelError, match="1 of 2 pairs have no recorded label, the first is pair-1"):
        heard(Recorded(noise=0.2), queries(0, [0, 1]), files)


def test_a_truth_that_is_absent_or_lacks_a_column_is_named(files: OracleFiles) -> None:
    write_table(files.truth, {"pair_id": ["pair-0"], "margin": [0.0]})
    with pytest.raises(StateError, match=r"truth\.parquet: no column label"):
        heard(Recorded(), queries(0, [0]), files)
    files.truth.unlink()
    with pytest.raises(StateError, match=r"truth\.parquet: cannot be read"):
        heard(Recorded(), queries(0, [0]), files)


def test_nobody_asked_nothing_answered(files: OracleFiles) -> None:
    label, margin = heard(Recorded(noise=0.1), [], files)
    assert len(label) == len(margin) == 0


@pytest.mark.parametrize("noise", [-0.1, 0.5, 1.0, float("nan"), "0.1"])
def test_noise_that_would_not_leave_the_truth_ahead_is_refused(noise: object) -> None:
    with pytest.raises(ConfigError, match=r"oracles\.recorded\.noise"):
        build(Oracle, "recorded", {"noise": noise}, "oracles")


def test_a_record_costs_nobody_anything() -> None:
    assert not Recorded().paid


def crowd(**more: object) -> Recorded:
    people = [{"name": name, "error_rate": rate} for name, rate in (("ada", 0.05), ("bo", 0.2), ("cy", 0.4))]
    return build(Oracle, "recorded", {"annotators": people, **more}, "oracles")  # type: ignore[return-value]


def votes(oracle: Recorded, files: OracleFiles, seed: int = 0) -> np.ndarray:
    """Labels of each annotator, [N, annotators]; NaN for an abstention."""
    annotations = oracle(queries(seed), files).annotations
    return np.array([[np.nan if a.label is None else a.label for a in some] for some in annotations], np.float64)


def test_annotators_err_each_at_a_rate_of_their_own_and_independently(files: OracleFiles) -> None:
    truth = Recorded()(queries(), files).label
    wrong = votes(crowd(), files) != truth[:, None]
    for share, rate in zip(wrong.mean(0), (0.05, 0.2, 0.4), strict=True):
        assert abs(share - rate) < 4 * np.sqrt(rate * (1 - rate) / N)
    together = (wrong[:, 1] & wrong[:, 2]).mean()
    assert abs(together - 0.08) < 4 * np.sqrt(0.08 * 0.92 / N)
    assert [a.annotator for a in crowd()(queries(), files).annotations[0]] == ["ada", "bo", "cy"]


def test_votes_are_averaged_or_the_majority_counts(files: OracleFiles) -> None:
    truth, margin = heard(Recorded(), queries(), files)
    each = votes(crowd(), files)
    average = crowd()(queries(), files)
    np.testing.assert_allclose(average.label, each.mean(1))
    np.testing.assert_array_equal(average.annotators, 3)
    majority = crowd(votes="majority")(queries(), files)
    np.testing.assert_array_equal(majority.label, each.mean(1) > 0.5)
    right = majority.label == truth
    expected = 1 - (0.05 * 0.2 * 0.6 + 0.05 * 0.8 * 0.4 + 0.95 * 0.2 * 0.4 + 0.05 * 0.2 * 0.4)
    assert abs(right.mean() - expected) < 4 * np.sqrt(expected * (1 - expected) / N)
    np.testing.assert_array_equal(majority.margin, np.where(right, margin, np.nan))


def test_equal_votes_are_a_tie(files: OracleFiles) -> None:
    people = [{"name": "first", "bias": 0.999}, {"name": "second", "bias": -0.999}]
    pair = build(Oracle, "recorded", {"annotators": people, "votes": "majority"}, "oracles")
    label = pair(queries(), files).label
    assert (label == 0.5).mean() > 0.99


def test_a_biased_annotator_takes_the_first_answer_without_looking(files: OracleFiles) -> None:
    truth = Recorded()(queries(), files).label
    people = [{"name": "eager", "bias": 0.3}, {"name": "late", "bias": -0.3}]
    eager, late = votes(build(Oracle, "recorded", {"annotators": people}, "oracles"), files).T  # type: ignore[arg-type]
    error = 4 * np.sqrt(0.3 * 0.7 / (0.4 * N))
    assert (eager[truth == 1] == 1).all()
    assert abs((eager[truth == 0] == 1).mean() - 0.3) < error
    assert (late[truth == 0] == 0).all()
    assert abs((late[truth == 1] == 0).mean() - 0.3) < error


def test_ties_and_abstentions_come_at_their_rates_and_only_labels_cost(files: OracleFiles) -> None:
    oracle = crowd(tie_rate=0.2, abstention=0.3, price=0.25)
    each = votes(oracle, files)
    for share, rate in ((np.isnan(each).mean(0), 0.3), ((each == 0.5).mean(0), 0.7 * 0.2)):
        assert np.abs(share - rate).max() < 4 * np.sqrt(rate * (1 - rate) / N)
    verdicts = oracle(queries(), files)
    given = (~np.isnan(each)).sum(1)
    np.testing.assert_array_equal(verdicts.annotators, given)
    np.testing.assert_allclose(verdicts.cost, 0.25 * given)
    np.testing.assert_array_equal(np.isnan(verdicts.label), given == 0)
    assert abs((given == 0).mean() - 0.027) < 4 * np.sqrt(0.027 * 0.973 / N)
    some = given > 0
    np.testing.assert_allclose(verdicts.label[some], np.nanmean(each[some], axis=1))


def test_the_same_question_has_the_same_answers_whatever_stands_beside_it(files: OracleFiles) -> None:
    oracle = crowd(tie_rate=0.1, abstention=0.2, price=1.0)
    whole = oracle(queries(3), files)
    part = oracle(queries(3, [7, 3, 11]), files)
    assert part.annotations == tuple(whole.annotations[n] for n in (7, 3, 11))
    assert {(a.source, a.at) for some in part.annotations for a in some} == {("recorded", "")}
    assert oracle(queries(4), files).annotations != whole.annotations


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"annotators": [{"name": "a"}, {"name": "a"}]}, "annotators: every name must differ, got a, a"),
        ({"annotators": [{"name": "a"}], "noise": 0.1}, "noise is for one annotator: set noise to 0"),
        ({"annotators": [{"name": ""}]}, r"oracles\.recorded\.annotators\.0\.name"),
        (
            {"annotators": [{"name": "a", "error": 0.1}]},
            r"annotators\.0\.error: unknown key; known here: name, error_rate",
        ),
        ({"annotators": [{"name": "a", "bias": 1.0}]}, r"annotators\.0\.bias"),
        ({"abstention": 1.0}, r"oracles\.recorded\.abstention"),
        ({"price": float("inf")}, r"oracles\.recorded\.price"),
        ({"votes": "loudest"}, r"oracles\.recorded\.votes"),
    ],
)
def test_annotators_that_cannot_be_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(Oracle, "recorded", settings, "oracles")
