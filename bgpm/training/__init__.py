"""Training the backbone itself, with a preference head on top, on the labels acquired so far.

Off by default (``mode: frozen``: models are trained on cached features). Otherwise each round, from the base and with a
fresh optimiser: a head fitted on the base's features is the start (a random one would spoil the backbone first,
arXiv:2202.10054); backbone and head are trained together on the pairwise loss, or on the evidence lower bound under
``posterior: amortized``; the pool and the benchmark are embedded with what came out; and the posterior is fitted on
those features by the same code as on frozen ones. Features are in the same coordinates before and after: states of
`FeatureSettings.layers`, standardised and reduced by the map that the stage `features` fitted to the frozen ones. Only
``amortized`` takes its two networks as they were trained, as published.

| module | what it holds |
|---|---|
| `network` | backbone, fixed map to features and head as one network, and its loss |
| `batches` | labelled pairs as packed or padded batches; the order they are seen in |
| `trainer` | the updates: Trainer, DeepSpeed, checkpoints to resume from |
| `checkpoint` | a trained backbone and its head on disk |
| `builds` | locks that a killed build of DeepSpeed's operators leaves |
| `run` | one task from files to files |

This file imports none of them: the settings are read without torch, and a stage of frozen features depends on no
code of these (see `in_effect`).
"""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from bgpm.backbones import BackboneSettings
from bgpm.errors import ConfigError
from bgpm.features import FeatureSettings
from bgpm.fingerprints import code_fingerprint
from bgpm.launch import LauncherSettings, launch, must_launch, world_size
from bgpm.registry import Settings
from bgpm.sections import section

SIDE = Path(".checkpoints")  # DVC does not know it
WORKER = "bgpm.training.run"
WHERE = ("deepspeed", "accumulation", "gradient_checkpointing")  # where and in what memory, not what


