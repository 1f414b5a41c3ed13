"""Tokens per CPU-second of embedding, against the plain way in the same process, and equal values.

``python -m benchmarks.embedding`` prints a table; `benchmarks.gpu` is its like for a GPU. Each line is measured in a
process of its own. The plain way is two padded forward passes a pair, chosen and rejected, 16 pairs in file order,
with the same pooling of every layer; tokens are those of the pairs, padding not counted, so that a text that stands in
three pairs counts three times for both:

* ``minilm``: pairs of the shipped pool, where a response stands in several pairs (ours embeds it once);
* ``minilm-apart``: as many pairs in which every response stands once;
* ``decoder``: a small random Llama, prompts of about 200 tokens with two responses of about 200 (ours reads a prompt
  once).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from benchmarks._table import peak_mib
from bgpm.backbones import BackboneSettings
from bgpm.backbones.embedding import Backbone, collate, embed, load_backbone, pool, tokens
from bgpm.data.readers import read_rows
from bgpm.data.schema import PoolSettings, as_json
from bgpm.registry import parse
from bgpm.stage import read_params

PAIRS, BATCH = 200, 16
Text = tuple[list[dict[str, str]], str | None]
Pair = tuple[Text, Text]


def shipped(apart: bool) -> list[Pair]:
    """Pairs of the shipped pool, in file order; ``apart`` leaves out those with a response that stood before."""
    pairs: list[Pair] = []
    seen: set[tuple[str, str]] = set()
    for row in read_rows(parse(PoolSettings, read_params()["pool"], "pool")):
        messages = json.loads(as_json(row.prompt))
        keys = {(as_json(row.prompt), text) for text in (row.a, row.b)}
        if apart and keys & seen:
            continue
        seen |= keys
        pairs.append(((messages, row.a), (messages, row.b)))
    return pairs[:PAIRS]


def made_up(prompt: int, response: int) -> list[Pair]:
    """Pairs of random words, half as long to one and a half times as long as said."""
    rng = np.random.default_rng(0)

    def words(mean: int) -> str:
        return " ".join(f"w{n}" for n in rng.integers(0, 900, rng.integers(mean // 2, mean * 3 // 2)))

    pairs: list[Pair] = []
    for _ in range(PAIRS // 4):
        messages = [{"role": "user", "content": words(prompt)}]
        pairs.append(((messages, words(response)), (messages, words(response))))
    return pairs


def minilm() -> Backbone:
    return load_backbone(parse(BackboneSettings, read_params()["backbone"], "backbone"))


def llama(attention: str = "sdpa", device: str = "cpu", dtype: torch.dtype = torch.float32, **size: int) -> Backbone:
    """A Llama of random weights that reads words ``w0`` to ``w899``."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoModel, LlamaConfig, PreTrainedTokenizerFast

    vocabulary = {word: n for n, word in enumerate(["<pad>", "<s>", "</s>", "<unk>", *(f"w{n}" for n in range(900))])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )
    config = LlamaConfig.from_dict({"vocab_size": len(vocabulary), "max_position_embeddings": 4096} | size)
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModel.from_config(config, dtype=dtype, attn_implementation=attention)
    return Backbone(model.eval(), fast, "last", 4096)


def small_llama() -> Backbone:
    return llama(
        hidden_size=384, intermediate_size=1024, num_hidden_layers=4, num_attention_heads=6, num_key_value_heads=2
    )


CASES: dict[str, tuple[Callable[[], Backbone], Callable[[], list[Pair]], str]] = {
    "minilm": (minilm, lambda: shipped(apart=False), "MiniLM, pairs of the shipped pool"),
    "minilm-apart": (minilm, lambda: shipped(apart=True), "MiniLM, every answer in one pair"),
    "decoder": (small_llama, lambda: made_up(200, 200), "4-layer Llama, two answers a prompt"),
}


def plain(backbone: Backbone, pairs: Sequence[Pair]) -> np.ndarray:
    """[pairs, 2, layers, width] by two padded forward passes a batch of pairs, in file order."""
    parts = []
    with torch.inference_mode():
        for first in range(0, len(pairs), BATCH):
            sides = []
            for side in (0, 1):
                chunk = [tokens(backbone, *pair[side]) for pair in pairs[first : first + BATCH]]
                inputs, marks = collate(backbone, chunk)
                states = backbone.model(**inputs, output_hidden_states=True).hidden_states
                sides.append(torch.stack([pool(s, marks) for s in states], 1))
            parts.append(torch.stack(sides, 1).cpu().numpy())
    return np.concatenate(parts)


def ours(backbone: Backbone, pairs: Sequence[Pair]) -> np.ndarray:
    """The same by `embed`: each distinct text once, looked up for every pair."""
    texts = {json.dumps(text): text for pair in pairs for text in pair}
    out = np.empty((len(texts), backbone.layers, backbone.width), np.float32)
    embed(backbone, list(texts.values()), out)
    row = {key: n for n, key in enumerate(texts)}
    return out[[[row[json.dumps(text)] for text in pair] for pair in pairs]]


def measure(case: str) -> dict[str, Any]:
    """One line of the table, in this process."""
    torch.set_num_threads(1)
    load, read, what = CASES[case]
    backbone, pairs = load(), read()
    ours(backbone, pairs[:8])
    plain(backbone, pairs[:8])  # warm both
    size = sum(len(tokens(backbone, *text).ids) for pair in pairs for text in pair)
    before = peak_mib()
    found, seconds, peaks = {}, {}, {}
    for name, way in (("ours", ours), ("plain", plain)):
        began = time.process_time()
        found[name] = way(backbone, pairs)
        seconds[name] = time.process_time() - began
        peaks[name] = peak_mib()
    difference = float(np.abs(found["ours"] - found["plain"]).max())
    return {
        "what": f"{what}: {len(pairs)} pairs, {size:,} tokens",
        "rate": size / seconds["ours"],
        "plain": size / seconds["plain"],
        "before": before,
        "peak": peaks["ours"],
        "difference": difference,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=sorted(CASES), help="measure one line in this process")
    arguments = parser.parse_args()
    command = [sys.executable, "-m", "benchmarks.embedding"]
    if arguments.only:
        print(json.dumps(measure(arguments.only)))
        return
    print("| what, one thread | tokens per CPU-second | peak MiB (before) | reference | difference | times faster |")
    print("|---|---|---|---|---|---|")
    for case in CASES:
        done = subprocess.run([*command, "--only", case], check=True, capture_output=True, text=True)
        m = json.loads(done.stdout.splitlines()[-1])
        print(
            f"| {m['what']} | {m['rate']:,.0f} | {m['peak']:.0f} ({m['before']:.0f}) | two padded passes a pair: "
            f"{m['plain']:,.0f} | {m['difference']:.0e} | {m['rate'] / m['plain']:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
