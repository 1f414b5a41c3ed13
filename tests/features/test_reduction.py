"""From states to features: fitted on what it is given, safe on what it has never seen."""

from __future__ import annotations

import re
import tracemalloc
from pathlib import Path

import damage
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as tries
from hypothesis import strategies as st
from safetensors.numpy import load, save

from bgpm.errors import NumericsError, StateError
from bgpm.features import FeatureSettings
from bgpm.features import reduction as reducing
from bgpm.features.blocks.states import States
from bgpm.features.blocks.statistics import text_statistics
from bgpm.features.reduction import Reduction

N, LAYERS, WIDTH = 60, 3, 8
TEXTS = [f"answer {n} " + "word " * (n % 7) + "- item\n" * (n % 3) for n in range(N)]


def states(n: int = N, seed: int = 0, rank: int | None = None) -> np.ndarray:
    """Correlated columns of very different scales and offsets."""
    rng = np.random.default_rng(seed)
    p = LAYERS * WIDTH
    mixing = np.random.default_rng(99).normal(size=(rank or p, p))
    flat = rng.normal(size=(n, rank or p)) @ mixing * np.geomspace(1e-2, 1e3, p) + np.arange(p)
    return flat.reshape(n, LAYERS, WIDTH).astype(np.float32)


def reference(settings: FeatureSettings, fitted: np.ndarray, given: np.ndarray) -> np.ndarray:
    """Standardise, eigenvectors of the covariance, one scale for all: squared features, for signs are arbitrary."""
    block = States.model_validate(settings.settings["states"])
    chosen = slice(None) if block.layers == "all" else slice(-1, None)
    x = fitted[:, chosen].reshape(len(fitted), -1).astype(np.float64)
    y = given[:, chosen].reshape(len(given), -1).astype(np.float64)
    mean, deviation = x.mean(0), x.std(0)
    x, y = (x - mean) / deviation, (y - mean) / deviation
    if block.pca is not None:
        values, vectors = np.linalg.eigh(x.T @ x / len(x))
        top = np.argsort(-values)[: block.pca]
        vectors = vectors[:, top] / (np.sqrt(values[top]) if block.whiten else 1.0)
        x, y = x @ vectors, y @ vectors
    return (y / np.sqrt((x**2).mean())) ** 2


@pytest.mark.parametrize("layers", ["all", "last"])
@pytest.mark.parametrize(("pca", "whiten"), [(None, False), (5, False), (5, True), (8, True)])
def test_features_are_those_of_the_slow_reference(layers: str, pca: int | None, whiten: bool) -> None:
    settings = FeatureSettings(layers=layers, pca=pca, whiten=whiten)  # type: ignore[arg-type]
    fitted, new = states(), states(40, seed=1)
    reduction = Reduction.fit(settings, fitted, TEXTS)
    for some in (fitted, new):
        features = reduction(some, TEXTS[: len(some)])
        assert features.dtype == np.float32
        expected = reference(settings, fitted, some)
        assert features.shape == expected.shape
        np.testing.assert_allclose(features.astype(np.float64) ** 2, expected, rtol=2e-4, atol=1e-5)


def test_only_the_rows_given_are_fitted_on() -> None:
    everything = states(100)
    unlabelled = np.arange(0, 100, 2)
    settings = FeatureSettings(pca=6, text_statistics=True)
    texts = np.array([f"text {n} " * (n % 5) for n in range(100)], object)
    once = Reduction.fit(settings, everything[unlabelled], texts[unlabelled])
    spoilt, spoilt_texts = everything.copy(), texts.copy()
    spoilt[1::2], spoilt_texts[1::2] = 1e6, "###" * 1000
    twice = Reduction.fit(settings, spoilt[unlabelled], spoilt_texts[unlabelled])
    for name, array in once.arrays.items():
        np.testing.assert_array_equal(array, twice.arrays[name])
    np.testing.assert_array_equal(once(everything, texts)[unlabelled], once(everything[unlabelled], texts[unlabelled]))


