"""The statistics of label savings, against hand-made curves, slow references and simulation."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.isotonic import isotonic_regression

from bgpm.errors import ShapeError
from bgpm.evaluation import savings as sv

LABELS = np.array([100.0, 200.0, 300.0, 400.0, 500.0])
STEADY = np.array([0.5, 0.6, 0.7, 0.8, 0.9])
FAST = np.array([0.5, 0.7, 0.9, 0.9, 0.9])  # gets everything in half of the labels
SLOW = np.array([0.5, 0.5, 0.6, 0.6, 0.7])


def trials(curves: np.ndarray, prompts: int = 3) -> sv.Trials:
    """Trials whose accuracy is the same on every prompt, from curves [S, T]."""
    pairs = np.full(prompts, 4.0)
    return sv.Trials(LABELS[: curves.shape[1]], curves[:, :, None] * pairs, pairs)


def compared(arm: np.ndarray, baseline: np.ndarray, share: float, draws: int = 500) -> sv.Comparison:
    return sv.compare(sv.resample(trials(arm), trials(baseline), draws, np.random.default_rng(0)), share)


def simulated(
    seeds: int, speeds: tuple[float, float], rng: np.random.Generator, points: int = 9, prompts: int = 40
) -> list[sv.Trials]:
    """Two arms with saturating mean curves; seeds wander, prompts differ and learn at their own pace."""
    labels = np.linspace(32, 288, points)
    start, difficulty, pace = (
        rng.normal(0, 0.01, (seeds, 1)),
        rng.normal(0, 0.15, prompts),
        rng.normal(0, 0.05, prompts),
    )
    pairs, arms = np.full(prompts, 6.0), []
    for speed in speeds:
        progress = 1 - np.exp(-(labels - 32) * speed / 110)
        mean = 0.55 + 0.2 * progress + start + np.cumsum(rng.normal(0, 0.008, (seeds, points)), 1)
        response = (
            mean[:, :, None] + difficulty + progress[:, None] * pace + rng.normal(0, 0.1, (seeds, points, prompts))
        )
        arms.append(sv.Trials(labels, response * pairs, pairs))
    return arms


def test_isotonic_curves_are_those_of_pooling_adjacent_violators() -> None:
    curves = np.random.default_rng(0).normal(size=(200, 12)) + np.linspace(0, 2, 12)
    expected = np.stack([isotonic_regression(curve) for curve in curves])
    assert np.abs(sv.isotonic(curves) - expected).max() < 1e-12
    assert (np.diff(sv.isotonic(curves)) >= 0).all()


def test_a_curve_that_rises_already_is_not_smoothed() -> None:
    assert sv.isotonic(STEADY) == pytest.approx(STEADY, abs=1e-15)


@pytest.mark.parametrize(
    ("target", "expected"), [(0.5, 100), (0.4, 100), (0.55, 150), (0.6, 200), (0.9, 500), (0.9000001, np.inf)]
)
def test_labels_to_a_target_are_interpolated_and_never_extrapolated(target: float, expected: float) -> None:
    assert float(sv.labels_to(LABELS, STEADY, np.array(target))) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("share", "expected"), [(0.5, 1 - 200 / 300), (0.75, 1 - 250 / 400), (0.9, 1 - 280 / 460), (1.0, 1 - 300 / 500)]
)
def test_the_saving_is_exact_on_hand_made_curves(share: float, expected: float) -> None:
    assert float(sv.savings(LABELS, FAST, STEADY, share)) == pytest.approx(expected)
    c = compared(np.stack([FAST] * 3), np.stack([STEADY] * 3), share)
    assert c.saving == pytest.approx(expected)
    assert c.target == pytest.approx(0.5 + 0.4 * share)
    assert c.labels_arm / c.labels_baseline == pytest.approx(1 - expected)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 1.0])
def test_an_arm_saves_nothing_against_itself_however_early_it_is_done(share: float) -> None:
    assert float(sv.savings(LABELS, FAST, FAST, share)) == 0.0


def test_a_slower_arm_saves_less_than_nothing() -> None:
    assert float(sv.savings(LABELS, SLOW, STEADY, 0.25)) == pytest.approx(1 - 300 / 200)


@settings(max_examples=50, deadline=None)
@given(st.floats(-0.4, 0.4), st.floats(0.1, 2.0), st.floats(0.05, 1.0))
def test_shifting_and_stretching_accuracy_changes_no_saving(shift: float, stretch: float, share: float) -> None:
    arm, baseline = np.array([0.5, 0.58, 0.57, 0.66, 0.7]), np.array([0.5, 0.52, 0.6, 0.59, 0.68])
    changed = sv.savings(LABELS, shift + stretch * arm, shift + stretch * baseline, share)
    assert float(changed) == pytest.approx(float(sv.savings(LABELS, arm, baseline, share)), abs=1e-9)


def test_a_target_that_is_not_reached_is_censored() -> None:
    c = compared(np.stack([SLOW] * 4), np.stack([STEADY] * 4), 0.9)
    assert c.saving == -np.inf
    assert c.labels_arm == np.inf
    assert c.labels_baseline == pytest.approx(460)
    assert c.reached == 0.0
    assert c.interval == sv.Interval(-np.inf, -np.inf, "percentile", "the estimate itself does not reach the target")


def test_a_baseline_that_gains_nothing_gives_no_target() -> None:
    c = compared(np.stack([FAST] * 3), np.full((3, 5), 0.6), 0.9)
    assert np.isnan([c.saving, c.labels_arm, c.labels_baseline]).all()
    assert c.interval is None


def test_a_draw_without_any_gain_counts_as_not_reached() -> None:
    c = compared(np.stack([FAST, FAST]), np.stack([STEADY, np.full(5, 0.5)]), 0.5)
    assert c.reached == pytest.approx(0.75, abs=0.06)  # one draw in four takes the seed that learns nothing twice
    assert c.interval.low == -np.inf


def test_a_single_seed_has_no_interval_and_no_null_control() -> None:
    c = compared(FAST[None], STEADY[None], 0.9)
    assert c.saving == pytest.approx(1 - 280 / 460)
    assert (c.interval, c.null) == (None, None)
    resamples = sv.resample(trials(FAST[None]), trials(STEADY[None]), 100, np.random.default_rng(0))
    assert sv.aulc_difference(resamples).interval is None


def test_censored_draws_keep_their_place_below_every_reached_one() -> None:
    draws = np.concatenate([np.full(200, -np.inf), np.linspace(0.0, 0.8, 1800)])
    interval = sv.bca(0.5, draws, [np.array([0.4, 0.5, 0.6])])
    assert (interval.low, interval.method) == (-np.inf, "percentile")
    assert interval.high == pytest.approx(np.quantile(draws[200:], (0.975 * 2000 - 200) / 1800), abs=1e-3)
    assert interval.reason == "10% of the draws do not reach the target"
    dropped = sv.quantile(draws[200:], 0.025)
    assert dropped > 0  # what leaving them out would have claimed


@pytest.mark.parametrize(
    ("estimate", "draws", "left_out", "reason"),
    [
        (0.5, np.linspace(0, 1, 101), np.array([0.4, -np.inf]), "without one of the seeds"),
        (1.5, np.linspace(0, 1, 101), np.array([0.4, 0.6]), "one side"),
        (0.5, np.linspace(0, 1, 101), np.array([0.5, 0.5]), "changes nothing"),
    ],
)
def test_where_bca_is_undefined_the_percentile_interval_says_why(
    estimate: float, draws: np.ndarray, left_out: np.ndarray, reason: str
) -> None:
    interval = sv.bca(estimate, draws, [left_out])
    assert interval.method == "percentile"
    assert reason in interval.reason
    assert (interval.low, interval.high) == pytest.approx((0.02, 0.98))


def test_bca_is_the_one_of_scipy_on_a_skewed_sample() -> None:
    from scipy import stats

    sample = np.random.default_rng(3).exponential(size=25)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        reference = stats.bootstrap((sample,), np.mean, n_resamples=20_000, method="BCa", random_state=0)
    draws = reference.bootstrap_distribution
    left_out = np.array([np.delete(sample, i).mean() for i in range(len(sample))])
    ours = sv.bca(float(sample.mean()), draws, [left_out])
    theirs = reference.confidence_interval
    assert ours.method == "bca"
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=2e-3)
    assert abs(ours.low - np.quantile(draws, 0.025)) > 0.02  # the correction is not nothing here


def test_resampled_curves_are_those_of_repeating_seeds_and_prompts_one_by_one() -> None:
    rng = np.random.default_rng(5)
    pairs = rng.integers(1, 7, 11).astype(float)
    right = rng.binomial(pairs.astype(int), 0.6, (4, 5, 11)).astype(float)
    by_seed, by_prompt = sv.draw_counts(4, 20, rng), sv.draw_counts(11, 20, rng)
    fast = sv.resampled(sv.Trials(LABELS, right, pairs), by_seed, by_prompt)
    for n in range(20):
        seeds = np.repeat(np.arange(4), by_seed[n].astype(int))
        prompts = np.repeat(np.arange(11), by_prompt[n].astype(int))
        slow = [np.mean([right[s, t, prompts].sum() / pairs[prompts].sum() for s in seeds]) for t in range(5)]
        assert fast[n] == pytest.approx(slow, abs=1e-12)


def test_draws_are_paired_so_that_what_arms_share_cancels() -> None:
    rng = np.random.default_rng(0)
    shared = STEADY + rng.normal(0, 0.1, (6, 1))
    resamples = sv.resample(trials(shared + 0.01), trials(shared), 400, rng)
    difference = sv.aulc_difference(resamples)
    assert difference.value == pytest.approx(0.01)
    assert np.ptp(sv.aulc(LABELS, resamples.draws[0]) - sv.aulc(LABELS, resamples.draws[1])) < 1e-12
    assert np.ptp(sv.aulc(LABELS, resamples.draws[0])) > 0.05


def test_the_p_value_of_equal_areas_counts_draws_on_the_rarer_side() -> None:
    rng = np.random.default_rng(0)
    arms = simulated(8, (1.1, 1.0), rng)
    resamples = sv.resample(*arms, 999, rng)
    assert resamples.draws is not None
    areas = zip(*resamples.draws, strict=True)
    above = sum(sv.aulc(resamples.labels, a) > sv.aulc(resamples.labels, b) for a, b in areas)
    assert 0 < above < 999
    assert sv.aulc_p_value(resamples) == pytest.approx(2 * (min(above, 999 - above) + 1) / 1000)
    ahead = sv.resample(trials(STEADY + np.full((4, 1), 0.01)), trials(np.tile(STEADY, (4, 1))), 999, rng)
    assert sv.aulc_p_value(ahead) == pytest.approx(2 / 1000)
    same = sv.resample(arms[0], arms[0], 99, rng)
    assert sv.aulc_p_value(same) == 1
    assert np.isnan(sv.aulc_p_value(sv.resample(trials(STEADY[None]), trials(FAST[None]), 99, rng)))


def test_p_values_are_false_as_often_as_they_say_where_nothing_differs() -> None:
    rng = np.random.default_rng(1)
    found = [sv.aulc_p_value(sv.resample(*simulated(20, (1.0, 1.0), rng), 200, rng)) for _ in range(200)]
    assert 0.02 < np.mean(np.array(found) < 0.1) < 0.19


def test_holm_multiplies_by_the_hypotheses_that_are_left() -> None:
    # Holm (1979): sorted 0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1, never falling
    assert sv.holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert sv.holm([0.5, 0.6]) == [1.0, 1.0]
    assert sv.holm([0.2]) == [0.2]


def test_the_same_seed_gives_the_same_interval_to_the_last_bit() -> None:
    arms = simulated(5, (1.5, 1.0), np.random.default_rng(0))
    first, second = (sv.compare(sv.resample(*arms, 300, np.random.default_rng(4)), 0.75) for _ in range(2))
    assert first == second


def test_arms_over_other_labels_or_prompts_cannot_be_compared() -> None:
    with pytest.raises(ShapeError, match="same label counts, seeds and held-out prompts"):
        sv.resample(trials(STEADY[None]), trials(STEADY[None, :4]), 100, np.random.default_rng(0))
    with pytest.raises(ShapeError, match="increase"):
        sv.Trials(LABELS[::-1], np.ones((1, 5, 1)), np.ones(1))


def test_a_baseline_is_saturated_only_when_it_stops_climbing_early() -> None:
    assert sv.saturated(LABELS, FAST)
    assert not sv.saturated(LABELS, STEADY)
    labels = np.linspace(32, 288, 9)
    assert not sv.saturated(labels, np.log(labels))
    assert sv.saturated(labels, 1 - np.exp(-(labels - 32) / 25))


def test_area_under_a_curve_is_its_mean_over_the_label_axis() -> None:
    assert float(sv.aulc(LABELS, STEADY)) == pytest.approx(0.7)
    uneven = np.array([0.0, 10.0, 40.0])
    assert float(sv.aulc(uneven, np.array([0.0, 1.0, 1.0]))) == pytest.approx(35 / 40)


def test_a_band_is_a_t_interval_over_seeds() -> None:
    mean, half = sv.band(np.array([[0.5], [0.6], [0.7]]))
    assert mean[0] == pytest.approx(0.6)
    assert half[0] == pytest.approx(4.302653 * 0.1 / np.sqrt(3), rel=1e-6)
    assert np.isnan(sv.band(np.array([[0.5]]))[1]).all()


def test_the_null_control_is_centred_on_zero_and_as_wide_as_null_arms_are() -> None:
    rng = np.random.default_rng(11)
    controls, estimates = [], []
    for _ in range(60):
        resamples = sv.resample(*simulated(10, (1.0, 1.0), rng), 300, rng)
        controls.append(sv.compare(resamples, 0.75).null)
        estimates.append(float(sv.savings(resamples.labels, resamples.arm, resamples.baseline, 0.75)))
    assert abs(np.mean([c.median for c in controls])) < 0.03
    covered = np.mean(
        [np.median([c.low for c in controls]) <= e <= np.median([c.high for c in controls]) for e in estimates]
    )
    assert covered > 0.9


def test_the_null_control_knows_nothing_of_the_arm() -> None:
    fast, baseline = simulated(6, (3.0, 1.0), np.random.default_rng(2))
    with_arm, alone = (
        sv.compare(sv.resample(a, baseline, 300, np.random.default_rng(0)), 0.9) for a in (fast, baseline)
    )
    assert with_arm.null == alone.null
    assert with_arm.saving > 0.2
    assert alone.saving == 0.0


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "share", "at_least"), [(5, 0.75, 0.92), (5, 1.0, 0.9), (20, 0.9, 0.93)])
def test_intervals_cover_the_true_saving_about_as_often_as_they_promise(
    seeds: int, share: float, at_least: float
) -> None:
    rng, runs = np.random.default_rng(seeds), 150
    labels = np.linspace(32, 288, 9)
    truth = {s: 1 - np.exp(-(labels - 32) * s / 110) for s in (2.0, 1.0)}
    true = float(sv.savings(labels, truth[2.0], truth[1.0], share))
    covered = claimed = 0
    for _ in range(runs):
        interval = sv.compare(sv.resample(*simulated(seeds, (2.0, 1.0), rng), 300, rng), share).interval
        covered += interval.low <= true <= interval.high
        null = sv.compare(sv.resample(*simulated(seeds, (1.0, 1.0), rng), 300, rng), share).interval
        claimed += null.low > 0
    assert covered / runs >= at_least - 2 * np.sqrt(0.05 * 0.95 / runs)
    assert claimed / runs <= 0.025 + 2.5 * np.sqrt(0.025 * 0.975 / runs)  # an equal arm "saves" this often at most


def test_the_saving_at_an_accuracy_is_read_off_both_curves_at_that_accuracy() -> None:
    found = sv.compare_at(sv.resample(trials(FAST[None]), trials(STEADY[None]), 100, np.random.default_rng(0)), 0.8)
    assert (found.labels_arm, found.labels_baseline) == (pytest.approx(250), pytest.approx(400))
    assert found.saving == pytest.approx(1 - 250 / 400)
    assert not found.at_least


def test_a_baseline_that_stays_below_an_accuracy_gives_a_lower_bound_and_an_arm_that_does_is_censored() -> None:
    def compared_at(arm: np.ndarray, baseline: np.ndarray) -> sv.Comparison:
        both = trials(np.stack([arm] * 4)), trials(np.stack([baseline] * 4))
        return sv.compare_at(sv.resample(*both, 100, np.random.default_rng(0)), 0.8)

    ahead = compared_at(FAST, SLOW)
    assert ahead.at_least
    assert ahead.saving == pytest.approx(1 - 250 / 500)
    assert ahead.interval is not None
    assert ahead.interval.low == pytest.approx(0.5)
    behind = compared_at(SLOW, FAST)
    assert behind.saving == -np.inf
    assert not behind.at_least
    assert behind.reached == 0
