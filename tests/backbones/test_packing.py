"""Packed batches are single texts to rounding, or they are not used: each tiny family against one text at a time."""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
import shutil
import sys
import types
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from backbone_models import DECODERS, TEXTS, WINDOW, Text, embedded, user
from conftest import write_tiny_bert
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel

from bgpm.backbones import BackboneSettings, packing
from bgpm.backbones.embedding import Backbone, Tokens, is_causal, load_backbone, tokens

INTERNAL = "_attn_implementation_internal"  # where transformers keeps the name of a model's attention
# Answers to one prompt, with and without others between them; each of the prompts is longer than a window of attention.
SHARED: list[Text] = [
    (user("tell me about the river number1"), "river clear useful kind exact helpful number1 answer0"),
    (user("tell me about the engine number7"), "clear"),
    (user("tell me about the river number1"), "vague"),
    (user("tell me about the river number1"), ""),
    (user("tell me about the engine number7"), "rude wrong broken useless " * 3),
    (user("tell me"), "kind"),
]


def found(backbone: Backbone) -> tuple[packing.Packing | None, str]:
    return packing.find(backbone, causal=is_causal(backbone.model))


def alone(backbone: Backbone, texts: list[Text]) -> np.ndarray:
    """One forward pass a text, without any of our batches."""
    rows = []
    for messages, response in texts:
        t = tokens(backbone, messages, response)
        with torch.inference_mode():
            states = backbone.model(input_ids=torch.tensor([t.ids]), output_hidden_states=True).hidden_states
        span = slice(t.start, t.stop) if backbone.pooling == "mean" else slice(len(t.ids) - 1, None)
        rows.append(np.stack([s[0, span].float().numpy().mean(0) for s in states]))
    return np.stack(rows)


def check(backbone: Backbone, atol: float = 2e-5) -> None:
    for pooling in ("mean", "last"):
        model = dataclasses.replace(backbone, pooling=pooling)
        for texts in (TEXTS, SHARED):
            for budget in (1, 90, 10**6):
                got, _ = embedded(model, texts, batch_tokens=budget)
                np.testing.assert_allclose(got, alone(model, texts), atol=atol, rtol=1e-5)


def test_a_family_is_packed_where_it_can_be_and_decoders_share_prompts(backbone: Backbone) -> None:
    how, why = found(backbone)
    if backbone.model.config.model_type == "gemma2":  # its soft cap needs flash-attention
        assert (how, why) == (None, "attention is eager")
    else:
        assert how == packing.Packing(0, share=is_causal(backbone.model))


def test_packed_texts_are_single_texts(backbone: Backbone) -> None:
    check(backbone)
    assert backbone.model.config._attn_implementation in ("sdpa", "eager")  # as it was


def test_the_log_says_how_texts_are_read(loaded: Callable[[str], Backbone], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "bgpm")
    for name in ("bert", "llama", "gemma2"):
        embedded(loaded(name), TEXTS)
    assert caplog.messages == [
        "embed: packed batches",
        "embed: packed batches, responses share their prompt",
        "embed: padded batches: attention is eager",
    ]


# What lies in a row.


def some_tokens(rng: np.random.Generator) -> list[Tokens]:
    items = []
    for _ in range(60):
        prompt = [int(rng.integers(3))] * int(rng.choice([2, 9, 20]))
        response = rng.integers(10, 99, int(rng.integers(1, 30))).tolist()
        items.append(Tokens(prompt + response, len(prompt), len(prompt) + max(1, len(response) - 1)))
    return items


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("budget", [1, 25, 60, 200, 10**6])
def test_every_text_lies_in_one_row_in_order_with_its_own_positions(share: bool, budget: int) -> None:
    items = some_tokens(np.random.default_rng(0))
    rows = []
    packed = list(packing.packs(items, budget, share=share))
    for pack in packed:
        assert len(pack.ids) == len(pack.positions)
        assert len(pack.ids) <= budget or len(pack.texts) == 1
        assert [s.start for s in pack.segments] == [0, *(s.stop for s in pack.segments[:-1])]
        ends = {s.stop - 1: s for s in pack.segments}
        for row, start, stop, last in pack.texts:
            segment = ends[last]
            seen = [*range(segment.prefix, segment.until), *range(segment.start, segment.stop)]
            assert [pack.ids[n] for n in seen] == items[row].ids
            assert [pack.positions[n] for n in seen] == list(range(len(seen)))
            assert pack.ids[start:stop] == items[row].ids[items[row].start : items[row].stop]
            rows.append(row)
    assert sorted(rows) == list(range(len(items)))
    total = sum(len(pack.ids) for pack in packed)
    everything = sum(len(t.ids) for t in items)
    assert total == everything if not share or budget == 1 else total <= everything
    if share and budget == 10**6:  # each shared beginning lies there once
        short = sum(len(t.ids) for t in items if t.start < packing.SHORTEST_SHARED)
        groups = {tuple(t.ids[: t.start]) for t in items if t.start >= packing.SHORTEST_SHARED}
        responses = sum(len(t.ids) - t.start for t in items if t.start >= packing.SHORTEST_SHARED)
        assert total == short + responses + sum(map(len, groups))


