"""Which attention a model runs with: the first there can be, or the one asked for, or a clear error."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from transformers import Gemma2Model, LlamaModel

from bgpm.backbones import BackboneSettings
from bgpm.backbones.attention import resolve_attention
from bgpm.backbones.embedding import Backbone, load_backbone
from bgpm.errors import ConfigError

INSTALL = r"run `pip install --no-build-isolation -e '\.\[flash-attn\]'`"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A GPU that can, with flash-attention installed; a test takes away what it likes."""
    state = SimpleNamespace(capability=(9, 0), installed=True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: state.capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if state.installed else None)
    return state


def resolved(asked: str, model: type | None = LlamaModel, device: str = "cuda:0", dtype: str = "bfloat16") -> str:
    return resolve_attention(asked, model, device=device, dtype=dtype)[0]  # type: ignore[arg-type]


def test_auto_takes_the_first_that_there_can_be(gpu: SimpleNamespace) -> None:
    for model in (LlamaModel, Gemma2Model):
        assert resolved("auto", model) == resolved("flash", model) == "flash_attention_2"
    for left in ({"device": "cpu"}, {"dtype": "float32"}):
        assert resolved("auto", **left) == "sdpa"  # type: ignore[arg-type]
        assert resolved("auto", Gemma2Model, **left) == "eager"  # type: ignore[arg-type]
    gpu.capability = (7, 5)
    assert resolved("auto") == "sdpa"
    gpu.capability, gpu.installed = (8, 0), False
    assert resolved("auto") == "sdpa"
    assert resolved("auto", None) == "sdpa"  # a model of its own code: transformers refuses if it must
    assert resolved("eager") == "eager"
    assert resolved("sdpa") == "sdpa"


def test_flash_attention_that_cannot_be_says_what_is_missing(gpu: SimpleNamespace) -> None:
    asked = r"backbone\.attention: flash-attention is asked for, but "
    with pytest.raises(ConfigError, match=asked + "the model is not on a GPU; set it to auto or sdpa"):
        resolved("flash", device="cpu")
    with pytest.raises(ConfigError, match=asked + r"it knows no float32; set backbone\.dtype to bfloat16"):
        resolved("flash", dtype="float32")
    with pytest.raises(ConfigError, match=asked + "the model has none"):
        resolved("flash", None)
    gpu.installed = False
    with pytest.raises(ConfigError, match=asked + "it is not installed; " + INSTALL):
        resolved("flash")
    gpu.capability = (7, 5)
    with pytest.raises(ConfigError, match=asked + "Tesla T4 is too old for it"):
        resolved("flash")


def test_sdpa_of_a_model_that_has_none_is_an_error() -> None:
    with pytest.raises(ConfigError, match="sdpa is asked for, but Gemma2Model has none; set it to eager or auto"):
        resolved("sdpa", Gemma2Model, device="cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_loaded_model_has_the_attention_and_the_log_says_why(
    loaded: Callable[[str], Backbone], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "bgpm")
    said = {
        ("llama", "auto"): "attention: sdpa (no flash-attention: the model is not on a GPU)",
        ("llama", "eager"): "attention: eager (asked for)",
        ("gemma2", "auto"): "attention: eager (no flash-attention: the model is not on a GPU; "
        "no sdpa: Gemma2Model has none)",
    }
    for (name, asked), line in said.items():
        folder = loaded(name).tokenizer.name_or_path
        caplog.clear()
        backbone = load_backbone(BackboneSettings(path=folder, attention=asked))  # type: ignore[arg-type]
        assert backbone.model.config._attn_implementation == line.split()[1]
        assert caplog.messages.count(line) == 1
    with pytest.raises(ConfigError, match="flash-attention is asked for, but the model is not on a GPU"):
        load_backbone(BackboneSettings(path=loaded("llama").tokenizer.name_or_path, attention="flash"))
