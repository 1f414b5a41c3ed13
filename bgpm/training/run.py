"""One task from files to files: train a backbone, then embed all texts with it. Ranks of a launcher start here too.

``python -m bgpm.training.run train|embed TASK.json`` is what a launcher runs; see `bgpm.training.work`.
"""

from __future__ import annotations

import contextlib
import copy
import ctypes
import hashlib
import json
import logging
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from bgpm.backbones import packing
from bgpm.backbones.embedding import embed, is_causal, on_disk, own_device
from bgpm.data.feature_blocks import write_blocks
from bgpm.data.tables import as_pairs, read_array, read_table, where
from bgpm.data.texts import TextSet
from bgpm.features.reduction import Reduction
from bgpm.fingerprints import code_fingerprint
from bgpm.launch import end_with_stage, is_launched, local_rank_world, own_cores, process_group, rank_world
from bgpm.models import Model
from bgpm.posteriors import Posterior
from bgpm.registry import build, parse
from bgpm.stage import generator
from bgpm.stage import run as run_stage
from bgpm.training import WHERE, Task
from bgpm.training.batches import Collator, alike, evenly, held_out, order
from bgpm.training.builds import refuse_stale_locks
from bgpm.training.checkpoint import export_backbone, restore_backbone
from bgpm.training.network import PreferenceNetwork, ScoreHead, load_base, prepare, starting_head
from bgpm.training.trainer import fit
from bgpm.types import Comparisons, Features
from bgpm.values import read_json

log = logging.getLogger("bgpm")

SMALL = 2**20  # weights; threads then wait for each other longer than they work
PR_SET_PDEATHSIG = 1  # of prctl: the signal that this process gets when its parent ends


def run(step: str, task: Task) -> None:
    """One step of a task, ``train`` or ``embed``."""
    before = torch.get_num_threads()
    try:
        {"train": train, "embed": embed_all}[step](task)
    finally:
        torch.set_num_threads(before)


def _take_cores(model: torch.nn.Module) -> None:
    """This process's share of the cores, for a model that is large enough to keep several busy."""
    if sum(parameter.numel() for parameter in model.parameters()) > SMALL:
        torch.set_num_threads(own_cores())


def train(task: Task) -> None:
    """Train the backbone and write ``out/backbone``.

    Raises:
        BgpmError: As the parts do.
    """
    settings = task.training
    if settings.deepspeed and is_launched() and local_rank_world()[0] == 0:
        refuse_stale_locks()
    head = build(Model, task.model["kind"], _without_kind(task.model), "models")
    posterior = build(Posterior, task.posterior["kind"], _without_kind(task.posterior), "posteriors")
    data, texts = _labels(task), TextSet.read(Path(task.pool))
    reduction = Reduction.load(task.reduction, Path(task.features) / "reduction.safetensors")
    responses, prompts = (read_array(Path(task.features) / f"{name}.npy") for name in ("responses", "prompts"))
    features = Features(responses, prompts, reduction.blocks)
    seed = int(generator("training", settings.seed, task.seed).integers(2**31))
    out = held_out(data.pairs.prompt, settings.holdout, seed=seed)
    seen = Comparisons(data.pairs.take(~out), data.label[~out], None if data.margin is None else data.margin[~out])
    start = starting_head(posterior, head, features, seen, seed=task.seed)
    untrained = ScoreHead(copy.deepcopy(start), posterior)
    backbone, net = load_base(settings, task.backbone)
    _take_cores(net)
    net.eval()
    with torch.autocast(next(net.parameters()).device.type, torch.bfloat16, enabled=settings.bf16):
        packed, why = packing.find(backbone, causal=is_causal(backbone.model))
    if rank_world()[0] == 0:
        log.info("train %s: %s", task.name, packed.described if packed else f"padded batches: {why}")
    scores = ScoreHead(start, posterior)
    collator = Collator(
        backbone,
        texts,
        data,
        prompts=scores.reads_prompt,
        statistics=_statistics(reduction, features),
        margins=getattr(posterior, "margin", False),
        spoken=settings.regulariser.kind != "none",
        noise_dim=scores.noise_dim,
        seed=seed,
        packed=packed,
    )
    examples = order(np.flatnonzero(~out), settings.epochs, settings.steps, settings.batch_size, seed=seed)
    if packed is None:
        examples = alike(examples, collator.length, settings.batch_size)
    else:
        parts = rank_world()[1] * settings.accumulation
        examples = evenly(examples, collator.length, settings.batch_size, parts)
    with contextlib.ExitStack() as stack:
        varlen = stack.enter_context(packing.own_attention(backbone.model)) if packed else None
        torch.manual_seed(seed)  # draws the adapters
        model = PreferenceNetwork(net, backbone.model, reduction, scores, settings.regulariser, varlen)
        root = prepare(model, settings)
        weights, summary = fit(
            root,
            settings,
            posterior,
            collator,
            examples,
            [(-1, int(row)) for row in np.flatnonzero(out)],
            _side_folder(task),
            on_gpu=own_device(task.backbone.device) != "cpu",
            seed=seed,
        )
    if rank_world()[0] == 0:
        export_backbone(
            root, weights, untrained, summary, Path(task.out) / "backbone",
            mode=settings.mode, tokenizer=backbone.tokenizer, reduction=reduction, base=task.backbone,
        )  # fmt: skip


