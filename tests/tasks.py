"""Tiny backbones and the tables around them, to train on without the pipeline."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import warm
from conftest import tiny_pool, warm_server, write_tiny_bert

from bgpm.backbones import BackboneSettings
from bgpm.backbones.embedding import embed, load_backbone
from bgpm.data.tables import write_table
from bgpm.data.texts import TextSet
from bgpm.features import FeatureSettings
from bgpm.features.reduction import Reduction
from bgpm.models import Model
from bgpm.models.bt import Bt
from bgpm.posteriors import Posterior
from bgpm.posteriors.laplace import Laplace
from bgpm.training import Task, TrainingSettings

FAST: dict[str, Any] = {
    "steps": 8, "batch_size": 8, "learning_rate": 3e-3, "holdout": 0.0, "checks": 4,
    "lora": {"rank": 4, "alpha": 8.0, "dropout": 0.0, "targets": "all-linear"},
}  # fmt: skip


def write_tiny_qwen(folder: Path) -> Path:
    """A random two-layer Qwen2 of width 32 that reads bytes, with a head of its own for them."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    vocabulary = {token: n for n, token in enumerate(["<pad>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    config = Qwen2Config(
        vocab_size=len(vocabulary), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=256, bos_token_id=None, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Qwen2ForCausalLM(config)
        for parameter in model.parameters():  # far enough from 0 and 1 for layers to matter
            parameter.data.add_(torch.randn_like(parameter), alpha=0.1)
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>").save_pretrained(folder)
    return folder


HOLD = """
import sys
if {"bgpm.training.run", "stages.train"} & set(sys.orig_argv) and "torch.distributed.run" not in sys.orig_argv:
    import pathlib, time
    from bgpm.training.trainer import PreferenceTrainer, latest
    save = PreferenceTrainer._save_checkpoint

    def held(self, *given):
        if latest(pathlib.Path(self.args.output_dir)):
            time.sleep(600)
        save(self, *given)

    PreferenceTrainer._save_checkpoint = held
"""


# Ranks of DeepSpeed talk over gloo: on Linux it compiles a library for those on CPUs otherwise, for minutes.
UNCOMPILED = """
import os
if "RANK" in os.environ:
    import deepspeed.ops
    deepspeed.ops.__compatible_ops__ = {}
"""


def kill_after_a_checkpoint(module: list[str], folder: Path, env: Mapping[str, str], task: str) -> None:
    """Run ``python -m`` in a project, and kill its whole group, as a machine that goes down, once a training run has
    left a checkpoint.

    Args:
        module: Name of the module, and its arguments.
        task: Pattern of the run's folder in .checkpoints.
    """
    with subprocess.Popen(
        [sys.executable, "-m", *module], cwd=folder, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:  # fmt: skip
        deadline = time.monotonic() + 300
        while not list((folder / ".checkpoints").glob(f"{task}/checkpoint-*/complete")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGKILL)


def write_site(folder: Path, program: str) -> Path:
    """What every Python runs first that has this folder on PYTHONPATH; returns the file."""
    folder.mkdir(exist_ok=True)
    file = folder / "sitecustomize.py"
    file.write_text(program, encoding="utf-8")
    return file


class Workspace:
    """Tables and frozen features of a tiny pool under one backbone; tasks on them differ in their settings.

    Args:
        folder: Where everything lies.
        backbone: ``qwen``, a decoder with its language-model head, or ``bert``, an encoder.
        features: Section ``features`` of params.yaml.
    """

    def __init__(self, folder: Path, backbone: str, **features: Any) -> None:
        self.folder = folder
        self.reduction = FeatureSettings(**{"layers": "last", "pca": None, **features})
        path = {"qwen": write_tiny_qwen, "bert": write_tiny_bert}[backbone](folder / "backbone")
        self.backbone = BackboneSettings(path=str(path))
        self._tables("pool", tiny_pool(16))
        self._tables("benchmark", tiny_pool(3, seed=5))
        loaded, texts = load_backbone(self.backbone), TextSet.read(folder / "pool")
        states = {}
        for name, items in {"responses": texts.responses(), "prompts": texts.prompts()}.items():
            states[name] = np.empty((len(items), loaded.layers, loaded.width), np.float32)
            embed(loaded, items, states[name])
        reduction = Reduction.fit(self.reduction, states["responses"], list(texts.response_texts))
        (folder / "features").mkdir()
        np.save(folder / "features/responses.npy", reduction(states["responses"], list(texts.response_texts)))
        np.save(folder / "features/prompts.npy", reduction(states["prompts"], list(texts.prompt_texts)))
        reduction.save(folder / "features/reduction.safetensors")

    def _tables(self, name: str, rows: list[dict[str, Any]]) -> None:
        prompts = list(dict.fromkeys(row["prompt"] for row in rows))
        responses = list(
            dict.fromkeys((row["prompt"], row[key]) for row in rows for key in ("response_a", "response_b"))
        )
        at = {response: n for n, response in enumerate(responses)}
        messages = [json.dumps([{"role": "user", "content": prompt}]) for prompt in prompts]
        write_table(self.folder / name / "prompts.parquet", {"messages": messages, "text": prompts})
        write_table(
            self.folder / name / "responses.parquet",
            {"prompt": [prompts.index(prompt) for prompt, _ in responses], "text": [text for _, text in responses]},
        )
        pairs = {
            "response_a": [at[row["prompt"], row["response_a"]] for row in rows],
            "response_b": [at[row["prompt"], row["response_b"]] for row in rows],
            "prompt": [prompts.index(row["prompt"]) for row in rows],
        }
        write_table(self.folder / name / "pairs.parquet", pairs)
        if name == "pool":
            n = len(rows)
            labels = {"seed": np.zeros(n, int), "pair": np.arange(n), "label": [float(row["label"]) for row in rows]}
            write_table(self.folder / "labels.parquet", {**labels, "margin": np.full(n, 1.5)})

    def task(
        self, name: str, *, head: Model | None = None, posterior: Posterior | None = None, **training: Any
    ) -> Task:
        """A task whose files lie in a folder called ``name``."""
        return Task(
            name=name,
            labels=str(self.folder / "labels.parquet"),
            seed=0,
            out=str(self.folder / "runs" / name),
            pool=str(self.folder / "pool"),
            benchmark=str(self.folder / "benchmark"),
            features=str(self.folder / "features"),
            side=str(self.folder / "side"),
            model=(head or Bt()).model_dump(),
            posterior=(posterior or Laplace()).model_dump(),
            training=TrainingSettings.model_validate({**FAST, **training}),
            backbone=self.backbone,
            reduction=self.reduction,
        )

    def start(self, step: str, task: Task, ranks: int | None = None, *, hold: bool = False) -> subprocess.Popen[str]:
        """A process that runs one step of a task, or a launcher with so many.

        Args:
            hold: Never get to a second checkpoint, so that it can be killed after its first.
        """
        told = self.folder / f"{task.name}.json"
        told.write_text(task.model_dump_json(), encoding="utf-8")
        root = Path(__file__).resolve().parents[1]
        deepspeed = task.training.deepspeed is not None
        site = self.folder / f"site-of-{task.name}"
        write_site(site, UNCOMPILED * deepspeed + HOLD * hold)
        env = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(site), str(root)]),
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            **({"DS_ACCELERATOR": "cpu"} if deepspeed else {}),
        }
        python = sys.executable
        if warm.WORKS and not (hold and ranks):
            env = warm_server().found_by(env)
            python = env["PYTHON_EXEC"]
        command = [python, "-m"]
        if ranks is not None:
            command += ["torch.distributed.run", f"--nproc-per-node={ranks}", "--rdzv-backend=c10d"]
            command += ["--rdzv-endpoint=localhost:0", "--module"]
        return subprocess.Popen(
            [*command, "bgpm.training.run", step, str(told)],
            cwd=root,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file below a folder by its name."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
