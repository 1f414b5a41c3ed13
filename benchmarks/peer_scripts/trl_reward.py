"""TRL's RewardTrainer on the backbone: with its body frozen, with LoRA adapters, or with every weight trained.

A linear head reads the mean of the last layer's states over all tokens, as the backbone was trained to be read, in the
place of the first token's. Texts are ``[CLS] prompt [SEP] response [SEP]`` of at most 512 tokens, which is as far as
its positions go; the prompt is cut from its left. Settings are the trainer's defaults (batches of 8, AdamW, a linear
schedule, no dropout), with what its documentation recommends: rewards centred with 0.01, and a learning rate for
adapters about ten times that for all weights. Training multiplies in bfloat16, as the trainer does by default: half
the time on a CPU with avx512_bf16, more on others. Rewards of held-out responses are computed in float32. Gradient
checkpointing, which saves a GPU's memory, is off.

Without ``chosen`` in its settings a task is a search: learning rate and number of epochs by the lowest loss on a fifth
of the labels, of prompts that the others do not have. With it, each seed trains on all of its labels.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from cell import Results, Task
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer, logging, set_seed
from trl import RewardConfig, RewardTrainer

MOST_TOKENS = 512
RATES = {"frozen": (1e-3, 1e-2, 1e-1), "lora": (3e-4, 1e-3, 3e-3), "full": (3e-5, 1e-4, 3e-4)}
EPOCHS = 3  # at most, the trainer's default
VALIDATION = 0.2


class MeanPooler(nn.Module):
    """Mean of the states [B, T, D] over the tokens that are no padding; the body is called with their mask first."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        body.register_forward_pre_hook(self._note, with_kwargs=True)

    def _note(self, body: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        self.mask = named["attention_mask"]

    def forward(self, states: Tensor) -> Tensor:
        mask = self.mask[..., None].to(states.dtype)
        return (states * mask).sum(1) / mask.sum(1)


def network(folder: str, body: str, seed: int) -> nn.Module:
    set_seed(seed)
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, dtype=torch.float32)
    model.bert.pooler = MeanPooler(model.bert)
    if body == "frozen":
        model.bert.requires_grad_(False)
    if body == "lora":
        adapters = LoraConfig(task_type="SEQ_CLS", r=16, lora_alpha=32, target_modules="all-linear")
        model = get_peft_model(model, adapters)
    return model


def read_tokens(tokenizer: Any, texts: Sequence[tuple[str, str]]) -> list[list[int]]:
    plain = [[tokenizer.encode(part, add_special_tokens=False) for part in text] for text in texts]
    out = []
    for prompt, response in plain:
        kept = response[: MOST_TOKENS - 3]
        left = MOST_TOKENS - 3 - len(kept)
        shown = prompt[max(len(prompt) - left, 0) :]
        out.append([tokenizer.cls_token_id, *shown, tokenizer.sep_token_id, *kept, tokenizer.sep_token_id])
    return out


def preferences(tokens: Sequence[list[int]], pairs: np.ndarray, label: np.ndarray) -> Dataset:
    first, second = ([tokens[row] for row in pairs[:, side]] for side in (0, 1))
    won = label == 1
    return Dataset.from_dict(
        {
            "chosen_ids": [a if w else b for a, b, w in zip(first, second, won, strict=True)],
            "rejected_ids": [b if w else a for a, b, w in zip(first, second, won, strict=True)],
        }
    )


def trained(
    model: nn.Module, tokenizer: Any, data: Dataset, watched: Dataset | None, rate: float, epochs: int, seed: int
) -> RewardTrainer:
    with tempfile.TemporaryDirectory() as folder:
        settings = RewardConfig(
            output_dir=folder, learning_rate=rate, num_train_epochs=epochs, seed=seed, center_rewards_coefficient=0.01,
            max_length=MOST_TOKENS, per_device_eval_batch_size=32, eval_strategy="no" if watched is None else "epoch",
            bf16=True, gradient_checkpointing=False, use_cpu=True, save_strategy="no", report_to="none",
            disable_tqdm=True, dataloader_pin_memory=False,
        )  # fmt: skip
        trainer = RewardTrainer(model, settings, train_dataset=data, eval_dataset=watched, processing_class=tokenizer)
        trainer.train()
    return trainer


def search(task: Task, tokenizer: Any, tokens: Sequence[list[int]]) -> dict[str, Any]:
    """The learning rate and epochs with the lowest validation loss, and every loss that was seen."""
    body = task.settings["body"]
    seed, pairs, label = next(task.draws())
    prompts = np.random.default_rng(seed).permutation(np.unique(pairs[:, 2]))
    held = np.isin(pairs[:, 2], prompts[: max(1, round(VALIDATION * len(prompts)))])
    data, watched = (preferences(tokens, pairs[rows], label[rows]) for rows in (~held, held))
    losses = {}
    for rate in RATES[body]:
        model = network(task.settings["backbone"], body, seed)
        history = trained(model, tokenizer, data, watched, rate, EPOCHS, seed).state.log_history
        for epoch, loss in enumerate((line["eval_loss"] for line in history if "eval_loss" in line), 1):
            losses[rate, epoch] = loss
    rate, epochs = min(losses, key=lambda pair: losses[pair])
    return {"learning_rate": rate, "epochs": epochs, "losses": [[*where, loss] for where, loss in losses.items()]}


def rewards(model: nn.Module, tokenizer: Any, tokens: Sequence[list[int]]) -> np.ndarray:
    """The reward of each text, [len(tokens)]; texts of one length side by side, for the sake of speed."""
    model.eval()
    out = np.empty(len(tokens))
    order = sorted(range(len(tokens)), key=lambda row: len(tokens[row]))
    for start in range(0, len(order), 32):
        rows = order[start : start + 32]
        batch = tokenizer.pad({"input_ids": [tokens[row] for row in rows]}, return_tensors="pt")
        with torch.no_grad():
            out[rows] = model(**batch).logits[:, 0].numpy()
    return out


def main() -> None:
    logging.set_verbosity_error()
    task, results = Task.read(), Results()
    tokenizer = AutoTokenizer.from_pretrained(task.settings["backbone"])
    tokenizer.eos_token = tokenizer.sep_token
    tokens = read_tokens(tokenizer, task.texts())
    chosen = task.settings.get("chosen")
    if chosen is None:
        found = search(task, tokenizer, tokens)
        (task.folder / "chosen.json").write_text(json.dumps(found | {"seconds": results.spent()}), encoding="utf-8")
        return
    heldout = task["heldout"]
    asked, at = np.unique(heldout[:, :2], return_inverse=True)
    for seed, pairs, label in task.draws():
        model = network(task.settings["backbone"], task.settings["body"], seed)
        data = preferences(tokens, pairs, label)
        trainer = trained(model, tokenizer, data, None, chosen["learning_rate"], chosen["epochs"], seed)
        exact = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
        reward = rewards(exact, tokenizer, [tokens[row] for row in asked])[at.reshape(-1, 2)]
        results.add(1 / (1 + np.exp(reward[:, 1] - reward[:, 0])))
    results.write(task.folder)


if __name__ == "__main__":
    main()
