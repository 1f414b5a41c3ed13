"""The updates: transformers' Trainer on one process or many, with checkpoints from which a killed run goes on.

A checkpoint holds the trainable weights, gathered from all processes, beside the state of optimiser, schedule and
random numbers; it counts once its marker is there, which is written last. It lies in a folder named after a hash of
everything that goes into the run, so that another run never starts from it.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from accelerate.utils import gather_object
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerState, TrainingArguments
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

from bgpm.errors import LaunchError, NumericsError
from bgpm.fitting.embeddings import warmed_up
from bgpm.launch import is_launched, rank_world
from bgpm.posteriors import Posterior
from bgpm.posteriors.amortized import Amortized
from bgpm.training import TrainingSettings
from bgpm.training.batches import Collator, Example

log = logging.getLogger("bgpm")

WEIGHTS, MARKER = "trainable.safetensors", "complete"


def fit(
    model: Any,
    settings: TrainingSettings,
    posterior: Posterior,
    collator: Collator,
    examples: list[Example],
    heldout: list[Example],
    folder: Path,
    *,
    on_gpu: bool,
    seed: int,
) -> tuple[dict[str, Tensor], dict[str, float | int | str]]:
    """Train, from a checkpoint in ``folder`` where there is one.

    Args:
        model: Of `bgpm.training.network.prepare`.
        examples: Labels in the order they are seen, ``batch_size`` an update.
        heldout: Labels to stop early by; empty for none.
        on_gpu: Whether this process computes on a GPU of its own.

    Returns:
        Trainable weights by name, on the CPU: the best held-out ones, or the last; the first process alone has them.
        And what happened, in numbers.

    Raises:
        ConfigError: If the processes cannot share a batch evenly.
        NumericsError: If training diverged.
    """
    steps = len(examples) // settings.batch_size
    interval = -(-steps // settings.checks)
    patience = settings.patience * interval if heldout else None
    arguments = _arguments(settings, folder, steps, interval, checked=bool(heldout), on_gpu=on_gpu, seed=seed)
    if is_deepspeed_zero3_enabled() and settings.mode != "qlora":
        _divide(model, arguments)
    trainer = PreferenceTrainer(
        model=model,
        args=arguments,
        data_collator=collator,
        train_dataset=cast("Dataset[Example]", examples),  # a list has all that is read of one
        eval_dataset=cast("Dataset[Example]", heldout) if heldout else None,
        # Of each label once. The Trainer's own mean counts those twice that make up the last batch of many processes.
        compute_metrics=lambda found: {"nats": float(np.mean(found.predictions))},
        callbacks=[_Patience(patience)] if patience is not None else [],
    )
    trainer.posterior, trainer.model_accepts_loss_kwargs = posterior, False
    trainer.remove_callback(PrinterCallback)
    _require_one_way(collator)
    state = _updated(trainer, folder, steps, patience)
    done = state.global_step
    chosen = (state.best_global_step or done) if heldout else done
    summary: dict[str, float | int | str] = {"mode": settings.mode, "updates": done, "updates_kept": chosen}
    if state.best_metric is not None:  # measured on held-out labels
        summary["stopping_loss"] = state.best_metric
    if rank_world()[0] != 0:
        return {}, summary
    weights = load_file(folder / f"checkpoint-{chosen}" / WEIGHTS)
    bad = [name for name, value in weights.items() if not torch.isfinite(value).all()]
    if bad:
        raise NumericsError(
            f"training diverged: {bad[0]} is not finite after {done} updates; "
            f"lower training.learning_rate, now {settings.learning_rate}"
        )
    return weights, summary


def _arguments(
    settings: TrainingSettings, folder: Path, steps: int, interval: int, *, checked: bool, on_gpu: bool, seed: int
) -> TrainingArguments:
    """What the Trainer is told: so many updates, a checkpoint every ``interval``; ``checked``: with a held-out loss."""
    passes = settings.share(rank_world()[1])
    return _OneDevice(
        output_dir=str(folder),
        per_device_train_batch_size=passes,
        per_device_eval_batch_size=passes,
        gradient_accumulation_steps=settings.accumulation,
        max_steps=steps,
        train_sampling_strategy="sequential",
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=round(settings.warmup * steps),
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        optim="adamw_torch",
        bf16=settings.bf16,
        use_cpu=not on_gpu,
        ddp_backend="gloo" if is_launched() and not on_gpu else None,
        deepspeed=settings.deepspeed if is_launched() else None,
        seed=seed,
        save_strategy="steps",
        save_steps=interval,
        eval_strategy="steps" if checked else "no",
        eval_steps=interval if checked else None,
        metric_for_best_model="nats" if checked else None,
        greater_is_better=False if checked else None,
        logging_strategy="no",
        report_to=[],
        disable_tqdm=not sys.stderr.isatty(),
        remove_unused_columns=False,
        dataloader_pin_memory=on_gpu,
    )


def _require_one_way(collator: Collator) -> None:
    """LaunchError where processes read the backbone in different ways: they would deal out the labels differently."""
    ways = sorted(set(gather_object([repr(collator.packed)])))
    if len(ways) > 1:
        raise LaunchError(
            f"launcher: processes read the backbone in different ways ({'; '.join(ways)}); give them machines that are "
            "alike, or set backbone.attention to eager"
        )


def _updated(trainer: PreferenceTrainer, folder: Path, steps: int, patience: int | None) -> TrainerState:
    """The state after all updates: those that are missing since the last checkpoint, where there is one, are made."""
    found = latest(folder)
    state = TrainerState() if found is None else TrainerState.load_from_json(str(found / "trainer_state.json"))
    if state.global_step >= steps or _stalled(state, patience):
        return state
    if found is not None:
        log.info("resuming at update %d of %d from %s", state.global_step, steps, found)
    trainer.train(resume_from_checkpoint=None if found is None else str(found))
    return trainer.state


class _OneDevice(TrainingArguments):
    """Arguments of a process that works on one device, however many it can see.

    Trainer would lay `torch.nn.DataParallel` over all of them, which multiplies the batch and cuts its rows, first
    responses and then second ones, into pieces that are no pairs.
    """

    @property
    def n_gpu(self) -> int:
        return min(super().n_gpu, 1)


class PreferenceTrainer(Trainer):
    """Trainer of a model that computes its own loss; saves and loads what is trained and nothing else."""

    posterior: Posterior
    loss_is_scaled_for_ga = False  # it is a batch's mean

    @property
    def folder(self) -> Path:
        """Where its checkpoints lie."""
        assert self.args.output_dir is not None
        return Path(self.args.output_dir)

    @property
    def trained(self) -> nn.Module:
        """The model, without the engine around it."""
        assert isinstance(self.model, nn.Module)
        return self.model

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        if isinstance(self.posterior, Amortized):
            weight = warmed_up(self.posterior, self.state.global_step, self.state.max_steps)
            inputs = {**inputs, "kl_weight": weight}
        out = model(**inputs)  # the engine where there is one, never what it wraps
        return (out["loss"], out) if return_outputs else out["loss"]

    def _prepare_input(self, data: Any) -> Any:
        """To the device as it is: under DeepSpeed the base class would round pooling weights, labels, margins and noise
        to the backbone's precision."""
        return data.to(self.args.device) if isinstance(data, Tensor) else super()._prepare_input(data)

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        with torch.no_grad(), self.compute_loss_context_manager():
            loss, out = self.compute_loss(model, self._prepare_inputs(inputs), return_outputs=True)
        return loss.detach(), out["nats"].detach(), inputs["label"]

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        folder = self.folder if output_dir is None else Path(output_dir)
        weights = trainable(self.trained, keep=self.args.should_save)
        if self.args.should_save:
            folder.mkdir(parents=True, exist_ok=True)
            save_file(weights, folder / WEIGHTS)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        load_trainable(model or self.trained, load_file(Path(resume_from_checkpoint) / WEIGHTS))

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if not self.args.should_save:
            return
        folder, step = self.folder, self.state.global_step
        (folder / f"checkpoint-{step}" / MARKER).touch()
        needed = {f"checkpoint-{step}", f"checkpoint-{self.state.best_global_step}"}
        for old in folder.glob("checkpoint-*"):
            if old.name not in needed:
                (old / MARKER).unlink(missing_ok=True)
                shutil.rmtree(old)


