"""Recorded labels: every arm hears the same answer, and none is invented."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bgpm.data.tables import write_table
from bgpm.errors import ConfigError, MissingLabelError, StateError
from bgpm.oracles import Oracle, OracleFiles, Question
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
    return OracleFiles(tmp_path / "truth.parquet", tmp_path / "annotations", tmp_path / "batch.parquet")


def questions(seed: int = 0, rows: range | list[int] = range(N)) -> list[Question]:
    return [Question(f"pair-{n}", seed) for n in rows]


def heard(oracle: Recorded, asked: list[Question], files: OracleFiles) -> tuple[np.ndarray, np.ndarray]:
    verdicts = oracle(asked, files)
    assert len(verdicts.answers) == len(asked)
    return verdicts.label, verdicts.margin


def test_without_noise_the_record_is_repeated_whatever_the_order(files: OracleFiles) -> None:
    label, margin = heard(Recorded(), questions(), files)
    backwards = list(range(N))[::-1]
    again, margin_again = heard(Recorded(), questions(3, backwards), files)
    assert label.dtype == margin.dtype == np.float64
    assert 0.45 < label.mean() < 0.55
    np.testing.assert_array_equal(again, label[backwards])
    np.testing.assert_array_equal(margin_again, margin[backwards])
    assert not np.isnan(margin).any()


@pytest.mark.parametrize("noise", [0.05, 0.2, 0.45])
def test_noise_flips_its_share_of_labels_and_drops_their_margins(files: OracleFiles, noise: float) -> None:
    truth, _ = heard(Recorded(), questions(), files)
    label, margin = heard(Recorded(noise=noise), questions(), files)
    flipped = label != truth
    error = np.sqrt(noise * (1 - noise) / N)
    assert abs(flipped.mean() - noise) < 4 * error
    np.testing.assert_array_equal(label[flipped], 1 - truth[flipped])
    np.testing.assert_array_equal(np.isnan(margin), flipped)
    assert abs(flipped[truth == 1].mean() - flipped[truth == 0].mean()) < 8 * error  # to either side alike


def test_an_answer_depends_on_pair_and_seed_and_not_on_who_asks_with_it(files: OracleFiles) -> None:
    noisy = Recorded(noise=0.3)
    whole, _ = heard(noisy, questions(7), files)
    part = [5, 3999, 17, 5]
    np.testing.assert_array_equal(heard(noisy, questions(7, part), files)[0], whole[part])
    truth, _ = heard(Recorded(), questions(), files)
    flips = np.array([heard(noisy, questions(seed), files)[0] != truth for seed in (7, 8)])
    both = (flips[0] & flips[1]).mean()
    assert abs(both - 0.09) < 4 * np.sqrt(0.09 * 0.91 / N)  # seeds are independent


def test_more_noise_flips_the_same_pairs_and_more(files: OracleFiles) -> None:
    truth, _ = heard(Recorded(), questions(), files)
    few, many = (heard(Recorded(noise=noise), questions(), files)[0] != truth for noise in (0.1, 0.3))
    assert (many | ~few).all()


def test_soft_labels_and_ties_survive(tmp_path: Path) -> None:
    files = OracleFiles(tmp_path / "t.parquet", tmp_path, tmp_path / "b.parquet")
    ids = [f"pair-{n}" for n in range(200)]
    write_table(files.truth, {"pair_id": ids, "label": [0.5, 0.75] * 100, "margin": [np.nan] * 200})
    label, margin = heard(Recorded(noise=0.4), [Question(i, 0) for i in ids], files)
    assert set(label[::2]) == {0.5}
    assert set(label[1::2]) == {0.25, 0.75}
    assert np.isnan(margin).all()


def test_a_missing_label_is_an_error_that_counts_and_names(files: OracleFiles) -> None:
    with pytest.raises(
        MissingLabelError,
        match=r"batch\.parquet: 2 of 3 pairs have no recorded label, the first is pair-4000; .*oracle=human",
    ):
        heard(Recorded(), questions(0, [N, 0, N + 1]), files)
    write_table(files.truth, {"pair_id": ["pair-0", "pair-1"], "label": [1.0, np.nan], "margin": [np.nan, np.nan]})
    with pytest.raises(MissingLabelError, match="1 of 2 pairs have no recorded label, the first is pair-1"):
        heard(Recorded(noise=0.2), questions(0, [0, 1]), files)


def test_a_truth_that_is_absent_or_lacks_a_column_is_named(files: OracleFiles) -> None:
    write_table(files.truth, {"pair_id": ["pair-0"], "margin": [0.0]})
    with pytest.raises(StateError, match=r"truth\.parquet: no column label"):
        heard(Recorded(), questions(0, [0]), files)
    files.truth.unlink()
    with pytest.raises(StateError, match=r"truth\.parquet: cannot be read"):
        heard(Recorded(), questions(0, [0]), files)


def test_nobody_asked_nothing_answered(files: OracleFiles) -> None:
    label, margin = heard(Recorded(noise=0.1), [], files)
    assert len(label) == len(margin) == 0


@pytest.mark.parametrize("noise", [-0.1, 0.5, 1.0, float("nan"), "0.1"])
def test_noise_that_would_not_leave_the_truth_ahead_is_refused(noise: object) -> None:
    with pytest.raises(ConfigError, match=r"oracles\.recorded\.noise"):
        build(Oracle, "recorded", {"noise": noise}, "oracles")


def test_a_record_costs_nobody_anything() -> None:
    assert not Recorded().paid