def test_a_prompt_that_was_cut_differently_is_not_shared() -> None:
    items = [Tokens(list(range(20)), 12, 20), Tokens([*range(1, 12), 50, 51], 11, 13)]
    (pack,) = packing.packs(items, 100, share=True)
    assert len(pack.ids) == 33


# Models that only look alike.


def variant(folder: Path, model_type: str, **extra: Any) -> Backbone:
    """A tiny random encoder of another family, with the tiny BERT's tokeniser."""
    write_tiny_bert(folder)
    vocabulary = json.loads((folder / "config.json").read_text())["vocab_size"]
    config = AutoConfig.for_model(
        model_type, vocab_size=vocabulary, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=48, max_position_embeddings=130, pad_token_id=0, **extra,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModel.from_config(config)
        for parameter in model.parameters():
            parameter.data.normal_(0.0, 0.3)
    model.save_pretrained(folder)
    return load_backbone(BackboneSettings(path=str(folder)))


def test_positions_that_count_from_behind_the_padding_tokens_number_are_found(tmp_path: Path) -> None:
    backbone = variant(tmp_path, "roberta")
    places = backbone.model.embeddings.position_embeddings
    assert backbone.max_tokens == min(256, places.num_embeddings - places.padding_idx - 1)
    assert found(backbone) == (packing.Packing(1, share=False), "")
    check(backbone)


def test_an_encoder_with_a_window_that_looks_both_ways_is_read_in_padded_batches(tmp_path: Path) -> None:
    backbone = variant(
        tmp_path, "modernbert", local_attention=8, global_attn_every_n_layers=2, cls_token_id=2, sep_token_id=3,
        bos_token_id=2, eos_token_id=3,
    )  # fmt: skip
    assert found(backbone) == (None, "its attention has a window that looks both ways")
    check(backbone)


def test_a_model_with_an_attention_of_its_own_is_read_in_padded_batches(
    loaded: Callable[[str], Backbone], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = variant(tmp_path, "mpnet")  # with a position bias in every layer
    assert found(backbone) == (None, "attention is eager")
    check(backbone)
    llama = loaded("llama")
    monkeypatch.setattr(llama.model, "_supports_attention_backend", False)
    assert found(llama) == (None, "it takes no attention function but its own")
    check(llama)


def test_a_model_whose_packed_texts_come_out_differently_is_read_in_padded_batches(
    loaded: Callable[[str], Backbone], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = packing.attend

    def leaky(module: Any, query: Any, key: Any, value: Any, mask: Any, **others: Any) -> Any:
        whole = [packing.Segment(0, query.shape[2])]  # every text sees the others
        return right(module, query, key, value, mask, **{**others, "segments": whole})

    monkeypatch.setattr(packing, "attend", leaky)
    for name in ("bert", "llama"):
        assert found(loaded(name)) == (None, "packed texts come out differently")


def with_outliers(folder: Path, dtype: str, source: Backbone) -> Backbone:
    """A Llama that carries one coordinate of a thousand through all layers, as large models do, and lives in the rest:
    every norm shrinks the rest, and its weights make up for it."""
    shutil.copytree(source.tokenizer.name_or_path, folder)
    state = load_file(folder / "model.safetensors")
    for name, value in state.items():
        if name.endswith("norm.weight"):
            value.mul_(1000 / 32**0.5)
            if name != "norm.weight":
                value[3] = 0.0  # of the last layer's output it stays
        elif name.endswith(("o_proj.weight", "down_proj.weight")):
            value[3] = 0.0
        elif name.endswith("embed_tokens.weight"):
            value[:, 3] = 1000.0
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return load_backbone(BackboneSettings(path=str(folder), dtype=dtype))  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_coordinate_that_dwarfs_the_others_hides_no_difference(
    loaded: Callable[[str], Backbone], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    backbone = with_outliers(tmp_path / "model", dtype, loaded("llama"))
    with torch.inference_mode():
        states = backbone.model(input_ids=torch.arange(9)[None] + 40, output_hidden_states=True).hidden_states
    assert all(s[0].abs().max() > 100 * s[0].abs().median() for s in states)
    assert found(backbone) == (packing.Packing(0, share=True), "")
    right = packing.attend
    rounding, wrong = {"float32": (1e-6, 1e-3), "bfloat16": (2**-8, 0.3)}[dtype]
    for size, expected in ((rounding, packing.Packing(0, share=True)), (wrong, None)):

        def blurred(module: Any, *given: Any, size: float = size, **others: Any) -> Any:
            out, weights = right(module, *given, **others)
            noise = torch.randn(out.shape, generator=torch.Generator().manual_seed(0))
            return out * (1 + size * noise).to(out.dtype), weights

        monkeypatch.setattr(packing, "attend", blurred)
        assert found(backbone)[0] == expected


@pytest.mark.parametrize("name", ["bert", *DECODERS])
def test_what_is_right_is_packed_in_bfloat16_too(loaded: Callable[[str], Backbone], name: str) -> None:
    folder = loaded(name).tokenizer.name_or_path
    how, why = found(load_backbone(BackboneSettings(path=folder, dtype="bfloat16")))
    assert how is not None or why == "attention is eager"


@pytest.mark.parametrize("name", ["bert", "llama", "qwen2 chat"])
def test_what_is_right_is_packed_where_autocast_rounds_too(loaded: Callable[[str], Backbone], name: str) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        how, why = found(loaded(name))
    assert how is not None, why


# flash-attention's slot, with a slow stand-in for its kernel.


def slow_varlen(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cu_q: torch.Tensor, cu_k: torch.Tensor, max_q: int, max_k: int,
    *, dropout_p: float, softmax_scale: float, causal: bool, window_size: tuple[int, int], softcap: float,
) -> torch.Tensor:  # fmt: skip
    """What flash_attn_varlen_func promises: bottom-right causal, windows to both sides, soft cap, shared heads."""
    assert dropout_p == 0.0
    narrow = torch.bfloat16 if torch.is_autocast_enabled("cpu") else torch.float32  # the real one reads no float32
    assert q.dtype == k.dtype == v.dtype == narrow
    assert cu_q.dtype == cu_k.dtype == torch.int32
    assert (cu_q.diff().max(), cu_k.diff().max()) == (max_q, max_k)
    assert cu_q[-1] == len(q)
    assert cu_k[-1] == len(k) == len(v)
    out = torch.empty_like(q)
    for (a, b), (c, d) in zip(cu_q.unfold(0, 2, 1).tolist(), cu_k.unfold(0, 2, 1).tolist(), strict=True):
        for head in range(q.shape[1]):
            shared = head * k.shape[1] // q.shape[1]
            logits = softmax_scale * q[a:b, head] @ k[c:d, shared].T
            if softcap:
                logits = softcap * torch.tanh(logits / softcap)
            for row in range(b - a):
                here = row + (d - c) - (b - a)
                for column in range(d - c):
                    outside = window_size[0] >= 0 and column < here - window_size[0]
                    outside |= window_size[1] >= 0 and column > here + window_size[1]
                    if outside or (causal and column > here):
                        logits[row, column] = -torch.inf
            out[a:b, head] = logits.softmax(1) @ v[c:d, shared]
    return out


@pytest.mark.parametrize("name", ["bert", "llama", "gemma2", "gemma3_text chat"])
def test_flash_attention_is_called_for_the_same_texts(
    loaded: Callable[[str], Backbone], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(sys.modules, "flash_attn", types.SimpleNamespace(flash_attn_varlen_func=slow_varlen))
    flash = copy.deepcopy(loaded(name))
    expected = alone(flash, SHARED)
    how = packing.Packing(0, is_causal(flash.model))
    (pack,) = packing.packs([tokens(flash, *text) for text in SHARED], 10**6, share=how.share)
    # transformers would refuse flash-attention here
    monkeypatch.setattr(flash.model, "set_attn_implementation", partial(setattr, flash.model.config, INTERNAL))
    flash.model.set_attn_implementation("flash_attention_2")
    with torch.inference_mode():
        states = packing.forward(flash, how, pack)
    assert any(s.until > s.prefix for s in pack.segments) == is_causal(flash.model)
    for row, start, stop, last in pack.texts:
        span = slice(start, stop) if flash.pooling == "mean" else slice(last, last + 1)
        got = np.stack([s[span].mean(0).numpy() for s in states])
        np.testing.assert_allclose(got, expected[row], atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_flash_attention_reads_what_rotary_embeddings_widened(
    loaded: Callable[[str], Backbone], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(sys.modules, "flash_attn", types.SimpleNamespace(flash_attn_varlen_func=slow_varlen))
    flash = copy.deepcopy(loaded(name))
    monkeypatch.setattr(flash.model, "set_attn_implementation", partial(setattr, flash.model.config, INTERNAL))
    flash.model.set_attn_implementation("flash_attention_2")
    how = packing.Packing(0, is_causal(flash.model))
    (pack,) = packing.packs([tokens(flash, *text) for text in SHARED], 10**6, share=how.share)
    with torch.inference_mode():
        exact = packing.forward(flash, how, pack)
        with torch.autocast("cpu", torch.bfloat16):
            coarse = packing.forward(flash, how, pack)
    apart = (coarse[-1].float() - exact[-1]).square().mean().sqrt()
    assert 0 < apart < 0.1 * exact[-1].square().mean().sqrt()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU and flash-attention")
@pytest.mark.parametrize("name", DECODERS)
def test_flash_attention_on_a_gpu_is_sdpa_to_rounding(loaded: Callable[[str], Backbone], name: str) -> None:
    pytest.importorskip("flash_attn")
    folder = loaded(name).tokenizer.name_or_path
    states = []
    for attention in ("flash", "eager"):
        backbone = load_backbone(BackboneSettings(path=folder, dtype="bfloat16", attention=attention))  # type: ignore
        states.append(embedded(backbone, SHARED)[0])
    assert np.abs(states[0] - states[1]).max() < 0.1 * np.abs(states[1]).max()
    assert min(len(tokens(loaded(name), *text).ids) for text in SHARED) > WINDOW