class _Patience(TrainerCallback):
    """Stops once so many updates went by without a new best held-out loss."""

    def __init__(self, updates: int) -> None:
        self.updates = updates

    def on_save(self, args: Any, state: TrainerState, control: Any, **rest: Any) -> None:
        if _stalled(state, self.updates):
            control.should_training_stop = True


def _stalled(state: TrainerState, patience: int | None) -> bool:
    best = state.best_global_step
    return patience is not None and best is not None and state.global_step - best >= patience


def latest(folder: Path) -> Path | None:
    """The last checkpoint that is complete."""
    whole = [path.parent for path in folder.glob(f"checkpoint-*/{MARKER}")]
    return max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def trainable(model: nn.Module, *, keep: bool = True) -> dict[str, Tensor]:
    """Weights that are trained, whole, on the CPU.

    Every process has to call this together; one that does not ``keep`` them holds one at a time and gets none.
    """
    weights = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            with _whole(parameter):
                if keep:
                    weights[name] = parameter.detach().to("cpu", copy=True).contiguous()
    return weights


def load_trainable(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """The inverse of `trainable`; every name and shape has to fit."""
    own = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if set(own) != set(weights):
        odd = sorted(set(own) ^ set(weights))
        raise RuntimeError(f"the checkpoint's weights are not the model's: {len(odd)} differ, the first is {odd[0]}")
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(weights[name])


def _divide(model: nn.Module, arguments: TrainingArguments) -> None:
    """Under ZeRO-3: of each weight in turn, keep this process's share where DeepSpeed's configuration puts it.

    DeepSpeed would do so too, but after it has moved the whole model to each GPU.
    """
    import deepspeed

    config = arguments.hf_deepspeed_config
    if config.dtype() != torch.float32:
        for parameter in model.parameters():
            parameter.data = parameter.data.to(config.dtype())
    for buffer in model.buffers():
        buffer.data = buffer.data.to(arguments.device)
    deepspeed.init_distributed()  # on a GPU the arguments have done it
    deepspeed.zero.Init(module=model, config_dict_or_path=config.config)


def _whole(parameter: nn.Parameter) -> Any:
    """The parameter gathered from all processes, where ZeRO-3 has divided it."""
    if not hasattr(parameter, "ds_id"):
        return contextlib.nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters([parameter])
