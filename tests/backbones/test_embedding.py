"""Texts become vectors: tiny random models of the usual families against a slow reference, and the real MiniLM."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from backbone_models import SPECIAL, TEMPLATE, TEXTS, Text, embedded, user
from conftest import ROOT

from bgpm.backbones import BackboneSettings, embedding
from bgpm.backbones.embedding import (
    Backbone,
    Tokens,
    batches,
    collate,
    load_backbone,
    plain_transcript,
    pool,
    resolve,
    tokens,
    verify,
    without_system,
    writes_date,
)
from bgpm.errors import BgpmError, ConfigError, DataError, NumericsError, ShapeError, WeightsError
from bgpm.registry import parse


def spelt(backbone: Backbone, messages: list[dict[str, str]], response: str | None) -> tuple[list[int], slice]:
    """Ids of a text and where what is pooled stands in them, put together another way: from strings."""
    tok = backbone.tokenizer

    def ids(text: str) -> list[int]:  # special tokens are read as such here
        return tok(text, add_special_tokens=False)["input_ids"]

    if tok.cls_token is not None:
        text = messages[0]["content"] if len(messages) == 1 else plain_transcript(messages)
        before, after = "[CLS]" + text + ("" if response is None else "[SEP]"), "[SEP]"
        prompt_start = ids("[CLS]")
    else:
        bos = tok.bos_token or ""
        if tok.chat_template:
            before = bos + "".join(f"<|start|>{m['role']}: {m['content']}<|end|>" for m in messages)
            before += "" if response is None else "<|start|>assistant: "
        else:
            before = bos + plain_transcript(messages) + ("" if response is None else "\n\nAssistant:")
            response = None if response is None else " " + response
        after, prompt_start = "</s>", ids(bos)
    if response is None:
        return ids(before) + ids(after), slice(len(prompt_start), len(ids(before)))
    return ids(before) + ids(response) + ids(after), slice(len(ids(before)), len(ids(before)) + len(ids(response)))


# What is read.


def test_tokens_are_spelt_as_expected_with_one_bos_and_one_closing_token(backbone: Backbone) -> None:
    tok = backbone.tokenizer
    for messages, response in TEXTS:
        expected, pooled = spelt(backbone, messages, response)
        got = tokens(backbone, messages, response)
        assert got == Tokens(expected, pooled.start, pooled.stop)
        if tok.bos_token_id is not None:
            assert got.ids.count(tok.bos_token_id) == 1
            assert got.ids[0] == tok.bos_token_id
        if tok.cls_token_id is None:
            assert got.ids.count(tok.eos_token_id) == 1
            assert got.ids[-1] == tok.eos_token_id


def test_no_special_token_is_pooled_in_a_mean(backbone: Backbone) -> None:
    special = set(backbone.tokenizer.all_special_ids)
    for messages, response in TEXTS:
        got = tokens(backbone, messages, response)
        if response is not None:
            assert not special & set(got.ids[got.start : got.stop])
        else:  # in a prompt alone only what a chat template puts between turns
            assert special & set(got.ids[got.start : got.stop]) <= set(
                backbone.tokenizer.convert_tokens_to_ids(SPECIAL[3:])
            )


def test_special_tokens_spelt_in_an_answer_are_plain_text(backbone: Backbone) -> None:
    special = {i for i in backbone.tokenizer.all_special_ids if i != backbone.tokenizer.unk_token_id}
    trick = "kind " + " ".join(backbone.tokenizer.all_special_tokens) + " exact"
    got = tokens(backbone, user("tell me"), trick)
    assert not special & set(got.ids[got.start : got.stop])
    assert got.stop - got.start > 5
    again = tokens(backbone, user("tell me"), "kind exact")  # nothing of that sticks to the tokeniser
    assert again.ids == spelt(backbone, user("tell me"), "kind exact")[0]


def test_an_answer_is_the_same_tokens_after_every_prompt(backbone: Backbone) -> None:
    response = "clear useful kind"
    pieces = set()
    for text in ("tell me", "about the river", "number1 number2 number3"):
        got = tokens(backbone, user(text), response)
        pieces.add(tuple(got.ids[got.start : got.stop]))
    assert len(pieces) == 1


def test_an_empty_answer_is_spoken_for_by_one_real_token(backbone: Backbone) -> None:
    got = tokens(backbone, user("tell me about the river"), "")
    assert got.stop - got.start == 1
    assert got.stop <= len(got.ids)
    for pooling in ("mean", "last"):
        states, _ = embedded(dataclasses.replace(backbone, pooling=pooling), [(user("tell me"), ""), *TEXTS])
        assert np.isfinite(states).all()
    bare = copy.deepcopy(backbone.tokenizer)
    bare.eos_token = bare.sep_token = None
    got = tokens(dataclasses.replace(backbone, tokenizer=bare), user("tell me about the river"), "")
    assert got.start < got.stop <= len(got.ids)


# What is cut.


@pytest.mark.parametrize("room", [40, 72, 90])
def test_a_prompt_is_cut_from_the_left_and_its_answer_is_kept(backbone: Backbone, room: int) -> None:
    small = dataclasses.replace(backbone, max_tokens=room)
    long = user(" ".join(f"tell{n}" for n in range(120)) + " the river")
    response = "clear useful kind"
    whole, pooled = spelt(backbone, long, response)
    got = tokens(small, long, response)
    assert len(got.ids) == room
    assert got.ids[got.start : got.stop] == whole[pooled]
    assert (got.cut_prompt, got.cut_response) == (len(whole) - room, 0)
    opening = (
        backbone.tokenizer.bos_token_id if backbone.tokenizer.cls_token is None else backbone.tokenizer.cls_token_id
    )
    if opening is None:
        assert got.ids == whole[-room:]
    else:
        assert got.ids == [opening, *whole[1 - room :]]  # what opens every text is not lost with the prompt's beginning


def test_a_prompt_alone_is_cut_from_the_left(backbone: Backbone) -> None:
    long = user(" ".join(f"tell{n}" for n in range(120)) + " the river")
    whole, _ = spelt(backbone, long, None)
    got = tokens(dataclasses.replace(backbone, max_tokens=30), long, None)
    opening = 0 if backbone.tokenizer.bos_token_id is None and backbone.tokenizer.cls_token_id is None else 1
    assert got.ids == whole[:opening] + whole[opening - 30 :]
    assert (got.start, got.stop, got.cut_prompt) == (opening, 29, len(whole) - 30)


def test_an_answer_too_long_by_itself_is_cut_from_the_right_after_its_whole_prompt(backbone: Backbone) -> None:
    small = dataclasses.replace(backbone, max_tokens=20)
    response = "clear useful kind exact helpful " * 12
    whole, pooled = spelt(backbone, user("tell me"), response)
    got = tokens(small, user("tell me"), response)
    assert len(got.ids) == 20
    assert got.ids[got.start : got.stop] == whole[pooled][: got.stop - got.start]
    assert got.cut_response == len(whole[pooled]) - (got.stop - got.start) > 0
    assert got.ids[-1] == whole[-1]
    prompt = len(whole) - len(whole[pooled]) - 1  # with what opens and separates, which is never cut
    assert got.cut_prompt == prompt - got.start


def test_a_text_that_just_fits_loses_nothing(backbone: Backbone) -> None:
    for messages, response in TEXTS:
        size = len(spelt(backbone, messages, response)[0])
        fits = tokens(dataclasses.replace(backbone, max_tokens=size), messages, response)
        assert (len(fits.ids), fits.cut_prompt, fits.cut_response) == (size, 0, 0)
        tight = tokens(dataclasses.replace(backbone, max_tokens=size - 1), messages, response)
        assert (len(tight.ids), tight.cut_prompt + tight.cut_response) == (size - 1, 1)


def test_cut_texts_are_counted(bert: Backbone) -> None:
    small = dataclasses.replace(bert, max_tokens=10)
    texts: list[Text] = [
        (user("tell me"), "kind"),
        (user("tell me about the river number1"), "river clear useful kind exact"),
        (user("tell me"), "kind " * 20),
        (user("tell " * 20), None),
    ]
    _, counts = embedded(small, texts)
    assert counts == {"texts": 4, "tokens": 6 + 10 + 10 + 10, "prompts_cut": 3, "responses_cut": 1}
    assert embedded(bert, texts)[1] == {"texts": 4, "tokens": 6 + 14 + 25 + 22, "prompts_cut": 0, "responses_cut": 0}


def test_cut_texts_are_reported_once_with_the_limit(bert: Backbone, caplog: pytest.LogCaptureFixture) -> None:
    texts: list[Text] = [(user("tell " * 50), "kind"), (user("tell me"), "kind " * 50), (user("tell me"), "kind")]
    embedded(dataclasses.replace(bert, max_tokens=40), texts)
    assert [r.getMessage() for r in caplog.records if r.levelname == "WARNING"] == [
        "embed: of 3 texts 2 lost the beginning of their prompt and 1 the end of their response: over 40 tokens"
    ]
    caplog.clear()
    embedded(bert, texts[2:])
    assert not [r for r in caplog.records if r.levelname == "WARNING"]


# What comes out.


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_pooling_reads_the_same_from_batches_padded_on_either_side(backbone: Backbone, pooling: str) -> None:
    model = dataclasses.replace(backbone, pooling=pooling)
    chunk = [tokens(model, *text) for text in TEXTS]
    reference, _ = embedded(model, TEXTS)
    for side in ("right", "left"):
        if side == "left" and model.tokenizer.cls_token is not None:
            with pytest.raises(ShapeError, match="an encoder's batches are padded on the right"):
                collate(model, chunk, side)
            continue
        inputs, marks = collate(model, chunk, side)  # type: ignore[arg-type]
        edge = 0 if side == "left" else -1
        assert inputs["attention_mask"][:, edge].sum() == sum(len(t.ids) == inputs["input_ids"].shape[1] for t in chunk)
        with torch.inference_mode():
            states = model.model(**inputs, output_hidden_states=True).hidden_states
        for layer, state in enumerate(states):
            np.testing.assert_allclose(pool(state, marks).cpu(), reference[:, layer], atol=2e-5, rtol=1e-5)


def test_a_tokeniser_without_a_padding_token_changes_nothing(backbone: Backbone) -> None:
    bare = copy.deepcopy(backbone.tokenizer)
    bare.pad_token = None
    model = dataclasses.replace(backbone, tokenizer=bare)
    assert (backbone.pad, model.pad) == (0, bare.eos_token_id or 0)
    np.testing.assert_array_equal(embedded(model, TEXTS)[0], embedded(backbone, TEXTS)[0])
    inputs, marks = collate(model, [tokens(model, *text) for text in TEXTS])
    with torch.inference_mode():
        state = model.model(**inputs).last_hidden_state
    np.testing.assert_allclose(pool(state, marks).cpu(), embedded(backbone, TEXTS)[0][:, -1], atol=2e-5, rtol=1e-5)


def test_embedding_reads_without_dropout_and_leaves_a_model_in_training_as_it_was(bert: Backbone) -> None:
    model = copy.deepcopy(bert.model).train()
    assert model.config.hidden_dropout_prob > 0
    got, _ = embedded(dataclasses.replace(bert, model=model), TEXTS)
    np.testing.assert_array_equal(got, embedded(bert, TEXTS)[0])
    assert model.training
    assert not bert.model.training


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_vectors_are_those_of_the_slow_reference(backbone: Backbone, pooling: str) -> None:
    got, _ = embedded(dataclasses.replace(backbone, pooling=pooling), TEXTS)
    assert got.dtype == np.float32
    device = next(backbone.model.parameters()).device
    for row, (messages, response) in enumerate(TEXTS):
        ids, pooled = spelt(backbone, messages, response)
        with torch.inference_mode():
            states = backbone.model(
                input_ids=torch.tensor([ids], device=device), output_hidden_states=True
            ).hidden_states
        assert len(states) == backbone.layers == 3
        for layer, state in enumerate(states):
            mine = state[0].cpu().double().numpy()
            slow = sum(mine[pooled]) / len(mine[pooled]) if pooling == "mean" else mine[-1]
            np.testing.assert_allclose(got[row, layer], slow, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_a_vector_does_not_depend_on_batch_size_order_or_padding_side(backbone: Backbone, pooling: str) -> None:
    model = dataclasses.replace(backbone, pooling=pooling)
    alone, _ = embedded(model, TEXTS, batch_tokens=1)
    together, _ = embedded(model, TEXTS, batch_tokens=10**6)
    np.testing.assert_allclose(together, alone, atol=2e-5, rtol=1e-5)
    order = np.random.default_rng(0).permutation(len(TEXTS))
    shuffled, _ = embedded(model, [TEXTS[row] for row in order], batch_tokens=120)
    np.testing.assert_allclose(shuffled, alone[order], atol=2e-5, rtol=1e-5)
    left = copy.deepcopy(model.tokenizer)
    left.padding_side = left.truncation_side = "left"
    turned, _ = embedded(dataclasses.replace(model, tokenizer=left), TEXTS, batch_tokens=10**6)
    np.testing.assert_array_equal(turned, together)
    assert np.ptp(alone[:, 1:], axis=0).max() > 0.1  # they are different texts after all


def test_the_same_texts_give_the_same_bytes(backbone: Backbone) -> None:
    assert embedded(backbone, TEXTS)[0].tobytes() == embedded(backbone, TEXTS)[0].tobytes()


def test_an_answer_is_read_in_the_context_of_its_prompt(backbone: Backbone) -> None:
    states, _ = embedded(
        dataclasses.replace(backbone, pooling="mean"),
        [(user("tell me about the river"), "clear"), (user("violin"), "clear")],
    )
    if backbone.tokenizer.cls_token is None:  # embeddings of a decoder know no position
        np.testing.assert_allclose(states[0, 0], states[1, 0], atol=1e-6)
    assert np.abs(states[0, -1] - states[1, -1]).max() > 1e-3


def test_a_decoder_takes_its_last_token_and_an_encoder_the_mean(backbone: Backbone) -> None:
    assert backbone.pooling == ("mean" if backbone.tokenizer.cls_token is not None else "last")
    folder = backbone.tokenizer.name_or_path
    for pooling in ("mean", "last"):
        assert load_backbone(BackboneSettings(path=folder, pooling=pooling)).pooling == pooling  # type: ignore[arg-type]


def test_bfloat16_is_close_and_stored_as_float32(bert: Backbone) -> None:
    narrow = load_backbone(BackboneSettings(path=bert.tokenizer.name_or_path, dtype="bfloat16"))
    assert next(narrow.model.parameters()).dtype == torch.bfloat16
    states, _ = embedded(narrow, TEXTS)
    reference, _ = embedded(bert, TEXTS)
    assert 0 < np.abs(states - reference).max() < 0.1


def test_states_that_are_not_finite_are_an_error_that_names_the_text(bert: Backbone) -> None:
    model = copy.deepcopy(bert.model)
    word = bert.tokenizer.convert_tokens_to_ids("helpful")
    for row, text in enumerate(TEXTS):
        assert ("helpful" in (text[1] or "")) == (row in (0, 5))
    with torch.no_grad():
        model.get_input_embeddings().weight[word] = float("nan")
    with pytest.raises(NumericsError, match="states of text 0 are not finite; the weights are damaged"):
        embedded(dataclasses.replace(bert, model=model), TEXTS)
    with pytest.raises(NumericsError, match="states of text 2 are not finite"):
        embedded(dataclasses.replace(bert, model=model), [TEXTS[1], TEXTS[2], TEXTS[5], TEXTS[3]])


def test_nothing_to_embed_is_nothing(bert: Backbone) -> None:
    assert embedded(bert, [])[1] == {"texts": 0, "tokens": 0, "prompts_cut": 0, "responses_cut": 0}


def test_a_conversation_the_chat_template_refuses_is_an_error_of_ours(loaded: Callable[[str], Backbone]) -> None:
    system = [{"role": "system", "content": "be kind"}, *user("tell me")]
    with pytest.raises(DataError, match="refuses a conversation of system, user: System role not supported"):
        tokens(loaded("gemma2 chat"), system, "kind")
    assert tokens(loaded("gemma2"), system, "kind").stop > 0
    assert plain_transcript([*system, {"role": "assistant", "content": "a"}, {"role": "tool", "content": "b"}]) == (
        "System: be kind\n\nHuman: tell me\n\nAssistant: a\n\ntool: b"
    )


@pytest.mark.parametrize("how", ["fold", "drop"])
def test_a_system_turn_that_the_template_refuses_is_folded_or_dropped_and_counted(
    loaded: Callable[[str], Backbone], how: Any
) -> None:
    model = loaded("gemma2 chat")
    told = dataclasses.replace(model, system_turns=how)
    system = [{"role": "system", "content": "be kind"}, *user("tell me")]
    alone = user("be kind\n\ntell me" if how == "fold" else "tell me")
    got = tokens(told, system, "kind")
    assert got == dataclasses.replace(tokens(model, alone, "kind"), moved=True)
    assert not tokens(told, user("tell me"), "kind").moved
    states, counts = embedded(told, [(system, "kind"), (alone, "kind"), (user("why"), "no")])
    assert counts["system_turns_moved"] == 1
    assert np.array_equal(states[0], states[1])
    with pytest.raises(DataError, match=r"2 of 3 texts \(row 0, row 2\): .*set backbone\.system_turns to fold or drop"):
        embedded(model, [(system, "kind"), (user("why"), "no"), (system, None)])
    knows = copy.deepcopy(model.tokenizer)
    knows.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    read = tokens(dataclasses.replace(told, tokenizer=knows), system, "kind")
    assert read == tokens(dataclasses.replace(model, tokenizer=knows), system, "kind")
    assert not read.moved


def test_folded_system_turns_stand_above_the_user_turn_that_follows() -> None:
    turns = [("system", "a"), ("user", "b"), ("assistant", "c"), ("system", "d"), ("system", "e"), ("user", "f")]
    messages = [{"role": role, "content": text} for role, text in [*turns, ("system", "g")]]
    folded = without_system(messages, fold=True)
    assert [(m["role"], m["content"]) for m in folded] == [
        ("user", "a\n\nb"), ("assistant", "c"), ("user", "d\n\ne\n\nf"), ("user", "g"),
    ]  # fmt: skip
    dropped = without_system(messages, fold=False)
    assert [m["content"] for m in dropped] == ["b", "c", "f"]


def test_a_template_that_writes_the_date_is_given_a_fixed_one(loaded: Callable[[str], Backbone]) -> None:
    """The clock is no input: Llama 3.2's and others write today's."""
    model = loaded("qwen2 chat")
    assert not writes_date(model.tokenizer)
    dated = copy.deepcopy(model.tokenizer)
    llama = "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    dated.chat_template = llama + "Today Date: {{ date_string }} " + TEMPLATE
    assert writes_date(dated)
    given = dataclasses.replace(model, tokenizer=dated, template_date="2021-03-04")
    fixed = copy.deepcopy(model.tokenizer)
    fixed.chat_template = "Today Date: 04 Mar 2021 " + TEMPLATE
    assert tokens(given, user("tell me"), "kind") == tokens(
        dataclasses.replace(model, tokenizer=fixed), user("tell me"), "kind"
    )
    assert tokens(dataclasses.replace(given, template_date="2022-03-04"), user("tell me"), "kind") != tokens(
        given, user("tell me"), "kind"
    )


@pytest.mark.parametrize("day", ["2024-7-26", "today", "26 Jul 2024", 20240726, None])
def test_a_template_date_is_a_day(day: object) -> None:
    with pytest.raises(ConfigError, match=r"backbone\.template_date"):
        parse(BackboneSettings, {"path": "x", "template_date": day}, "backbone")
    for right in ("2024-07-26", date(2024, 7, 26)):
        found = parse(BackboneSettings, {"path": "x", "template_date": right}, "backbone")
        assert found.template_date == "2024-07-26"


def test_templates_without_a_default_are_an_error_of_ours(loaded: Callable[[str], Backbone]) -> None:
    several = copy.deepcopy(loaded("qwen2 chat").tokenizer)
    several.chat_template = {"rag": TEMPLATE, "tools": TEMPLATE}
    with pytest.raises(DataError, match="the backbone's chat template refuses a conversation of user"):
        tokens(dataclasses.replace(loaded("qwen2 chat"), tokenizer=several), user("tell me"), "kind")


def test_a_chat_template_without_bos_gets_none_and_loses_nothing(loaded: Callable[[str], Backbone]) -> None:
    model = loaded("llama chat")
    bare = copy.deepcopy(model.tokenizer)
    bare.chat_template = TEMPLATE.replace("{{ bos_token }}", "")
    expected, pooled = spelt(model, user("tell me"), "kind")
    got = tokens(dataclasses.replace(model, tokenizer=bare), user("tell me"), "kind")
    assert got == Tokens(expected[1:], pooled.start - 1, pooled.stop - 1)


@pytest.mark.parametrize("budget", [1, 7, 20, 64, 10**6])
def test_batches_hold_every_text_once_within_their_budget(budget: int) -> None:
    lengths = np.random.default_rng(0).integers(1, 30, 50).tolist()
    chunks = list(batches(lengths, budget))
    assert sorted(row for chunk in chunks for row in chunk) == list(range(50))
    for chunk in chunks:
        assert len(chunk) == 1 or len(chunk) * max(lengths[row] for row in chunk) <= budget
    sizes = [lengths[row] for chunk in chunks for row in chunk]
    assert sizes == sorted(sizes, reverse=True)
    assert list(batches([], budget)) == []


# What is loaded.


def test_wrong_weights_are_refused_and_the_right_ones_pass(bert: Backbone, tmp_path: Path) -> None:
    folder = bert.tokenizer.name_or_path
    digest = hashlib.sha256((Path(folder) / "model.safetensors").read_bytes()).hexdigest()
    verify(folder, digest)
    load_backbone(BackboneSettings(path=folder, sha256=digest))
    with pytest.raises(
        WeightsError, match=f"wrong weights: expected SHA-256 {'0' * 64}, got {digest}; reinstall the package"
    ):
        load_backbone(BackboneSettings(path=folder, sha256="0" * 64))
    with pytest.raises(WeightsError, match=r"model\.safetensors does not exist; set it to null to skip the check"):
        verify(str(tmp_path), digest)
    for wrong in ("abc", digest.upper(), digest + "0"):
        with pytest.raises(ConfigError, match=r"backbone\.sha256"):
            parse(BackboneSettings, {"path": folder, "sha256": wrong}, "backbone")


def test_pickled_weights_are_refused_and_safetensors_beside_them_are_read(bert: Backbone, tmp_path: Path) -> None:
    folder = tmp_path / "old"
    shutil.copytree(bert.tokenizer.name_or_path, folder)
    torch.save(bert.model.state_dict(), folder / "pytorch_model.bin")
    settings = BackboneSettings(path=str(folder))
    load_backbone(settings)
    (folder / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"pytorch_model\.bin: pickled weights, .*convert them to safetensors"):
        load_backbone(settings)
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(WeightsError, match=r"old.*not read; convert them to safetensors|old.*one whole model"):
        load_backbone(settings)


@pytest.mark.parametrize(
    "name", ["no_such_package_anywhere", "no_such_package_anywhere.inside", "", ".relative", "sys"]
)
def test_a_missing_package_says_how_to_get_it(name: str) -> None:
    with pytest.raises(WeightsError, match=r"the package '.*' is not installed; run `make install`"):
        resolve(f"package:{name}")


def test_a_package_without_a_model_is_said_so() -> None:
    with pytest.raises(
        WeightsError, match=r"the package 'json' at .* carries no config\.json beside model\.safetensors"
    ):
        resolve("package:json")
    assert resolve("some/hub-id") == "some/hub-id"


@pytest.mark.parametrize("path", ["/no/such/folder", "./no/such/folder", "no such folder"])
def test_a_folder_that_is_not_there_is_named(path: str) -> None:
    with pytest.raises(WeightsError, match=f"backbone.path: {path!r} cannot be loaded as a hub id or a folder"):
        load_backbone(BackboneSettings(path=path))


def test_a_hub_id_without_a_network_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        WeightsError, match=r"a hub id needs a network .* without a network give a local folder"
    ) as error:
        load_backbone(BackboneSettings(path="nobody/no-such-model-anywhere"))
    assert "\n" not in str(error.value)


def test_code_that_comes_with_a_model_runs_only_where_it_is_trusted(bert: Backbone, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(bert.tokenizer.name_or_path, folder)
    (folder / "theirs.py").write_text(
        "from transformers import BertConfig, BertModel\n"
        "class TheirConfig(BertConfig):\n    model_type = 'theirs'\n"
        "class TheirModel(BertModel):\n    config_class = TheirConfig\n"
    )
    change(folder, model_type="theirs", auto_map={"AutoConfig": "theirs.TheirConfig", "AutoModel": "theirs.TheirModel"})
    with pytest.raises(WeightsError, match=r"set backbone\.trust_remote_code to true if you trust its authors"):
        load_backbone(BackboneSettings(path=str(folder)))
    theirs = load_backbone(BackboneSettings(path=str(folder), trust_remote_code=True, pooling="mean"))
    assert type(theirs.model).__name__ == "TheirModel"


def test_an_encoder_with_a_decoder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    with pytest.raises(ConfigError, match=r"is a t5, an encoder with a decoder; take an encoder or a decoder"):
        load_backbone(BackboneSettings(path=str(tmp_path)))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_asked_for_and_not_there_is_an_error(bert: Backbone) -> None:
    folder = bert.tokenizer.name_or_path
    with pytest.raises(ConfigError, match=r"backbone\.device: cuda is asked for, but torch sees no GPU; set"):
        load_backbone(BackboneSettings(path=folder, device="cuda"))
    assert load_backbone(BackboneSettings(path=folder, device="cpu")).model.device.type == "cpu"


def test_each_process_takes_its_own_gpu_and_more_processes_than_gpus_are_refused(
    bert: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name, value in {"RANK": "3", "WORLD_SIZE": "6", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "3"}.items():
        monkeypatch.setenv(name, value)
    assert embedding.own_device("auto") == embedding.own_device("cuda") == "cuda:1"
    assert embedding.own_device("cpu") == "cpu"
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ConfigError, match=r"launcher\.processes: process 2 of this machine has no GPU .* there are 2"):
        load_backbone(BackboneSettings(path=bert.tokenizer.name_or_path))


def one_layer_more(folder: Path) -> None:
    change(folder, num_hidden_layers=3)


def change(folder: Path, **keys: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


def cut_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def lose_tokeniser(folder: Path) -> None:
    for path in folder.iterdir():
        if path.name.startswith(("tokenizer", "vocab", "special_tokens")):
            path.unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut_weights, "cannot be loaded"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\xff" * 64), "cannot be loaded"),
        (lambda folder: (folder / "model.safetensors").unlink(), "cannot be loaded"),
        (lambda folder: (folder / "config.json").write_text("{"), "cannot be loaded"),
        (lambda folder: change(folder, model_type="no_such_model"), "cannot be loaded"),
        (lambda folder: change(folder, hidden_size=16), "cannot be loaded"),
        (one_layer_more, "lacks 16 weights of its model, the first is encoder.layer.2."),
        (lose_tokeniser, r"knows 5 tokens, its model \d+; add the tokeniser's files"),
    ],
    ids=[
        "cut weights",
        "no safetensors",
        "no weights",
        "broken config",
        "unknown type",
        "other width",
        "other depth",
        "no tokeniser",
    ],
)
def test_a_damaged_model_folder_is_refused_and_never_filled_with_random_weights(
    bert: Backbone, tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(bert.tokenizer.name_or_path, folder)
    damage(folder)
    with pytest.raises(WeightsError, match=message) as caught:
        load_backbone(BackboneSettings(path=str(folder)))
    assert isinstance(caught.value, BgpmError)


def test_a_pooler_that_a_checkpoint_lacks_is_not_missed(bert: Backbone, tmp_path: Path) -> None:
    from transformers import BertForMaskedLM

    BertForMaskedLM(bert.model.config).save_pretrained(tmp_path)
    bert.tokenizer.save_pretrained(tmp_path)
    assert load_backbone(BackboneSettings(path=str(tmp_path))).layers == 3


def test_the_longest_text_is_what_model_and_tokeniser_both_allow(bert: Backbone, tmp_path: Path) -> None:
    assert bert.max_tokens == 128  # the model's position embeddings, where 256 were asked for
    long = load_backbone(BackboneSettings(path=bert.tokenizer.name_or_path, max_tokens=1000))
    states, counts = embedded(long, [(user("tell " * 500), "kind " * 500)])
    assert (counts["tokens"], counts["prompts_cut"], counts["responses_cut"]) == (128, 1, 1)
    assert np.isfinite(states).all()
    assert load_backbone(BackboneSettings(path=bert.tokenizer.name_or_path, max_tokens=64)).max_tokens == 64
    limited = copy.deepcopy(bert.tokenizer)
    limited.model_max_length = 100
    shutil.copytree(bert.tokenizer.name_or_path, tmp_path / "limited")
    limited.save_pretrained(tmp_path / "limited")
    assert load_backbone(BackboneSettings(path=str(tmp_path / "limited"))).max_tokens == 100


def test_a_loaded_model_is_frozen_and_without_dropout(backbone: Backbone) -> None:
    assert not backbone.model.training
    assert not any(p.requires_grad for p in backbone.model.parameters())


# The backbone that ships.


@pytest.fixture(scope="module")
def minilm() -> Backbone:
    settings = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))["backbone"]
    return load_backbone(parse(BackboneSettings, settings, "backbone"))  # its SHA-256 is checked


def test_the_shipped_minilm_has_seven_layers_of_384(minilm: Backbone) -> None:
    states, counts = embedded(
        minilm, [(user("Why is the sky blue?"), "Because air scatters short waves more."), (user("Hi"), None)]
    )
    assert states.shape == (2, 7, 384)
    assert (minilm.pooling, minilm.max_tokens) == ("mean", 256)
    assert counts["prompts_cut"] == counts["responses_cut"] == 0
    assert np.isfinite(states).all()


def test_the_shipped_minilm_puts_similar_sentences_closer(minilm: Backbone) -> None:
    groups = [
        ["A man is playing a guitar.", "Someone plays the guitar on stage."],
        ["The stock market fell sharply today.", "Shares dropped steeply this afternoon."],
        ["How do I bake sourdough bread?", "What is the recipe for a sourdough loaf?"],
    ]
    states, _ = embedded(minilm, [(user(text), None) for group in groups for text in group])
    last = states[:, -1] / np.linalg.norm(states[:, -1], axis=1, keepdims=True)
    cosine = last @ last.T
    same = [cosine[0, 1], cosine[2, 3], cosine[4, 5]]
    other = [cosine[a, b] for a in range(6) for b in range(a) if a // 2 != b // 2]
    assert min(same) > 0.6, same
    assert max(other) < 0.3, other


def test_the_shipped_minilm_pools_words_as_its_authors_do(minilm: Backbone) -> None:
    # Sentence-transformers average over [CLS] and [SEP] too; leaving them out must not turn the vector round.
    text = "The quick brown fox jumps over the lazy dog."
    states, _ = embedded(minilm, [(user(text), None)])
    batch = minilm.tokenizer(text, return_tensors="pt").to(minilm.model.device)
    with torch.inference_mode():
        theirs = minilm.model(**batch).last_hidden_state[0].mean(0).cpu().numpy()
    ours = states[0, -1]
    assert float(ours @ theirs) / float(np.linalg.norm(ours) * np.linalg.norm(theirs)) > 0.98


def test_the_shipped_minilm_reads_brackets_as_text(minilm: Backbone) -> None:
    got = tokens(minilm, user("Which token ends a BERT input?"), "It is [SEP], and [MASK] hides one.")
    assert not {101, 102, 103, 0} & set(got.ids[got.start : got.stop])


def test_an_array_on_disk_has_its_space_from_the_start(tmp_path: Path) -> None:
    out = embedding.on_disk(tmp_path / "states.npy", (3000, 1000))
    assert (out.shape, out.dtype) == ((3000, 1000), np.float32)
    state = (tmp_path / "states.npy").stat()
    assert state.st_blocks * 512 >= state.st_size > 12_000_000
    out[-1] = 1.0
    out.flush()
    np.testing.assert_array_equal(np.load(tmp_path / "states.npy")[-1], np.ones(1000))
