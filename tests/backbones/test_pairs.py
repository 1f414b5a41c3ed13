"""Both responses in one context: the difference of two orders, packed or one text at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from backbone_models import user, write_language_model

from bgpm.backbones import BackboneSettings
from bgpm.backbones.embedding import Backbone, is_causal, load_backbone
from bgpm.backbones.likelihood import require_decoder
from bgpm.backbones.pairs import PairText, embed_pairs, frame, require_few
from bgpm.errors import ConfigError
from bgpm.features import PairReading

TEMPLATE = "{prompt}\n1 {response_a}\n2 {response_b}\nbetter?"
RIVER, CLOCK = user("tell me about the river number1"), user("tell me about the clock number2")
TURNS = [*CLOCK, {"role": "assistant", "content": "clock clear"}, *user("tell me")]
PAIRS: list[PairText] = [
    (RIVER, "river clear", "river vague rude number3"),
    (RIVER, "river vague rude number3", "river clear"),  # the first one turned
    (RIVER, "river clear", "kind"),
    (CLOCK, "exact helpful", ""),
    (TURNS, "useful", "broken useless"),
    (CLOCK, "same", "same"),
]


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Backbone]:
    folders: dict[str, Path] = {}

    def load(family: str, *, letters: bool = True, **settings: object) -> Backbone:
        if family not in folders:
            folders[family] = write_language_model(tmp_path_factory.mktemp("decoder"), family)
        path = {"path": str(folders[family]), "max_tokens": 250}
        return load_backbone(BackboneSettings.model_validate(path | settings), letters=letters)

    return load


def read(backbone: Backbone, pairs: list[PairText], *, asks: bool) -> tuple[np.ndarray, np.ndarray]:
    states = np.zeros((len(pairs), backbone.layers, backbone.width), np.float32)
    letters = np.zeros((len(pairs), 1))
    embed_pairs(backbone, pairs, TEMPLATE, states, letters, asks=asks, batch_tokens=600)
    return states, letters[:, 0]


def plainly(backbone: Backbone, text: str, second: str, *, chat: bool) -> tuple[np.ndarray, float]:
    """Pooled states of one order and the log odds of A over B, from one text alone."""
    tok = backbone.tokenizer

    def ids(some: str) -> list[int]:
        return list(tok(some, add_special_tokens=False, split_special_tokens=not chat)["input_ids"])

    before, after = text.split("<SECOND>")
    head = [] if chat else [tok.bos_token_id]
    whole = [*head, *ids(before), *ids(second), *ids(after)]
    model = backbone.language_model or backbone.model
    with torch.inference_mode():
        output = model(input_ids=torch.tensor([whole]), output_hidden_states=True)
    start = len(head) + len(ids(before))
    stop = start + max(len(ids(second)), 1)
    span = slice(start, stop) if backbone.pooling == "mean" else slice(-1, None)
    pooled = np.stack([state[0, span].mean(0).numpy() for state in output.hidden_states])
    if backbone.language_model is None:
        return pooled, 0.0
    logits = output.logits[0, -1]
    a, b = (logits[ids(("" if chat else " ") + letter)[0]] for letter in "AB")
    return pooled, float(a - b)


@pytest.mark.parametrize(("family", "attention"), [("llama chat", "sdpa"), ("llama chat", "eager")])
@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_a_pair_is_half_the_difference_of_its_two_orders_read_alone(
    decoder: Callable[..., Backbone], family: str, attention: str, pooling: str
) -> None:
    asks = pooling == "last"
    backbone = decoder(family, attention=attention, pooling=pooling, letters=asks)
    states, letters = read(backbone, PAIRS, asks=asks)
    talk = {
        id(RIVER): RIVER[0]["content"], id(CLOCK): CLOCK[0]["content"],
        id(TURNS): "Human: tell me about the clock number2\n\nAssistant: clock clear\n\nHuman: tell me",
    }  # fmt: skip
    for n, (messages, first, second) in enumerate(PAIRS):
        text = f"<s><|start|>user: {talk[id(messages)]}\n1 %s\n2 <SECOND>\nbetter?<|end|><|start|>assistant: "
        one, said = plainly(backbone, text % first, second, chat=True)
        other, turned = plainly(backbone, text % second, first, chat=True)
        np.testing.assert_allclose(states[n], (one - other) / 2, atol=2e-5)
        assert letters[n] == pytest.approx((said - turned) / 2 if asks else 0.0, abs=1e-4)
    assert np.abs(states[:5, -1]).max(1).min() > 2e-3
    assert not states[5].any()
    assert np.array_equal(states[0], -states[1])
    assert letters[0] == -letters[1]
    assert not asks or abs(letters[0]) > 1e-3


def test_a_pair_depends_on_nothing_but_its_texts_and_turns_its_sign_to_the_bit(
    decoder: Callable[..., Backbone], bert: Backbone
) -> None:
    for backbone, asks in ((decoder("qwen2 chat"), True), (bert, False)):
        whole, letters = read(backbone, PAIRS, asks=asks)
        turned, opposite = read(backbone, [(m, b, a) for m, a, b in PAIRS], asks=asks)
        assert np.array_equal(turned, -whole)
        assert np.array_equal(opposite, -letters)
        some, few = read(backbone, PAIRS[2:4][::-1], asks=asks)
        np.testing.assert_allclose(some[::-1], whole[2:4], atol=2e-6)
        np.testing.assert_allclose(few[::-1], letters[2:4], atol=2e-6)
        other, _ = read(backbone, [(CLOCK, *PAIRS[0][1:])], asks=asks)
        assert np.abs(other[0] - whole[0]).max() > 1e-4  # the prompt is read
        assert np.abs(whole[:5]).max() > 1e-3


@pytest.mark.parametrize("lengths", [(40, 300), (300, 40), (200, 300), (3, 4)])
def test_what_is_too_long_loses_the_prompt_first_and_then_both_responses_alike(
    decoder: Callable[..., Backbone], lengths: tuple[int, int]
) -> None:
    backbone = dataclasses.replace(decoder("llama chat"), max_tokens=160)
    known = frame(backbone, TEMPLATE)
    first, second, prompt = "x" * lengths[0], "y" * lengths[1], "z" * 200
    one = known.tokens(backbone.tokenizer, user(prompt), first, second)
    other = known.tokens(backbone.tokenizer, user(prompt), second, first)
    text = backbone.tokenizer.decode(one.ids).replace(" ", "")
    assert len(one.ids) == len(other.ids) <= 160
    assert one.cut_prompt == other.cut_prompt
    assert one.cut_response == other.cut_response
    assert text.endswith("Ċbetter?<|end|><|start|>assistant:Ġ")
    half = known.room // 2
    kept = [min(mine, max(half, known.room - its)) for mine, its in (lengths, lengths[::-1])]
    assert [text.count("x"), text.count("y")] == kept
    assert text.count("z") == known.room - sum(kept) == 200 - one.cut_prompt
    assert one.cut_response == sum(lengths) - sum(kept)
    assert backbone.tokenizer.decode(one.ids[one.start : one.stop]).replace(" ", "") == "y" * kept[1]


def test_what_cannot_be_read_is_refused_with_what_to_do(decoder: Callable[..., Backbone], bert: Backbone) -> None:
    with pytest.raises(ConfigError, match=r"features\.pair_states\.letters asks which token .* is an encoder"):
        require_decoder(is_causal(bert.model), "bert", "features.pair_states.letters")
    backbone = decoder("llama")
    with pytest.raises(ConfigError, match=r"letters are read at the last token, and backbone\.pooling is mean; set"):
        read(dataclasses.replace(backbone, pooling="mean"), PAIRS, asks=True)
    with pytest.raises(ConfigError, match=r"letters: A is 2 tokens of this backbone"):
        read(backbone, PAIRS, asks=True)  # its bytes make " A" two
    with pytest.raises(ConfigError, match=r"max_tokens: 20, and features\.pair_states\.template takes \d+ tokens"):
        frame(dataclasses.replace(backbone, max_tokens=20), TEMPLATE)
    with pytest.raises(ConfigError, match=r"the pool has 1,200 pairs, 2,400 forwards .* max_pairs is 1,000; raise it"):
        require_few(1200, 1000, "the pool")
    require_few(1000, 1000, "the pool")
    with pytest.raises(ValueError, match=r"template: expected {prompt} once, got it 0 times"):
        PairReading(template="{response_a} {response_b}")
