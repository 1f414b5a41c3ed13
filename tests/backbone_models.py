"""Tiny random decoders, texts to read and how to embed them: for every test of backbones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from bgpm.backbones.embedding import Backbone, embed

Text = tuple[list[dict[str, str]], str | None]
SPECIAL = ["<pad>", "<s>", "</s>", "<|start|>", "<|end|>"]
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "<|start|>{{ m['role'] }}: {{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant: {% endif %}"
)
DECODERS = [f"{family}{kind}" for family in ("llama", "qwen2", "gemma2") for kind in ("", " chat")]
DECODERS += ["mistral", "gemma3_text chat"]
WINDOW = 16  # tokens that a layer of Mistral, Gemma 2 and Gemma 3 sees


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


# Words that the tiny encoder's vocabulary has, so that different texts are different tokens.
TEXTS: list[Text] = [
    (user("tell me about the river number1"), "river clear useful kind exact helpful number1 answer0"),
    (user("tell me about the clock number2"), "clock vague"),
    (user("tell me"), "bread rude wrong broken useless vague rude number3 answer2 clear clear clear useful kind"),
    (user("tell me about the river number1"), None),
    (
        [*user("tell me about the engine"), {"role": "assistant", "content": "engine clear"}, *user("tell me number4")],
        "kind exact",
    ),
    (user("about the garden"), "helpful"),
    (user("question about the letter number5"), None),
]


def write_tiny_decoder(folder: Path, family: str) -> Path:
    """A random two-layer decoder that reads bytes; Llama and Gemma tokenisers add a BOS of their own, Qwen has none."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

    family, _, chat = family.partition(" ")
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*SPECIAL, *letters])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    names = {"eos_token": "</s>", "pad_token": "<pad>", "extra_special_tokens": SPECIAL[3:]}
    if family != "qwen2":
        names["bos_token"] = "<s>"
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
    if chat:
        fast.chat_template = TEMPLATE if family != "qwen2" else TEMPLATE.replace("{{ bos_token }}", "")
    extra: dict[str, Any] = {"sliding_window": WINDOW} if family in ("gemma2", "gemma3_text", "mistral") else {}
    if family.startswith("gemma"):
        extra |= {"query_pre_attn_scalar": 16, "layer_types": ["sliding_attention", "full_attention"]}
    config = AutoConfig.for_model(
        family, vocab_size=len(vocabulary), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, head_dim=16, max_position_embeddings=256,
        bos_token_id=1, eos_token_id=2, pad_token_id=0, **extra,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModel.from_config(config)
        for parameter in model.parameters():  # far from their start at zero and one, so that nothing cancels
            parameter.data.normal_(0.0, 0.3)
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def write_language_model(folder: Path, family: str) -> Path:
    """`write_tiny_decoder` with the layer that predicts words."""
    write_tiny_decoder(folder, family)
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
        for parameter in model.parameters():
            parameter.data.normal_(0.0, 0.3)
    model.save_pretrained(folder)
    return folder


def embedded(backbone: Backbone, texts: list[Text], batch_tokens: int = 4096) -> tuple[np.ndarray, dict[str, int]]:
    out = np.full((len(texts), backbone.layers, backbone.width), np.nan, np.float32)
    counts = embed(backbone, texts, out, batch_tokens=batch_tokens)
    return out, counts
