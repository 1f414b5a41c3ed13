"""States of pairs as features: from both texts in one context to a model, `score` and `rank`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from backbone_models import write_language_model
from conftest import ROOT, Project, model_of_every_label, tiny_pool, write_jsonl

from bgpm.cli import main
from bgpm.config import check
from bgpm.data.tables import read_table
from bgpm.errors import ConfigError, ShapeError, StateError
from bgpm.features import FeatureSettings
from bgpm.features.reduction import Reduction
from bgpm.inference import PreferenceModel, ResponseSet
from bgpm.loop.pool import read_pool
from bgpm.posteriors import load
from bgpm.stage import read_params
from stages import embed

TEMPLATE = "{prompt}\n1 {response_a}\n2 {response_b}\nbetter?"
PAIR_STATES = {"pca": 5, "letters": True, "template": TEMPLATE}


def rows() -> list[dict[str, Any]]:
    """Each with a judge's word, so that numbers of the file stand beside those of the backbone."""
    return [row | {"said": n % 3 / 2} for n, row in enumerate(tiny_pool(10))]


@pytest.fixture(scope="module")
def project(fresh_project: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    found = fresh_project.clone(tmp_path_factory.mktemp("pairs") / "project")
    decoder = write_language_model(found.folder / "decoder", "llama chat")
    found.params(
        model="bt", backbone__path=str(decoder), features__blocks=["states", "pair_states"],
        features__states={"pca": 4}, features__pair_states=PAIR_STATES,
        pool__pair_columns={"gpt4": {"column": "said", "coding": "probability"}},
    )  # fmt: skip
    write_jsonl(found.folder / "tiny/pool.jsonl", rows())
    model_of_every_label(found)
    return found


def antisymmetric(n: int = 50) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    states = rng.normal(size=(n, 2, 6)) @ rng.normal(size=(6, 6)) + 0.7  # far from centred
    states[:, 1, 2] = 0.0
    return states.astype(np.float32), rng.normal(size=(n, 1)) * 3


def test_features_of_pairs_are_the_main_directions_of_uncentred_differences_on_one_scale() -> None:
    states, letters = antisymmetric()
    settings = FeatureSettings(blocks=["statistics", "pair_states"], settings={"pair_states": PAIR_STATES})
    texts = [f"word {n} " * (n + 1) for n in range(4)]
    reduction = Reduction.fit(settings, np.zeros((4, 1, 1), np.float32), texts, prompts=[""] * 4)
    reduction = reduction.with_pairs(states, letters, np.arange(40))
    got = reduction.pairs(states, letters)
    assert reduction.pair_dim == got.shape[1] == 6
    flat = states.astype(np.float64).reshape(50, 12)
    size = np.sqrt((flat[:40] ** 2).mean(0))
    standard = np.divide(flat, size, out=np.zeros_like(flat), where=size > 0)
    *_, directions = np.linalg.svd(standard[:40], full_matrices=False)
    expected = standard @ directions[:5].T
    expected /= np.sqrt((expected[:40] ** 2).mean())
    for n in range(5):
        assert min(np.abs(got[:, n] - expected[:, n]).max(), np.abs(got[:, n] + expected[:, n]).max()) < 1e-6
    np.testing.assert_allclose(got[:, 5:], letters / np.sqrt((letters[:40] ** 2).mean()))
    assert np.array_equal(reduction.pairs(-states, -letters), -got)
    turned = np.where(np.arange(50) % 2, -1, 1)  # the map does not depend on which response is first
    other = reduction.with_pairs(states * turned[:, None, None], letters * turned[:, None], np.arange(40))
    np.testing.assert_allclose(other.pairs(states, letters), got, atol=1e-9)
    spoilt = states.copy()
    spoilt[3, 0, 0] = np.nan
    with pytest.raises(Exception, match="1 texts have states that are not finite, the first is row 3"):
        reduction.pairs(spoilt, letters)


def test_the_stages_give_each_pair_its_files_numbers_and_then_its_states(
    project: Project, inside: Callable[[Project], None]
) -> None:
    inside(project)
    asked = json.loads(Path("data/likelihood.json").read_text())
    assert asked == {"asked": False, "pair_states": {"template": TEMPLATE, "letters": True}}
    numbers = np.load("data/features/pool/pair_columns.npy")
    table = read_table(Path("data/pool/pairs.parquet"))
    assert numbers.shape == (len(table["pair_id"]), 1 + 5 + 1)
    assert set(numbers[:, 0]) == {-1.0, 0.0, 1.0}
    mine = numbers[table["split"] == "pool"]
    assert np.sqrt((mine[:, 1:6] ** 2).mean()) == pytest.approx(1)
    assert np.sqrt((mine[:, 6] ** 2).mean()) == pytest.approx(1)
    assert np.load("data/embeddings/pool/pairs.npy").shape[0] == len(numbers)
    counts = json.loads(Path("data/embeddings/pool/summary.json").read_text())["pairs"]
    assert counts["texts"] == 2 * len(numbers)
    assert np.load("data/features/benchmark/pair_columns.npy").shape[1] == 7


def test_score_and_rank_read_the_pairs_given_and_a_pair_that_is_turned_has_the_negative_score(
    project: Project, tmp_path: Path, inside: Callable[[Project], None]
) -> None:
    inside(project)
    pool = read_pool(Path("data/pool"), Path("data/features/pool"))
    prompts, texts = (read_table(Path(f"data/pool/{name}.parquet"))["text"] for name in ("prompts", "responses"))
    some = np.arange(12)
    known = {tuple(sorted((row["response_a"], row["response_b"]))): row["said"] for row in rows()}
    given = []
    for n in some:
        a, b = texts[pool.pairs.response_a[n]], texts[pool.pairs.response_b[n]]
        said = (pool.numbers[n, 0] + 1) / 2  # type: ignore[index]
        assert tuple(sorted((a, b))) in known
        given += [{"prompt": prompts[pool.pairs.prompt[n]], "response_a": a, "response_b": b, "said": said}]
        given += [given[-1] | {"response_a": b, "response_b": a, "said": 1 - said}]
    out = tmp_path / "out.jsonl"
    main(["score", str(write_jsonl(tmp_path / "in.jsonl", given)), "--model", "model", "--out", str(out)])
    mean = np.array([json.loads(line)["score_mean"] for line in out.read_text().splitlines()])
    expected = load(Path("model/seed-0")).moments(pool.features, pool.pairs.take(some)).mean.numpy()
    np.testing.assert_allclose(mean[::2], expected, atol=2e-3)
    assert np.array_equal(mean[1::2], -mean[::2])
    model = PreferenceModel.load("model")
    responses = list(dict.fromkeys([given[0]["response_a"], given[0]["response_b"], "clock rude", "clear"]))
    matrix = model.matrix(given[0]["prompt"], responses)
    assert np.array_equal(matrix.mean, -matrix.mean.T)
    found = model.embed_all([ResponseSet.of(given[0]["prompt"], responses)])
    assert len(found.of_pairs) == 6
    a, b = (np.array([row]) for row in (2, 3))
    alone = model.pairs_of(found, a, b, np.array([0]))
    assert alone.numbers is not None
    assert not alone.numbers[0, 0]  # no opinion of the file's
    assert np.abs(alone.numbers[0, 1:]).min() > 0
    assert model.compare(found.features, alone).mean[0] == pytest.approx(matrix.mean[2, 3], abs=1e-9)
    with pytest.raises(ShapeError, match="reads both texts of each pair"):
        model.compare(found.features, type(alone)(a, b, np.array([0])))


def test_another_template_or_too_many_pairs_are_refused(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = project.clone(tmp_path / "own")
    monkeypatch.chdir(own.folder)
    own.params(features__pair_states=PAIR_STATES | {"template": TEMPLATE.replace("better", "worse")})
    with pytest.raises(StateError, match=r"other states of the pool's first pair .* features\.pair_states another"):
        PreferenceModel.load("model")
    own.params(features__pair_states=PAIR_STATES | {"max_pairs": 2})
    model = PreferenceModel.load("model")
    with pytest.raises(ConfigError, match=r"what is to be compared has 3 pairs, 6 forwards .* max_pairs is 2"):
        model.rank("tell me", ["clear", "rude", "vague"])
    monkeypatch.setattr(embed, "work", lambda *_: pytest.fail("it began to work"))
    with pytest.raises(ConfigError, match=r"the pool has \d+ pairs, \d+ forwards of the backbone, and max_pairs is 2"):
        embed.main("pool")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "gpm"}, "model: gpm cannot read pair_states; set model: bt"),
        ({"training": {"mode": "lora"}}, r"training\.mode: lora cannot read pair_states; set training\.mode: frozen"),
        ({"features": {"blocks": ["pair_states"]}}, "pair_states stands beside features of responses"),
        ({"features": {"pair_states": {"template": "{prompt}"}}}, "expected {response_a} once"),
        ({"features": {"pair_states": {"pca": 0}}}, r"pair_states\.pca"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_any_work(changes: dict[str, Any], message: str) -> None:
    params = read_params(ROOT / "params.yaml")
    params["model"], params["features"]["blocks"] = "bt", ["states", "pair_states"]
    check(params)
    for key, value in changes.items():
        params[key] = params[key] | value if isinstance(value, dict) else value
    with pytest.raises(ConfigError, match=message):
        check(params)
