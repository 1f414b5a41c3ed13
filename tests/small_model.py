"""A preference model of the tiny pool, fitted in memory: for tests that only use one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from conftest import tiny_pool

from bgpm.backbones import BackboneSettings
from bgpm.backbones.embedding import embed, load_backbone
from bgpm.features import FeatureSettings
from bgpm.features.reduction import Reduction
from bgpm.inference import PreferenceModel
from bgpm.models import Model
from bgpm.posteriors import Posterior
from bgpm.types import Comparisons, Features, Pairs

PROMPTS = ["tell me about the clock number1", "tell me about the river number0"]
RESPONSES = [
    "clock clear useful kind",
    "clock vague rude",
    "clock clear rude exact",
    "clock wrong broken useless vague",
]


def trained(encoder: Path, model: Model, posterior: Posterior) -> PreferenceModel:
    """A model of the tiny pool's labels."""
    settings = BackboneSettings(path=str(encoder), device="cpu")
    backbone = load_backbone(settings)
    rows = tiny_pool(12, 3)
    texts = sorted({(row["prompt"], row[side]) for row in rows for side in ("response_a", "response_b")})
    states = np.empty((len(texts), backbone.layers, backbone.width), np.float32)
    embed(backbone, [([{"role": "user", "content": prompt}], text) for prompt, text in texts], states)
    reduction = Reduction.fit(FeatureSettings(pca=16), states, [text for _, text in texts])
    at = {text: row for row, text in enumerate(texts)}
    response_a, response_b = (
        np.array([at[row["prompt"], row[side]] for row in rows]) for side in ("response_a", "response_b")
    )
    features = Features(reduction(states, [text for _, text in texts]), np.empty((len(rows), 0), np.float32))
    data = Comparisons(
        Pairs(response_a, response_b, np.arange(len(rows))), np.array([row["label"] for row in rows], np.float64)
    )
    fitted = posterior.fit(model, features, data, seed=0)
    return PreferenceModel(fitted, backbone, reduction, base=settings)
