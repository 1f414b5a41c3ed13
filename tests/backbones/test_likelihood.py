"""Likelihoods of a response are what the decoder itself says, one token after another."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from backbone_models import TEXTS, write_language_model, write_tiny_decoder

from bgpm.backbones import BackboneSettings
from bgpm.backbones.embedding import Backbone, embed, load_backbone, tokens
from bgpm.errors import ConfigError, WeightsError
from bgpm.types import LIKELIHOODS

ANSWERED = [text for text in TEXTS if text[1] is not None]
ANSWERED += [(TEXTS[0][0], "river vague"), (TEXTS[0][0], ""), (TEXTS[0][0], "kind")]  # a prompt that is shared


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Backbone]:
    folders: dict[str, Path] = {}

    def load(family: str, **settings: object) -> Backbone:
        if family not in folders:
            folders[family] = write_language_model(tmp_path_factory.mktemp("decoder"), family)
        path = {"path": str(folders[family])}
        return load_backbone(BackboneSettings.model_validate(path | settings), likelihood=True)

    return load


def slowly(backbone: Backbone, ids: list[int], start: int, stop: int) -> list[tuple[float, float]]:
    """Log-probability of each token at start..stop and entropy of its prediction, from a forward for each."""
    found = []
    for at in range(max(start, 1), stop):
        with torch.inference_mode():
            logits = backbone.language_model(input_ids=torch.tensor([ids[:at]])).logits[0, -1].double()
        p = torch.softmax(logits, 0)
        found.append((float(torch.log(p[ids[at]])), float(-(p * torch.log(p)).sum())))
    return found


def reference(backbone: Backbone, text: tuple) -> list[float]:
    t = tokens(backbone, *text)
    said, entropy = zip(*slowly(backbone, t.ids, t.start, t.stop), strict=True)
    opening = backbone.tokenizer.bos_token_id
    bare = [backbone.tokenizer.eos_token_id if opening is None else opening, *t.ids[t.start :]]
    alone = [value for value, _ in slowly(backbone, bare, 1, 1 + t.stop - t.start)]
    return [
        np.mean(said), np.sum(said), said[0], min(said), said[-1], np.mean(entropy), np.mean(said) - np.mean(alone)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("family", "attention"), [("llama chat", "sdpa"), ("qwen2", "sdpa"), ("llama", "eager")],
    ids=["packed with a shared prompt", "no opening token", "padded"],
)  # fmt: skip
def test_likelihoods_are_those_of_a_forward_for_each_token(
    decoder: Callable[..., Backbone], family: str, attention: str
) -> None:
    backbone = decoder(family, attention=attention, pooling="mean")
    numbers = np.full((len(ANSWERED), len(LIKELIHOODS)), np.inf)
    states = np.empty((len(ANSWERED), backbone.layers, backbone.width), np.float32)
    embed(backbone, ANSWERED, states, likelihood=numbers, batch_tokens=300)
    expected = np.array([reference(backbone, text) for text in ANSWERED])
    np.testing.assert_allclose(numbers, expected, rtol=1e-4, atol=1e-4)
    assert expected.std(0).min() > 1e-3
    bare = dataclasses.replace(backbone, language_model=None)
    without = np.empty_like(states)
    embed(bare, ANSWERED, without, batch_tokens=300)
    np.testing.assert_array_equal(states, without)  # one forward gives both


def test_a_text_that_is_cut_to_its_first_token_is_said_without_it(decoder: Callable[..., Backbone]) -> None:
    backbone = dataclasses.replace(decoder("qwen2"), max_tokens=8)  # no opening token, and the response fills it
    text = (ANSWERED[0][0], "a response longer than eight tokens")
    assert tokens(backbone, *text).start == 0
    numbers = np.empty((1, len(LIKELIHOODS)))
    embed(backbone, [text], np.empty((1, backbone.layers, backbone.width), np.float32), likelihood=numbers)
    np.testing.assert_allclose(numbers[0], reference(backbone, text), rtol=1e-4, atol=1e-4)


def test_a_decoder_that_caps_its_logits_and_an_encoder_are_refused(
    decoder: Callable[..., Backbone], fresh_project: object, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"likelihood cannot be read of Gemma2ForCausalLM: it does more"):
        decoder("gemma2", attention="eager")
    encoder = f"{fresh_project.folder}/tiny/backbone"  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match=r"likelihood asks which token comes next, and '.*' is an encoder"):
        load_backbone(BackboneSettings(path=encoder), likelihood=True)
    bare = write_tiny_decoder(tmp_path / "bare", "llama")
    with pytest.raises(WeightsError, match=r"lacks 1 weights of its model, the first is lm_head\.weight"):
        load_backbone(BackboneSettings(path=str(bare)), likelihood=True)