def test_rows_of_a_larger_array_are_fitted_as_they_are_alone() -> None:
    everything, rows = states(100), np.arange(0, 100, 2)
    texts = [f"text {n} " * (n % 5) for n in range(100)]
    settings = FeatureSettings(pca=6, text_statistics=True)
    alone = Reduction.fit(settings, everything[rows], [texts[row] for row in rows])
    among = Reduction.fit(settings, everything, texts, rows)
    for name, array in alone.arrays.items():
        np.testing.assert_array_equal(among.arrays[name], array)
    everything[10, 0, 0], everything[11] = np.nan, np.nan  # row 11 is not fitted on
    with pytest.raises(NumericsError, match="1 texts have states that are not finite, the first is row 10"):
        Reduction.fit(settings, everything, texts, rows)


@pytest.mark.parametrize("settings", [FeatureSettings(pca=6, text_statistics=True), FeatureSettings(pca=None)])
def test_a_chunk_at_a_time_gives_the_features_of_all_at_once(
    settings: FeatureSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    reduction = Reduction.fit(settings, states(), TEXTS)
    whole = reduction(states(), TEXTS)
    monkeypatch.setattr(reducing, "CHUNK", 7 * LAYERS * WIDTH + 1)
    np.testing.assert_allclose(reduction(states(), TEXTS), whole, atol=1e-6)
    assert reduction(states(0), []).shape == (0, reduction.dim)
    broken = states()
    broken[[5, 50], 1, 2] = np.nan
    with pytest.raises(NumericsError, match="2 texts have states that are not finite, the first is row 5"):
        reduction(broken, TEXTS)


def test_a_pool_beyond_memory_is_fitted_on_a_sample_and_reduced_in_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count, numbers = 20_000, 400 * LAYERS * WIDTH
    monkeypatch.setattr(reducing, "FITTED", numbers)
    monkeypatch.setattr(reducing, "CHUNK", numbers)
    np.save(tmp_path / "states.npy", states(count))
    mapped = np.load(tmp_path / "states.npy", mmap_mode="r")
    settings, texts = FeatureSettings(pca=6), [""] * count
    Reduction.fit(settings, mapped[:10], texts[:10])(mapped[:10], texts[:10])  # imports count for nothing
    tracemalloc.start()
    reduction = Reduction.fit(settings, mapped, texts)
    fitting = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    features = reduction(mapped, texts)
    chunked = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert fitting < 4 * 8 * numbers + 16 * count  # and not 8 bytes times 50 times the numbers; rows are numbered
    assert chunked < 4 * 8 * numbers + features.nbytes
    again = Reduction.fit(settings, mapped, texts)
    assert all(np.array_equal(again.arrays[name], array) for name, array in reduction.arrays.items())
    whole = states(count).reshape(count, -1).astype(np.float64)
    error = (reduction.arrays["mean"] - whole.mean(0)) / (whole.std(0) / 400**0.5)
    assert 0.5 < np.sqrt((error**2).mean()) < 2  # the mean of 400 rows, not of all and not of one corner
    assert np.mean(features.astype(np.float64) ** 2) == pytest.approx(1, abs=0.1)


def test_a_texts_features_do_not_depend_on_its_company() -> None:
    reduction = Reduction.fit(FeatureSettings(pca=6, text_statistics=True), states(), TEXTS)
    whole = reduction(states(), TEXTS)
    order = np.random.default_rng(0).permutation(N)
    np.testing.assert_allclose(reduction(states()[order], [TEXTS[n] for n in order]), whole[order], atol=1e-6)
    np.testing.assert_allclose(reduction(states()[7:8], TEXTS[7:8])[0], whole[7], atol=1e-6)


@pytest.mark.parametrize("pca", [None, 6])
def test_a_column_that_was_constant_says_nothing_even_when_it_later_differs(pca: int | None) -> None:
    fitted = states()
    fitted[:, 0, 0], fitted[:, 1, 3], fitted[:, 2, 7] = 0.0, 0.1, -1e4
    reduction = Reduction.fit(FeatureSettings(pca=pca), fitted, TEXTS)
    new = states(5, seed=1)
    before = reduction(new, TEXTS[:5])
    new[:, 0, 0], new[:, 1, 3], new[:, 2, 7] = 1e6, -1e6, 1.0
    np.testing.assert_array_equal(reduction(new, TEXTS[:5]), before)
    assert np.isfinite(before).all()
    if pca is None:
        assert (before.reshape(5, LAYERS, WIDTH)[:, [0, 1, 2], [0, 3, 7]] == 0).all()


@pytest.mark.parametrize(
    "settings", [FeatureSettings(pca=4), FeatureSettings(pca=4, whiten=True), FeatureSettings(pca=None)]
)
def test_rows_that_are_all_alike_give_zeros_and_no_warning(settings: FeatureSettings) -> None:
    for value in (0.0, 0.1, 1e4):
        alike = np.full((10, LAYERS, WIDTH), value, np.float32)
        reduction = Reduction.fit(settings, alike, TEXTS[:10])
        assert not reduction(alike, TEXTS[:10]).any()
        assert not reduction(states(10), TEXTS[:10]).any()
    single = Reduction.fit(settings, states(1), TEXTS[:1])
    assert not single(states(3), TEXTS[:3]).any()


@pytest.mark.parametrize("whiten", [False, True])
@pytest.mark.parametrize(("rows", "rank"), [(5, None), (N, 3)], ids=["more components than rows", "rank 3"])
def test_more_components_than_the_rows_span_are_dropped_and_do_not_explode(
    whiten: bool, rows: int, rank: int | None
) -> None:
    fitted = states(rows, rank=rank)
    reduction = Reduction.fit(FeatureSettings(pca=256, whiten=whiten), fitted, TEXTS[:rows])
    features = reduction(fitted, TEXTS[:rows])
    assert features.shape[1] == (4 if rank is None else 3)  # five rows span four dimensions about their mean
    assert np.abs(reduction(states(50, seed=2), TEXTS[:50])).max() < 50
    assert np.mean(features.astype(np.float64) ** 2) == pytest.approx(1, abs=1e-6)


def test_whitened_features_are_uncorrelated_with_unit_variance_and_plain_ones_keep_their_order() -> None:
    features = {
        w: Reduction.fit(FeatureSettings(pca=10, whiten=w), states(), TEXTS)(states(), TEXTS) for w in (False, True)
    }
    moment = {w: f.T.astype(np.float64) @ f / N for w, f in features.items()}
    np.testing.assert_allclose(moment[True], np.eye(10), atol=1e-5)
    np.testing.assert_allclose(moment[False], np.diag(np.diag(moment[False])), atol=1e-5)
    assert (np.diff(np.diag(moment[False])) < 0).all()
    assert np.trace(moment[False]) == pytest.approx(10, abs=1e-5)


def test_the_last_layer_alone_is_the_last_layer_alone() -> None:
    changed = states()
    changed[:, :-1] = np.random.default_rng(1).normal(size=changed[:, :-1].shape)
    settings = FeatureSettings(layers="last", pca=4)
    a, b = (Reduction.fit(settings, s, TEXTS)(s, TEXTS) for s in (states(), changed))
    np.testing.assert_array_equal(a, b)


def test_without_pca_a_large_model_needs_no_square_matrix() -> None:
    wide = np.random.default_rng(0).normal(size=(4, 1, 20_000)).astype(np.float32)
    reduction = Reduction.fit(FeatureSettings(pca=None), wide, TEXTS[:4])
    assert sum(array.nbytes for array in reduction.arrays.values()) < 1e6
    assert reduction(wide, TEXTS[:4]).shape == (4, 20_000)


@pytest.mark.parametrize(
    "settings", [FeatureSettings(pca=6, whiten=True, text_statistics=True), FeatureSettings(pca=None)]
)
def test_saving_and_loading_keeps_every_bit_and_saving_twice_every_byte(
    tmp_path: Path, settings: FeatureSettings
) -> None:
    a, b = (Reduction.fit(settings, states(), TEXTS) for _ in range(2))
    a.save(tmp_path / "a.safetensors")
    b.save(tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    loaded = Reduction.load(settings, tmp_path / "a.safetensors")
    for name, array in a.arrays.items():
        assert (loaded.arrays[name] == array).all()
        assert loaded.arrays[name].shape == array.shape
    assert loaded(states(9, seed=4), TEXTS[:9]).tobytes() == a(states(9, seed=4), TEXTS[:9]).tobytes()
    loaded.save(tmp_path / "c.safetensors")
    assert (tmp_path / "c.safetensors").read_bytes() == (tmp_path / "a.safetensors").read_bytes()


def test_a_file_that_is_no_reduction_is_named(tmp_path: Path) -> None:
    path = tmp_path / "reduction.safetensors"
    settings = FeatureSettings(pca=3)
    Reduction.fit(settings, states(), TEXTS).save(path)
    whole = path.read_bytes()
    arrays = load(whole)
    lacking = [save({n: a for n, a in arrays.items() if n != name}) for name in arrays]
    for damaged in (whole[:-30], whole[:100], b"", b"no tensors at all", *lacking):
        path.write_bytes(damaged)
        with pytest.raises(StateError, match=r"\.safetensors: is not a fitted reduction .*run `dvc repro features`"):
            Reduction.load(settings, path)
    path.unlink()
    with pytest.raises(StateError, match="is not a fitted reduction"):
        Reduction.load(settings, path)


@pytest.mark.parametrize(
    "settings", [FeatureSettings(blocks=["states", "rich"]), FeatureSettings(pca=None)], ids=["pca and rich", "all"]
)
def test_a_damaged_reduction_is_refused_whatever_was_damaged(settings: FeatureSettings, tmp_path: Path) -> None:
    path = tmp_path / "reduction.safetensors"
    fitted = Reduction.fit(settings, states(), TEXTS, prompts=TEXTS)
    fitted.save(path)
    whole, features = path.read_bytes(), fitted(states(), TEXTS, TEXTS)
    arrays = load(whole)
    known = {"sha256": whole.split(b'"sha256":"')[1][:64].decode()}
    cases = [(what, save(changed, metadata=known)) for what, changed in damage.arrays(arrays)]
    cases += [("without its digest", save(arrays)), *damage.contents(whole)]
    for what, content in cases:
        path.write_bytes(content)
        said = damage.refusal(lambda: Reduction.load(settings, path), StateError) or f"{what}: loaded"
        assert re.search(r"n\.safetensors: is not a fitted reduction .*run `dvc repro features`", said), said
    path.write_bytes(whole)
    assert np.array_equal(Reduction.load(settings, path)(states(), TEXTS, TEXTS), features)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_states_that_are_not_finite_are_named_by_row_wherever_they_come_in(bad: float) -> None:
    broken = states()
    broken[[5, 11], 1, 2] = bad
    settings = FeatureSettings(pca=3)
    with pytest.raises(NumericsError, match="2 texts have states that are not finite, the first is row 5"):
        Reduction.fit(settings, broken, TEXTS)
    fitted = Reduction.fit(settings, states(), TEXTS)
    with pytest.raises(NumericsError, match="the first is row 5"):
        fitted(broken, TEXTS)
    last = FeatureSettings(layers="last", pca=3)
    assert np.isfinite(
        Reduction.fit(last, broken, TEXTS)(broken, TEXTS)
    ).all()  # a layer that is not read may be anything


def test_text_statistics_count_what_they_say() -> None:
    text = "# Title\n\n- one\n* two\n  3. three\n4) four\nnot-a-list 2024\n`code` and **bold**\n## More"
    exact = [len(text.split()), len(text), 8, 4, 2, 4, 6]  # headings and bold marks together: #, ##, and ** twice
    np.testing.assert_allclose(np.expm1(text_statistics([text, ""])), [exact, [0] * 7], atol=1e-9)
    assert text_statistics([]).shape == (0, 7)


@given(st.text(st.sampled_from("\n\r\t \u2028-*1.)#a"), max_size=60))
@tries(max_examples=500, deadline=None)
def test_counts_of_list_items_are_those_of_the_pattern_that_runs_over_blank_lines(text: str) -> None:
    slow = len(re.findall(r"^\s*(?:[-*]|\d+[.)])\s", text, re.M))
    assert np.expm1(text_statistics([text])[0, 3]) == pytest.approx(slow)


def test_text_statistics_are_appended_standardised() -> None:
    plain = Reduction.fit(FeatureSettings(pca=4), states(), TEXTS)(states(), TEXTS)
    features = Reduction.fit(FeatureSettings(pca=4, text_statistics=True), states(), TEXTS)(states(), TEXTS)
    np.testing.assert_array_equal(features[:, :4], plain)
    counts = text_statistics(TEXTS)
    varies = counts.std(0) > 0
    assert varies.tolist() == [True, True, True, True, False, False, True]
    expected = (counts[:, varies] - counts[:, varies].mean(0)) / counts[:, varies].std(0)
    np.testing.assert_allclose(features[:, 4:][:, varies], expected, atol=1e-5)
    assert not features[:, 4:][:, ~varies].any()


def test_a_count_the_pool_never_showed_does_not_explode_on_a_new_text() -> None:
    reduction = Reduction.fit(FeatureSettings(pca=4, text_statistics=True), states(), ["same words here"] * N)
    features = reduction(states(3, seed=1), ["`code`", "**bold** 2024", "- a\n- b"])
    assert np.abs(features).max() < 50


def test_features_of_a_mapped_file_are_those_of_an_array_in_memory(tmp_path: Path) -> None:
    np.save(tmp_path / "states.npy", states())
    mapped = np.load(tmp_path / "states.npy", mmap_mode="r")
    fits = [Reduction.fit(FeatureSettings(pca=6), s, TEXTS, np.arange(0, N, 3)) for s in (states(), mapped)]
    for name, array in fits[0].arrays.items():
        np.testing.assert_array_equal(fits[1].arrays[name], array)
    np.testing.assert_array_equal(fits[0](mapped, TEXTS), fits[0](states(), TEXTS))


def test_of_many_texts_every_block_is_fitted_on_one_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reducing, "SAMPLE", 20)
    settings = FeatureSettings(blocks=["states", "statistics"])
    many = Reduction.fit(settings, states(), TEXTS, np.arange(0, N, 2))
    rows = np.sort(np.random.default_rng(0).choice(np.arange(0, N, 2), 20, replace=False))
    monkeypatch.setattr(reducing, "SAMPLE", N)
    few = Reduction.fit(settings, states()[rows], [TEXTS[row] for row in rows])
    for name, array in few.arrays.items():
        np.testing.assert_array_equal(many.arrays[name], array)


def test_texts_with_few_states_come_in_chunks_too(monkeypatch: pytest.MonkeyPatch) -> None:
    reduction = Reduction.fit(FeatureSettings(blocks=["states", "statistics"]), states(), TEXTS)
    whole = reduction(states(), TEXTS)
    assert reduction.chunk(np.empty((0, 1, 1))) == reducing.TEXTS < 10**5
    monkeypatch.setattr(reducing, "TEXTS", 7)
    assert reduction.chunk(states()) == 7
    np.testing.assert_allclose(reduction(states(), TEXTS), whole, atol=1e-6)
