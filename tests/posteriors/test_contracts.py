"""What every posterior on every model it accepts has to keep."""

from __future__ import annotations

import json
import math
import re
from functools import cache, partial

import damage
import numpy as np
import pytest
import torch
from conftest import ROOT
from safetensors.numpy import load_file, save

from bgpm.errors import ConfigError, DataError, NumericsError, ShapeError, StateError
from bgpm.fitting import saved
from bgpm.models import Model
from bgpm.posteriors import Posterior, load
from bgpm.registry import build, kinds
from bgpm.types import Comparisons, Features, Pairs

FREE = {"bt_block": False, "dim": 4}
HEADS = {
    "bt": ("bt", {}),
    "gpm": ("gpm", {"dim": 4}),
    "gpm free": ("gpm", FREE),
    "gpm mean": ("gpm", {**FREE, "normalize": "mean"}),
    "gpm sphere, gates": ("gpm", {**FREE, "normalize": "sphere", "prompt_gates": True}),
    "pair_mlp": ("pair_mlp", {"hidden": 4}),
}
POSTERIORS = {
    "point": ("point", {}),
    "amortized": ("amortized", {"steps": 60}),
    "laplace": ("laplace", {}),
    "laplace kronecker": ("laplace", {"structure": "kronecker"}),
    "laplace low rank": ("laplace", {"structure": "low_rank"}),
    "ensemble": ("ensemble", {"members": 4}),
    "point, effects": ("point", {"response_variance": 0.7}),
    "laplace, effects": ("laplace", {"response_variance": 0.7}),
    "ensemble, effects": ("ensemble", {"members": 4, "response_variance": 0.7}),
}
EFFECTS_REFUSED = ("gpm free", "gpm mean", "gpm sphere, gates", "pair_mlp")
REFUSED = {("amortized", "bt"), ("amortized", "gpm"), ("amortized", "pair_mlp")}
COMBINATIONS = [
    (a, b)
    for a in POSTERIORS
    for b in HEADS
    if (a, b) not in REFUSED and not (a.endswith("effects") and b != "gpm")  # bt is the same code
]
# a fit by cross-validated L-BFGS is slow: a fixed prior for models without a Bradley-Terry block
FIXED = {"gpm free": 5.0, "gpm mean": 40.0, "gpm sphere, gates": 40.0, "pair_mlp": 4.0}
every = pytest.mark.parametrize(("posterior", "head"), COMBINATIONS)


def parts(posterior: str, head: str) -> tuple[Posterior, Model]:
    kind, settings = POSTERIORS[posterior]
    if head in FIXED and kind != "amortized":
        settings = {**settings, "prior_precision": FIXED[head], "folds": 2}
    return build(Posterior, kind, settings), build(Model, *HEADS[head])


@pytest.fixture(scope="module")
def world(problem):
    """One problem with a reward and a cycle, and a cache of models fitted to it."""
    p = problem(60, 6, linear=2.0, cyclic=1.0, tests=40)

    @cache
    def fitted(posterior: str, head: str):
        model, module = parts(posterior, head)
        return model.fit(module, p.features, p.data, seed=3)

    return p, fitted


def test_every_registered_posterior_meets_every_registered_model_here():
    assert {kind for kind, _ in POSTERIORS.values()} == set(kinds(Posterior))
    assert {kind for kind, _ in HEADS.values()} == set(kinds(Model))


@pytest.mark.parametrize(("posterior", "head"), sorted(REFUSED))
def test_a_senseless_combination_is_refused_before_any_work_and_names_a_sensible_one(posterior, head, world):
    model, module = parts(posterior, head)
    for attempt in (lambda: model.check(module), lambda: model.fit(module, world[0].features, world[0].data, seed=0)):
        with pytest.raises(ConfigError, match="bt_block: false"):
            attempt()


@pytest.mark.parametrize("head", EFFECTS_REFUSED)
def test_effects_of_responses_are_refused_by_models_that_do_not_contain_bradley_terry(head, world):
    model, module = build(Posterior, "laplace", {"response_variance": 0.7}), build(Model, *HEADS[head])
    for attempt in (lambda: model.check(module), lambda: model.fit(module, world[0].features, world[0].data, seed=0)):
        with pytest.raises(ConfigError, match=r"bt_block: true, or set response_variance: 0\.0"):
            attempt()