def embed_all(task: Task) -> None:
    """Features of the pool's and the benchmark's texts under ``out/backbone``, in ``out/features``."""
    trained = restore_backbone(Path(task.out) / "backbone", task.backbone)
    _take_cores(trained.backbone.model)
    with process_group() as group:
        for which, folder in (("pool", task.pool), ("benchmark", task.benchmark)):
            texts, target = TextSet.read(Path(folder)), Path(task.out) / "features" / which
            title = f"embed {which} of {task.name}"
            for name, items, spoken, asked in (
                ("responses", texts.responses(), texts.response_texts, list(texts.prompt_texts[texts.prompt])),
                ("prompts", texts.prompts(), texts.prompt_texts, None),
            ):
                if group is not None and group.rank() != 0:
                    embed(trained.backbone, items, None, title=title, group=group)
                    continue
                target.mkdir(parents=True, exist_ok=True)
                shape = len(items), trained.backbone.layers, trained.backbone.width
                with tempfile.TemporaryDirectory(dir=target) as scratch:  # every layer of a large pool is large
                    states = on_disk(Path(scratch) / "states.npy", shape)
                    embed(trained.backbone, items, states, title=title, group=group)
                    np.save(target / f"{name}.npy", trained.reduction(states, list(spoken), asked))
            if group is None or group.rank() == 0:
                write_blocks(target, trained.reduction.blocks)


def _side_folder(task: Task) -> Path:
    """Where this very run keeps its checkpoints; those of other runs under the same name are removed."""
    digest = hashlib.sha256()
    told = task.model_dump(exclude={"out", "side", "training"}) | {
        "training": task.training.model_dump(exclude=set(WHERE))
    }
    digest.update(json.dumps(told, sort_keys=True).encode())
    script = Path(__file__)
    digest.update(code_fingerprint(Path("bgpm/training") / script.name, script.parents[2]).encode())
    # The frozen features stand for the base's weights: they are what these make of the texts.
    folders = Path(task.pool), Path(task.features)
    for path in [Path(task.labels), *(path for folder in folders for path in sorted(folder.iterdir()))]:
        digest.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    world = rank_world()[1]  # shards of one number of processes are not those of another
    deepspeed = Path(task.training.deepspeed).read_bytes() if task.training.deepspeed else b""
    digest.update(f"{world} {task.training.accumulation}".encode() + deepspeed)
    folder = Path(task.side) / f"{task.name}-{digest.hexdigest()[:16]}"
    if rank_world()[0] == 0:
        for other in Path(task.side).glob(f"{task.name}-*"):
            if other != folder:
                shutil.rmtree(other)
    return folder


def _labels(task: Task) -> Comparisons:
    """The seed's labels, each pair in the direction of its rows, so that swapping responses changes nothing."""
    table = read_table(Path(task.pool) / "pairs.parquet", ["response_a", "response_b", "prompt"])
    mine = read_table(Path(task.labels), ["seed", "pair", "label", "margin"])
    mine = where(mine, (mine["seed"] == task.seed) & ~np.isnan(mine["label"]))  # nobody may have decided
    data = Comparisons(as_pairs(where(table, mine["pair"])), mine["label"], mine["margin"])
    flipped = data.pairs.response_a > data.pairs.response_b
    return Comparisons(data.pairs.turned(flipped), np.where(flipped, 1 - data.label, data.label), data.margin)


def _statistics(reduction: Reduction, features: Features) -> tuple[np.ndarray, np.ndarray] | None:
    """Features read off responses and prompts, which no training changes."""
    block, arrays = reduction.states
    learnt = block.dim(arrays)  # states are the first block
    if learnt == features.dim:
        return None
    return features.responses[:, learnt:], features.prompts[:, learnt:]


def _without_kind(settings: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in settings.items() if name != "kind"}


def main(step: str, told: str) -> None:
    """As a rank of a launcher, and never longer than it or the stage: two runs would write the same checkpoints."""
    end_with_stage()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    run(step, parse(Task, read_json(Path(told)), "", told))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    run_stage(main)
