"""A tiny random decoder with its language-model head, and a small task to train it on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Project, tiny_benchmark, tiny_pool

from bgpm.training import Task

SETTINGS = {"epochs": 2.0, "batch_size": 8, "learning_rate": 3e-3, "holdout": 0.0, "checks": 4}


def write_tiny_qwen(folder: Path) -> Path:
    """A random two-layer Qwen2 with a word-level vocabulary and a head of its own for words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    words = {w for row in [*tiny_pool(40), *tiny_benchmark()] for v in row.values() for w in str(v).split()}
    vocabulary = {word: n for n, word in enumerate(["<pad>", "</s>", "<unk>", "Human", "Assistant", ":", *sorted(words)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    config = Qwen2Config(
        vocab_size=len(vocabulary), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=128, bos_token_id=None, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        Qwen2ForCausalLM(config).save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    return folder