@every
def test_runs_of_whole_chunks_have_the_moments_of_all_pairs(posterior, head, world, monkeypatch):
    """So processes can share the pairs on offer, and the bytes are those of one."""
    monkeypatch.setattr("bgpm.fitting.tensors.CHUNK", 8)
    p, fitted = world
    model = fitted(posterior, head)
    whole = model.moments(p.features, p.test)
    runs = [model.moments(p.features, p.test.take(rows)) for rows in np.split(np.arange(len(p.test)), [0, 8, 24])]
    assert [len(run.mean) for run in runs] == [0, 8, 16, len(p.test) - 24]
    assert torch.equal(torch.cat([run.mean for run in runs]), whole.mean)
    assert torch.equal(torch.cat([run.variance for run in runs]), whole.variance)


@every
def test_moments_match_samples(posterior, head, world):
    p, fitted = world
    model, n = fitted(posterior, head), 8_000
    pairs = p.test.take(np.arange(10))
    moments = model.moments(p.features, pairs)
    drawn = model.sample(p.features, pairs, n, generator=torch.Generator().manual_seed(0))
    assert drawn.shape == (n, 10)
    assert drawn.dtype == moments.mean.dtype == moments.variance.dtype == torch.float64
    if posterior.startswith("point"):
        assert torch.count_nonzero(moments.variance) == 0
        assert torch.equal(drawn, moments.mean.expand(n, -1))
        return
    # on the sphere moments themselves come from a thousand quasi-random draws of each embedding
    slack = 0.01 if "sphere" in head and posterior == "amortized" else 0.0
    squares = (drawn - drawn.mean(0)).square()
    scale = moments.variance.sqrt()
    assert ((drawn.mean(0) - moments.mean).abs() < 5 * (moments.variance / n).sqrt() + slack * scale).all()
    assert ((drawn.var(0) - moments.variance).abs() < 5 * squares.std(0) / n**0.5 + slack * moments.variance).all()


