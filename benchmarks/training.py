"""Labels per CPU-second of fine-tuning every weight, packed against padded batches of the same labels.

``python -m benchmarks.training`` prints a table; each line is measured in a process of its own. Work is what an update
asks of a model: forward and backward pass of `BATCH` labels drawn as `order` draws them, without the optimiser. The
reference is one padded pass over each label's two responses, every one of them anew. Ours reads all in one row without
padding, a response that stands in several pairs once, and in a decoder the responses to a prompt share it. Tokens are
those of the pairs' responses in their prompts, padding not counted. The difference is between gradients, the largest of
all weights against the largest gradient; dropout is off.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import time
from typing import Any

import numpy as np
import torch

from benchmarks._table import peak_mib
from benchmarks.embedding import CASES, Pair
from bgpm.backbones import packing
from bgpm.backbones.embedding import Backbone, embed, is_causal
from bgpm.data.texts import TextSet
from bgpm.features import FeatureSettings
from bgpm.features.reduction import Reduction
from bgpm.models.bt import Bt
from bgpm.posteriors.laplace import Laplace
from bgpm.training import RegulariserSettings
from bgpm.training.batches import Collator, order
from bgpm.training.network import PreferenceNetwork, ScoreHead, starting_head
from bgpm.types import Comparisons, Features, Pairs

BATCH, UPDATES = 16, 4


def tables(pairs: list[Pair]) -> tuple[TextSet, Comparisons]:
    """Pairs as the loop holds them; the label says that response_a is better."""
    asked = {json.dumps(messages): messages for pair in pairs for messages, _ in pair}
    said = {(json.dumps(messages), str(response)): None for pair in pairs for messages, response in pair}
    prompt_row = {key: row for row, key in enumerate(asked)}
    row = {key: n for n, key in enumerate(said)}
    texts = TextSet(
        list(asked.values()),
        np.array([messages[-1]["content"] for messages in asked.values()], object),
        np.array([prompt_row[prompt] for prompt, _ in said]),
        np.array([response for _, response in said], object),
    )
    sides = [np.array([row[json.dumps(pair[side][0]), str(pair[side][1])] for pair in pairs]) for side in (0, 1)]
    a, b = sides
    return texts, Comparisons(Pairs(a, b, texts.prompt[a]), np.ones(len(pairs)), None)


def model_of(backbone: Backbone, texts: TextSet, data: Comparisons) -> PreferenceNetwork:
    """The backbone with a Bradley-Terry head that starts from frozen features, as training builds it."""
    states = np.empty((len(texts.response_texts), backbone.layers, backbone.width), np.float32)
    embed(backbone, texts.responses(), states)
    reduction = Reduction.fit(
        FeatureSettings(blocks=["states"], settings={"states": {"layers": "all", "pca": 16}}),
        states,
        list(texts.response_texts),
    )
    features = Features(
        reduction(states, list(texts.response_texts)), np.zeros((len(texts.conversations), 16), np.float32)
    )
    start = starting_head(Laplace(prior_precision=1.0), Bt(), features, data, seed=0)
    head = ScoreHead(start, Laplace(prior_precision=1.0))
    return PreferenceNetwork(backbone.model, backbone.model, reduction, head, RegulariserSettings())


def measure(case: str) -> dict[str, Any]:
    """One line of the table, in this process."""
    torch.set_num_threads(1)
    load, read, what = CASES[case]
    backbone = load()
    if getattr(backbone.model, "pooler", None) is not None:
        backbone.model.pooler = None
    texts, data = tables(read())
    how, why = packing.find(backbone, causal=is_causal(backbone.model))
    assert how is not None, why
    model = model_of(backbone, texts, data).requires_grad_().eval()
    examples = order(np.arange(len(data.label)), 1.0, UPDATES, BATCH, seed=0)
    batches = [examples[at : at + BATCH] for at in range(0, len(examples), BATCH)]
    seconds, gradients, peaks = {}, {}, {}
    tokens = 0
    for name, packed in (("packed", how), ("padded", None)):
        collator = Collator(
            backbone, texts, data, prompts=False, statistics=None, margins=False, spoken=False, noise_dim=0, seed=0,
            packed=packed,
        )  # fmt: skip
        with packing.own_attention(backbone.model) if packed else contextlib.nullcontext():
            given = [collator(batch) for batch in batches]
            if not packed:  # every response anew, as without an eye to what pairs share
                given = [_anew(one) for one in given]
                tokens = sum(int(one["attention_mask"].sum()) for one in given)
            model(**given[0])["loss"].backward()  # warm
            model.zero_grad()
            began = time.process_time()
            for one in given:
                model(**one)["loss"].backward()
            seconds[name] = time.process_time() - began
        gradients[name] = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        peaks[name] = peak_mib()
        model.zero_grad()
    scale = max(float(g.abs().max()) for g in gradients["padded"].values())
    apart = max(float((gradients["packed"][n] - g).abs().max()) for n, g in gradients["padded"].items())
    labels = BATCH * UPDATES
    return {
        "what": f"{what}: {UPDATES} updates of {BATCH} labels, {tokens:,} tokens",
        "rate": labels / seconds["packed"],
        "padded": labels / seconds["padded"],
        "peak": peaks["packed"],
        "difference": apart / scale,
    }


def _anew(batch: dict[str, Any]) -> dict[str, Any]:
    """The same padded batch with a row for each response of each pair."""
    which = batch["which"]
    rows = {name: batch[name][which] for name in ("input_ids", "attention_mask", "pooling")}
    return {**batch, **rows, "which": torch.arange(len(which))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="measure one case in this process")
    arguments = parser.parse_args()
    if arguments.only:
        print(json.dumps(measure(arguments.only)))
        return
    print("| what, one thread | labels per CPU-second | peak MiB | reference | difference | times faster |")
    print("|---|---|---|---|---|---|")
    for case in CASES:
        command = [sys.executable, "-m", "benchmarks.training", "--only", case]
        m = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        print(
            f"| {m['what']} | {m['rate']:.2f} | {m['peak']:.0f} | one padded pass: {m['padded']:.2f} | "
            f"{m['difference']:.0e} | {m['rate'] / m['padded']:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
