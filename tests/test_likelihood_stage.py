"""Likelihoods of responses reach the features of the pipeline and of a trained model, the same ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from backbone_models import write_language_model
from conftest import Project

from bgpm.data.tables import read_table
from bgpm.features import FeatureSettings
from bgpm.features.reduction import Reduction
from bgpm.hub import Parts, restore, save
from bgpm.inference import PreferenceModel
from bgpm.loop.pool import read_pool
from bgpm.loop.train import train
from bgpm.models.bt import Bt
from bgpm.posteriors.laplace import Laplace
from stages import check, embed, features, prepare


def test_a_models_features_of_the_pools_responses_are_those_of_the_stages(
    fresh_project: Project, tmp_path: Path, inside: Callable[[Project], None]
) -> None:
    project = fresh_project.clone(tmp_path / "project")
    write_language_model(tmp_path / "decoder", "llama chat")
    project.params(
        backbone__path=str(tmp_path / "decoder"), backbone__pooling="mean", benchmark__path="tiny/benchmark.jsonl",
        features__blocks=["states", "likelihood"], features__states={"pca": 4},
    )  # fmt: skip
    inside(project)
    check.main()
    assert json.loads(Path("data/likelihood.json").read_text()) == {"asked": True}
    prepare.main()
    for which in ("pool", "benchmark"):
        embed.main(which)
    features.main()
    stored = np.load("data/features/pool/responses.npy")
    assert stored.shape[1] == 4 + 7
    assert not np.load("data/features/pool/prompts.npy")[:, 4:].any()
    split = read_table(Path("data/pool/prompts.parquet"))["split"]
    responses = read_table(Path("data/pool/responses.parquet"))
    mine = stored[split[responses["prompt"]] == "pool", 4:].astype(np.float64)
    np.testing.assert_allclose([mine.mean(0), mine.std(0)], [np.zeros(7), np.ones(7)], atol=1e-4)
    labels = {"pair": np.arange(20), "label": np.tile([0.0, 1.0], 10), "margin": np.full(20, np.nan)}
    pool = read_pool(Path("data/pool"), Path("data/features/pool"))
    train(Laplace(prior_precision=1.0), Bt(), pool, labels, seed=0).save(Path("model/seed-0"))
    model = PreferenceModel.load("model")
    asked = read_table(Path("data/pool/prompts.parquet"))["messages"]
    got = model.embed(json.loads(asked[0]), list(responses["text"][responses["prompt"] == 0]))
    np.testing.assert_allclose(got.responses, stored[responses["prompt"] == 0], atol=1e-3)
    parts = Parts(model.fitted, model.backbone, model.reduction, model.base, False, False, {})  # type: ignore[arg-type]
    (tmp_path / "saved").mkdir()
    save(parts, tmp_path / "saved")
    again = restore(tmp_path / "saved")  # compares the features of a fixed text
    assert again.backbone.language_model is not None
    loaded = Reduction.load(
        FeatureSettings(blocks=["states", "likelihood"], settings={"states": {"pca": 4}}),
        tmp_path / "saved/reduction.safetensors",
    )
    assert loaded.dim == 11
