"""A model in a folder of its own: what is saved comes back, and the card says what the run's files say."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Project, write_tiny_bert
from huggingface_hub import ModelCard
from small_model import PROMPTS, RESPONSES, trained

from bgpm.data.tables import read_table
from bgpm.errors import ConfigError, StateError
from bgpm.hub import interval
from bgpm.inference import PreferenceModel
from bgpm.models.gpm import Gpm
from bgpm.posteriors.laplace import Laplace


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bert(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def model(encoder: Path) -> PreferenceModel:
    return trained(encoder, Gpm(), Laplace(prior_precision=1.0))


def same(a: PreferenceModel, b: PreferenceModel) -> None:
    for one, other in zip(a.matrix(PROMPTS[0], RESPONSES), b.matrix(PROMPTS[0], RESPONSES), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_saved_model_says_the_same_elsewhere(model: PreferenceModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "here")
    shutil.move(tmp_path / "here", tmp_path / "there")
    found = PreferenceModel.from_pretrained(tmp_path / "there")
    same(model, found)
    found.save_pretrained(tmp_path / "again")  # a folder's backbone is copied along
    shutil.rmtree(tmp_path / "there")
    same(model, PreferenceModel.from_pretrained(tmp_path / "again"))
    assert json.loads((tmp_path / "again/config.json").read_text()) == {"library_name": "bgpm"}


def test_a_frozen_backbone_with_a_name_is_named_and_not_copied(
    model: PreferenceModel, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bgpm.backbones import embedding

    monkeypatch.setattr(embedding, "resolve", lambda path, *_: str(encoder if path == "package:tiny" else path))
    assert model.base is not None
    named = replace(model, base=model.base.model_copy(update={"path": "package:tiny"}))
    named.save_pretrained(tmp_path / "m")
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == [
        "README.md", "bgpm.json", "config.json", "head.json", "head.safetensors", "reduction.safetensors",
    ]  # fmt: skip
    same(model, PreferenceModel.from_pretrained(tmp_path / "m"))

    other = write_tiny_bert(tmp_path / "other")
    _other_weights(other)
    monkeypatch.setattr(embedding, "resolve", lambda path, *_: str(other if path == "package:tiny" else path))
    with pytest.raises(StateError, match="'package:tiny' gives other features of a fixed text"):
        PreferenceModel.from_pretrained(tmp_path / "m")


def _other_weights(folder: Path) -> None:
    import torch
    from transformers import BertConfig, BertModel

    with torch.random.fork_rng():
        torch.manual_seed(1)
        BertModel(BertConfig.from_pretrained(folder)).save_pretrained(folder)


def test_it_is_pushed_whole(model: PreferenceModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import hub_mixin

    sent: list[set[str]] = []

    class Api:
        """The hub's client, without a network."""

        def __init__(self, token: str | None = None) -> None:
            pass

        def create_repo(self, repo_id: str, **_: Any) -> Any:
            return type("Url", (), {"repo_id": repo_id})

        def upload_folder(self, *, repo_id: str, folder_path: Path, **_: Any) -> str:
            sent.append({path.name for path in Path(folder_path).iterdir()})
            shutil.copytree(folder_path, tmp_path / repo_id)
            return repo_id

    monkeypatch.setattr(hub_mixin, "HfApi", Api)
    model.push_to_hub("me/preferences")
    assert sent == [
        {
            "README.md", "backbone", "bgpm.json", "config.json", "head.json", "head.safetensors",
            "reduction.safetensors",
        }
    ]  # fmt: skip
    same(model, PreferenceModel.from_pretrained(tmp_path / "me/preferences"))


def test_a_folder_that_is_damaged_is_refused(model: PreferenceModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "m")
    described = tmp_path / "m/bgpm.json"
    text = described.read_text(encoding="utf-8")
    described.write_text(text.replace('"version": 1', '"version": 7'), encoding="utf-8")
    with pytest.raises(StateError, match=r"bgpm\.json: expected version 1, got 7"):
        PreferenceModel.from_pretrained(tmp_path / "m")
    described.unlink()
    with pytest.raises(StateError, match=r"bgpm\.json: cannot be read"):
        PreferenceModel.from_pretrained(tmp_path / "m")
    with pytest.raises(StateError, match="does not say where its backbone comes from"):
        replace(model, base=None).save_pretrained(tmp_path / "n")


def test_a_quantised_backbone_is_refused(
    model: PreferenceModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model.backbone.model, "is_quantized", True, raising=False)
    with pytest.raises(ConfigError, match="kept in four bits"):
        model.save_pretrained(tmp_path / "m")


def test_without_a_run_the_card_claims_nothing(model: PreferenceModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "m")
    card = ModelCard.load(tmp_path / "m/README.md")
    assert "None were measured" in card.text
    assert "Nothing is known of the run" in card.text
    assert card.data.library_name == "bgpm"


def test_the_interval_is_that_of_prompts_drawn_anew() -> None:
    """Against the normal interval of a ratio, where there are many prompts."""
    rng = np.random.default_rng(3)
    pairs = rng.integers(1, 6, 4000).astype(float)
    right = rng.binomial(pairs.astype(int), rng.beta(4, 2, 4000)).astype(float)
    low, high = interval(right, pairs, np.random.default_rng(0))
    rate = right.sum() / pairs.sum()
    se = np.sqrt(np.mean((right - rate * pairs) ** 2) / len(pairs)) / pairs.mean()
    np.testing.assert_allclose([low, high], [rate - 1.96 * se, rate + 1.96 * se], atol=0.25 * se)


def test_the_card_says_what_the_run_measured(finished_project: Project, tmp_path: Path) -> None:
    root, arm = finished_project.folder, "data/entropy/round-1"
    model = PreferenceModel.load(f"{arm}/model", seed=1, root=root)
    model.save_pretrained(tmp_path / "m")
    same(model, PreferenceModel.from_pretrained(tmp_path / "m"))
    card = ModelCard.load(tmp_path / "m/README.md").text
    labels = read_table(root / arm / "labels.parquet")
    assert f"Labels it was trained on: {(labels['seed'] == 1).sum()}, from the oracle `recorded`" in card
    with (root / arm / "evaluation/curve.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if (row["seed"], row["round"], row["section"]) == ("1", "1", "all")]
    values = {(row["split"], row["metric"]): float(row["value"]) for row in rows}
    assert f"| benchmark | log loss (nats) | {values['benchmark', 'nll']:.3f} |  |" in card
    (line,) = (line for line in card.splitlines() if line.startswith("| heldout | accuracy"))
    value, between = (part.strip() for part in line.split("|")[3:5])
    low, high = map(float, between.split(" to "))
    assert value == f"{values['heldout', 'accuracy']:.3f}"
    assert low <= float(value) <= high
    assert "entropy/round-1" in card