class LoraSettings(Settings):
    """Low-rank adapters (arXiv:2106.09685).

    Attributes:
        rank: Of each update.
        alpha: An update counts alpha / rank.
        dropout: On an adapter's input, while training.
        targets: ``all-linear``, every linear layer of the backbone, or names of modules such as ``[q_proj, v_proj]``.
    """

    rank: int = Field(default=16, ge=1)
    alpha: float = Field(default=32.0, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    targets: Literal["all-linear"] | list[str] = "all-linear"


class RegulariserSettings(Settings):
    """A second loss that keeps a decoder a language model (arXiv:2406.10216); for decoders with their LM head only.

    Attributes:
        kind: ``sft``: the better response's negative log-likelihood a token; ``dpo``: reference-free DPO,
            -log sigmoid(beta times the difference of the responses' log-likelihoods); ``none``.
        weight: Of this loss beside the preference's.
        beta: Of ``dpo``.
    """

    kind: Literal["none", "sft", "dpo"] = "none"
    weight: float = Field(default=0.01, gt=0)
    beta: float = Field(default=0.1, gt=0)


class TrainingSettings(Settings):
    """Section ``training`` of params.yaml.

    Attributes:
        mode: ``frozen``; ``lora``; ``qlora``, adapters over a base in 4 bits, on a GPU only; ``full``, every weight.
        learning_rate: Peak, of AdamW; adapters take 1e-4, all weights of a large model about 1e-5.
        epochs: Passes over the labels.
        steps: Updates in place of epochs, the same for any number of labels; null for epochs.
        batch_size: Labels an update sees, over all processes.
        accumulation: Passes that an update is divided into, to save memory.
        warmup: Share of the updates over which the learning rate rises, before it falls along a cosine to 0.
        weight_decay: Of AdamW, on weight matrices.
        max_grad_norm: Gradients longer than this are shortened to it.
        bf16: Compute the backbone in bfloat16; features, head and losses are float32 in any case.
        gradient_checkpointing: Compute activations again on the way back instead of keeping them.
        holdout: Share of the labelled prompts on whose labels training stops early; 0 for none. The posterior is
            fitted on all labels afterwards.
        checks: How often in a run their loss is measured, and a checkpoint to resume from written.
        patience: Stop after so many checks without a new best. The best check's weights are taken.
        lora: Of ``lora`` and ``qlora``.
        regulariser: A second loss for decoders.
        deepspeed: Path of a DeepSpeed configuration, such as configs/deepspeed/zero2.json; null for none.
        keep: For ``full``: whether the weights of ``all`` rounds stay, or of the ``last`` only. Every round keeps its
            features and its head, so that whatever reads an earlier round can run again.
        seed: Beside the replication's own seed, draws the order of labels, adapters and dropout.
    """

    mode: Literal["frozen", "lora", "qlora", "full"] = "frozen"
    learning_rate: float = Field(default=1e-4, gt=0)
    epochs: float = Field(default=3.0, gt=0)
    steps: int | None = Field(default=None, ge=1)
    batch_size: int = Field(default=16, ge=1)
    accumulation: int = Field(default=1, ge=1)
    warmup: float = Field(default=0.1, ge=0, lt=1)
    weight_decay: float = Field(default=0.01, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    bf16: bool = False
    gradient_checkpointing: bool = False
    holdout: float = Field(default=0.1, ge=0, lt=1)
    checks: int = Field(default=5, ge=1)
    patience: int = Field(default=2, ge=1)
    lora: LoraSettings = LoraSettings()
    regulariser: RegulariserSettings = RegulariserSettings()
    deepspeed: str | None = None
    keep: Literal["all", "last"] = "last"
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _accumulation_divides_a_batch(self) -> TrainingSettings:
        if self.batch_size % self.accumulation:
            raise ValueError(f"batch_size: {self.batch_size} is no multiple of accumulation: {self.accumulation}")
        return self

    def check(self, launcher: LauncherSettings) -> None:
        """Refuse what cannot run, before any work.

        Raises:
            ConfigError: If the DeepSpeed configuration is not there, nothing starts its processes, or the launcher's
                processes cannot share a batch evenly.
        """
        if self.mode != "frozen":
            self.share(world_size(launcher))
        if self.deepspeed is None:
            return
        if not Path(self.deepspeed).is_file():
            raise ConfigError(
                f"params.yaml: training.deepspeed: {self.deepspeed} does not exist; see configs/deepspeed"
            )
        if launcher.kind == "none":
            raise ConfigError(
                "params.yaml: training.deepspeed needs processes that a launcher starts; set launcher.kind to "
                "torchrun or deepspeed, or training.deepspeed to null"
            )

    def share(self, world: int) -> int:
        """Labels that each of so many processes sees in one pass.

        Raises:
            ConfigError: If they cannot share a batch evenly.
        """
        passes, rest = divmod(self.batch_size, world * self.accumulation)
        if rest:
            raise ConfigError(
                f"params.yaml: training.batch_size: {self.batch_size} labels cannot be shared by {world} processes in "
                f"{self.accumulation} passes; make it a multiple of {world * self.accumulation}"
            )
        return passes


class Task(Settings):
    """One backbone to train: what the processes that do it are told.

    Attributes:
        name: Arm, round and seed, such as ``entropy-3-0``.
        labels: Table of labels; those of ``seed`` count.
        seed: The replication.
        out: Folder for ``backbone/`` and ``features/``.
        pool, benchmark: Folders of texts.
        features: Folder of the pool's features under the frozen backbone, with the map that made them.
        side: Folder of checkpoints to resume from.
        model, posterior: Settings with their kinds.
        training, backbone, reduction: Sections ``training``, ``backbone`` and ``features`` of params.yaml.
    """

    name: str
    labels: str
    seed: int
    out: str
    pool: str
    benchmark: str
    features: str
    side: str = str(SIDE)
    model: dict[str, Any]
    posterior: dict[str, Any]
    training: TrainingSettings
    backbone: BackboneSettings
    reduction: FeatureSettings


def work(task: Task, launcher: LauncherSettings, scratch: Path) -> None:
    """Train the task's backbone and embed all texts with it, here or on the launcher's processes.

    Args:
        scratch: Folder for the file that tells those processes what to do; it is removed.
    """
    for step in ("train", "embed"):
        if must_launch(launcher):
            told = scratch / "task.json"
            told.write_text(task.model_dump_json(), encoding="utf-8")
            launch(launcher, WORKER, [step, str(told)])
            told.unlink()
        else:
            importlib.import_module(WORKER).run(step, task)


def drop_weights(backbone: Path) -> None:
    """Remove a trained backbone's weights and tokeniser; the head and its map stay."""
    for path in backbone.iterdir():
        if not path.name.startswith(("head.", "reduction.", "bgpm.")):
            path.unlink()


def forget(name: str) -> None:
    """Remove the checkpoints that a stage's tasks could have been resumed from."""
    for folder in SIDE.glob(f"{name}-*"):
        shutil.rmtree(folder)


def in_effect(params: Mapping[str, Any], root: Path) -> dict[str, Any]:
    """Everything that training the backbone depends on beside labels and texts, as JSON values.

    While the backbone is frozen that is its mode alone, so that other settings of ``training``, and its code, re-run
    nothing. What says where to compute and not what (`WHERE`, the launcher) never counts.
    """
    training = section(params, "training", TrainingSettings)
    if training.mode == "frozen":
        return {"mode": "frozen"}
    return {
        "training": training.model_dump(exclude={*WHERE, "lora" if training.mode == "full" else "keep"}),
        "backbone": params["backbone"],
        "features": params["features"],
        "code": code_fingerprint(Path(*WORKER.split(".")).with_suffix(".py"), root),
    }