@every
def test_the_kernel_is_the_covariance_of_samples_and_has_the_variance_on_its_diagonal(posterior, head, world):
    p, fitted = world
    model, n = fitted(posterior, head), 8_000
    pairs = p.test.take(np.arange(8))
    if posterior.startswith(("point", "amortized")):
        with pytest.raises(ConfigError, match="laplace or ensemble"):
            model.kernel(p.features, pairs)
        return
    kernel, moments = model.kernel(p.features, pairs), model.moments(p.features, pairs)
    rows = torch.stack([kernel.row(j) for j in range(8)])
    torch.testing.assert_close(kernel.diagonal(), moments.variance, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(rows.diagonal(), moments.variance, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(rows, rows.T, rtol=1e-8, atol=1e-10)
    some, others = torch.tensor([6, 0, 3]), torch.tensor([1, 5, 3, 7])
    torch.testing.assert_close(kernel.block(some, others), rows[some][:, others], rtol=1e-8, atol=1e-10)
    drawn = model.sample(p.features, pairs, n, generator=torch.Generator().manual_seed(1))
    drawn = drawn - drawn.mean(0)
    products = drawn[:, :, None] * drawn[:, None, :]
    assert ((products.mean(0) - rows).abs() < 5 * products.std(0) / n**0.5 + 1e-12).all()
    turned = Pairs(
        np.where(np.arange(8) % 2, pairs.response_b, pairs.response_a),
        np.where(np.arange(8) % 2, pairs.response_a, pairs.response_b),
        pairs.prompt,
    )
    sign = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(4)
    turned_rows = torch.stack([model.kernel(p.features, turned).row(j) for j in range(8)])
    assert torch.equal(turned_rows, sign[:, None] * sign * rows)
    block, turned_block = (model.kernel(p.features, q).block(some, others) for q in (pairs, turned))
    assert torch.equal(turned_block, sign[some, None] * sign[others] * block)


@every
def test_swapping_the_answers_flips_the_mean_and_keeps_the_variance_exactly(posterior, head, world):
    p, fitted = world
    moments, swapped = (fitted(posterior, head).moments(p.features, pairs) for pairs in (p.test, p.test.swapped()))
    assert torch.equal(moments.mean, -swapped.mean)
    assert torch.equal(moments.variance, swapped.variance)
    assert torch.count_nonzero(moments.mean) == len(p.test)


@every
def test_saving_and_loading_keeps_every_bit(posterior, head, world, tmp_path):
    p, fitted = world
    model = fitted(posterior, head)
    model.save(tmp_path / "model" / "seed-0.5")
    again = load(tmp_path / "model" / "seed-0.5")
    before, after = model.moments(p.features, p.test), again.moments(p.features, p.test)
    assert torch.equal(before.mean, after.mean)
    assert torch.equal(before.variance, after.variance)
    assert before.tau == after.tau
    assert again.summary() == model.summary()
    again.save(tmp_path / "again")
    for suffix in (".json", ".safetensors"):
        first, second = (tmp_path / name for name in ("model/seed-0.5" + suffix, "again" + suffix))
        assert first.read_bytes() == second.read_bytes()


def test_a_model_of_an_older_name_is_the_model_of_today_and_says_so(world, tmp_path, caplog):
    p, fitted = world
    model = fitted("laplace", "pair_mlp")
    model.save(tmp_path / "model")
    description = json.loads((tmp_path / "model.json").read_text())
    description["head"]["settings"]["kind"] = "pairpm"
    del description["sha256"], description["version"]
    groups = saved.read(tmp_path / "model")
    saved.write(tmp_path / "older", description, **groups)
    again = load(tmp_path / "older")
    assert again.model == model.model
    assert torch.equal(again.moments(p.features, p.test).mean, model.moments(p.features, p.test).mean)
    (said,) = caplog.messages
    assert "an older run wrote it; model pairpm is read as pair_mlp" in said


@every
def test_moments_do_not_depend_on_what_else_is_asked_or_in_what_order(posterior, head, world):
    p, fitted = world
    model = fitted(posterior, head)
    whole = model.moments(p.features, p.test)
    order = np.random.default_rng(0).permutation(len(p.test))
    shuffled = model.moments(p.features, p.test.take(order))
    alone = [model.moments(p.features, p.test.take(np.array([n]))) for n in range(5)]
    for name in ("mean", "variance"):
        full = getattr(whole, name)
        torch.testing.assert_close(getattr(shuffled, name), full[torch.from_numpy(order)], rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(torch.cat([getattr(m, name) for m in alone]), full[:5], rtol=1e-10, atol=1e-12)


@every
def test_float32_and_float64_features_agree(posterior, head, world):
    p, fitted = world
    wide = Features(p.features.responses.astype(np.float64), p.features.prompts.astype(np.float64))
    narrow, wider = (fitted(posterior, head).moments(f, p.test) for f in (p.features, wide))
    assert torch.equal(narrow.mean, wider.mean)
    assert torch.equal(narrow.variance, wider.variance)


@every
def test_the_same_labels_with_answers_swapped_train_the_same_model(posterior, head, world):
    p, fitted = world
    model, module = parts(posterior, head)
    again = model.fit(module, p.features, p.data.swapped(), seed=3).moments(p.features, p.test)
    once = fitted(posterior, head).moments(p.features, p.test)
    assert torch.equal(again.mean, once.mean)
    assert torch.equal(again.variance, once.variance)


@every
def test_no_pairs_have_no_moments(posterior, head, world):
    p, fitted = world
    moments = fitted(posterior, head).moments(p.features, p.test.take(np.arange(0)))
    assert moments.mean.shape == moments.variance.shape == (0,)


@every
def test_a_feature_that_is_not_finite_names_its_row(posterior, head, world):
    p, fitted = world
    model, module = parts(posterior, head)
    for bad, where in ((math.nan, p.data.pairs.response_a[2]), (math.inf, p.test.response_b[4])):
        responses = p.features.responses.copy()
        responses[where, 1] = bad
        broken = Features(responses, p.features.prompts)
        use = partial(model.fit, module, broken, p.data, seed=0)
        if math.isinf(bad):
            use = partial(fitted(posterior, head).moments, broken, p.test)
        with pytest.raises(NumericsError, match=rf"response row {where}: feature 1 is {bad}"):
            use()


@every
@pytest.mark.parametrize("case", ["one label", "one side", "identical responses", "one prompt"])
def test_hard_labels_are_fitted_and_everything_stays_finite(posterior, head, case, world):
    p, _ = world
    rows = np.arange(1 if case == "one label" else 12)
    pairs, label = p.data.pairs.take(rows), p.data.label[rows]
    if case == "one side":
        label = np.ones(12)
    if case == "identical responses":
        pairs = Pairs(pairs.response_a, pairs.response_a, pairs.prompt)
    if case == "one prompt":
        pairs = Pairs(pairs.response_a, pairs.response_b, np.zeros(12, np.int64))
    model, module = parts(posterior, head)
    fitted = model.fit(module, p.features, Comparisons(pairs, label), seed=0)
    moments = fitted.moments(p.features, p.test)
    assert torch.isfinite(moments.mean).all()
    assert torch.isfinite(moments.variance).all()
    assert (moments.variance >= 0).all()
    json.dumps(fitted.summary(), allow_nan=False)


@every
def test_training_on_nothing_is_refused(posterior, head, world):
    p, _ = world
    model, module = parts(posterior, head)
    none = Comparisons(p.data.pairs.take(np.arange(0)), np.zeros(0))
    with pytest.raises(DataError, match="no labels"):
        model.fit(module, p.features, none, seed=0)


def test_pairs_of_another_table_and_features_of_another_width_are_refused(world):
    p, fitted = world
    model = fitted("laplace", "gpm")
    with pytest.raises(ShapeError, match="row 99999"):
        model.moments(p.features, Pairs(np.array([0]), np.array([99999]), np.array([0])))
    with pytest.raises(ShapeError, match="6 features, got 5"):
        model.moments(Features(p.features.responses[:, :5], p.features.prompts), p.test)


def test_a_damaged_model_is_reported_and_not_used(world, tmp_path):
    _, fitted = world
    fitted("laplace", "gpm").save(tmp_path / "m")
    weights, description = tmp_path / "m.safetensors", tmp_path / "m.json"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StateError, match="train the model again"):
        load(tmp_path / "m")
    weights.unlink()
    with pytest.raises(StateError, match=r"m\.safetensors"):
        load(tmp_path / "m")
    weights.write_bytes(whole)
    description.write_text(description.read_text().replace('"version": 3', '"version": 7'))
    with pytest.raises(StateError, match="version 7"):
        load(tmp_path / "m")
    description.write_text("{")
    with pytest.raises(StateError, match=r"m\.json"):
        load(tmp_path / "m")
    with pytest.raises(StateError, match=r"absent\.json"):
        load(tmp_path / "absent")


@every
def test_no_part_of_a_saved_model_can_be_damaged_without_a_word(posterior, head, world, tmp_path):
    """Else a covariance that is lost is a variance of 0, and a tensor that is lost a traceback."""
    p, fitted = world
    model, stem = fitted(posterior, head), tmp_path / "m"
    model.save(stem)
    weights, description = tmp_path / "m.safetensors", tmp_path / "m.json"
    tensors, said = load_file(weights), json.loads(description.read_text())
    files = {weights: weights.read_bytes(), description: description.read_bytes()}

    def damages():
        for what, changed in damage.values(said):
            yield what, description, json.dumps(changed).encode()
        for what, changed in damage.arrays(tensors):
            yield what, weights, save(changed)
        for path, whole in files.items():
            for what, changed in damage.contents(whole):
                yield what, path, changed
        yield "a key twice", description, files[description].replace(b"{", b'{"tau": 9.0, ', 1)

    every = list(damages())
    assert len(every) > 100
    some = np.random.default_rng(len(posterior) + len(head)).choice(len(every), 30, replace=False)
    whole = (posterior, head) == ("laplace", "gpm")  # of the others a sample: one rule refuses them all
    for what, path, content in every if whole else [every[row] for row in some]:
        path.write_bytes(content)
        answer = damage.refusal(lambda: load(stem), StateError) or f"{path.name}: {what}: loaded"
        assert re.search(r"m\.(json|safetensors)\b.*(train|dvc checkout)", answer), answer
        assert len(answer) < 600, what
        path.write_bytes(files[path])
    assert torch.equal(load(stem).moments(p.features, p.test).variance, model.moments(p.features, p.test).variance)


def test_the_parameters_that_ship_make_a_model_each():
    from bgpm.stage import read_params

    params = read_params(ROOT / "params.yaml")
    for kind in kinds(Posterior):
        build(Posterior, kind, params["posteriors"][kind])
    for kind in kinds(Model):
        build(Model, kind, params["models"][kind])


@pytest.mark.parametrize("precision", [1e-12, 1e12])
def test_absurd_priors_still_give_finite_scores(precision, world):
    p, _ = world
    posterior = build(Posterior, "laplace", {"prior_precision": precision})
    moments = posterior.fit(build(Model, "gpm", {}), p.features, p.data, seed=0).moments(p.features, p.test)
    assert torch.isfinite(moments.mean).all()
    assert torch.isfinite(moments.variance).all()
