"""A trained model inside TRL: rewards for GRPO, RLOO and online DPO, and a pairwise judge.

TRL gives several completions to one prompt. They are compared with each other as `PreferenceModel.matrix` does, so
that cyclic preferences are kept until the last step, and each completion's reward is its mean win probability. TRL is
imported by `pairwise_judge` alone (extra ``trl``). Tested with TRL 1.16, and its judges with TRL 1.0, the last release
that had any.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, Protocol

import numpy as np
import torch

from bgpm.data.conversations import response_text, turns_of
from bgpm.errors import ConfigError, DataError
from bgpm.inference import Embedded, PreferenceModel, Prompt, ResponseSet

CompletionText = str | Sequence[Mapping[str, Any]]  # of a completion: text, or messages


class GroupReward:
    """A reward function for TRL's GRPOTrainer, RLOOTrainer and OnlineDPOTrainer (``reward_funcs=``).

    ::

        trainer = GRPOTrainer(policy, reward_funcs=GroupReward(model, pessimism=1.0), ...)

    The reward of one of K completions to a prompt is its mean probability of winning against the other K - 1, in
    [0, 1], less ``pessimism`` standard deviations of that mean under the posterior. Rewards depend on the group:
    those of different prompts or steps are not on one scale, and within a group they sum to K / 2 before pessimism.

    Completions to equal prompts in one call are one group. Each process of a trainer has to see whole groups.

    Args:
        model: The trained model.
        pessimism: How many standard deviations to take off, >= 0.
        draws: From the posterior, for the standard deviation; its relative error is about 1 / sqrt(2 draws).
        seed: Of the draws. Every call makes the same, so that a reward depends on its group alone.

    Raises:
        ConfigError: If a number is out of range, or pessimism is asked of a model without uncertainty.
    """

    def __init__(self, model: PreferenceModel, *, pessimism: float = 0.0, draws: int = 256, seed: int = 0) -> None:
        if not 0 <= pessimism < float("inf"):
            raise ConfigError(f"pessimism: expected a number of standard deviations, 0 or more, got {pessimism!r}")
        if pessimism and getattr(model.fitted, "kind", "") == "point":
            raise ConfigError(
                "pessimism: a model with posterior: point knows no uncertainty; train it with laplace, ensemble or "
                "amortized, or set pessimism to 0"
            )
        if draws < 2:
            raise ConfigError(f"draws: expected 2 or more, got {draws!r}")
        self.model, self.pessimism, self.draws, self.seed = model, pessimism, draws, seed
        self.__name__ = "bgpm_win_probability"  # under which TRL logs it

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[CompletionText], **_: Any) -> list[float]:
        """One reward for each completion, in their order.

        Raises:
            DataError: If a prompt has one completion in this call, or a text cannot be read.
        """
        groups: dict[str, list[int]] = {}
        for row, prompt in enumerate(prompts):
            groups.setdefault(json.dumps(prompt, sort_keys=True), []).append(row)
        choices = [_choice(prompts[rows[0]], [completions[row] for row in rows]) for rows in groups.values()]
        found = self.model.embed_all(choices)
        rewards = np.full(len(prompts), np.nan)
        for rows, choice, at, prompt in zip(groups.values(), choices, found.rows, found.prompt, strict=True):
            if len(rows) < 2:
                raise DataError(
                    f"the prompt {choice.prompt[-1][1][:60]!r} has one completion, nothing to compare it with; let a "
                    "device's batch hold whole groups: per_device_train_batch_size a multiple of num_generations"
                )
            probability = self.model.matrix_of(found, at, prompt).probability
            rewards[rows] = (probability.sum(1) - 0.5) / (len(rows) - 1)  # less the diagonal
            if self.pessimism:
                rewards[rows] -= self.pessimism * self._deviation(found, at, int(prompt))
        return rewards.tolist()

    def _deviation(self, found: Embedded, rows: np.ndarray, prompt: int) -> np.ndarray:
        """Standard deviation [K] of mean win probabilities over joint draws of all scores of the group."""
        distinct, back = np.unique(rows, return_inverse=True)
        i, j = np.triu_indices(len(distinct), 1)
        if not len(i):
            return np.zeros(len(rows))
        pairs = self.model.pairs_of(found, distinct[i], distinct[j], np.full(len(i), prompt))
        tau = self.model.fitted.moments(found.features, pairs).tau
        generator = torch.Generator().manual_seed(self.seed)
        scores = self.model.fitted.sample(found.features, pairs, self.draws, generator=generator)
        wins = torch.sigmoid(scores / tau).numpy()
        whole = np.full((self.draws, len(distinct), len(distinct)), 0.5)
        whole[:, i, j], whole[:, j, i] = wins, 1 - wins
        rates = (whole[:, back][:, :, back].sum(2) - 0.5) / (len(rows) - 1)
        return rates.std(0, ddof=1)


class PairwiseJudge(Protocol):
    """What TRL's trainers ask of a judge."""

    def judge(
        self, prompts: Sequence[Prompt], completions: Sequence[Sequence[CompletionText]], shuffle_order: bool = True
    ) -> list[int]:
        """0 where the first completion of a pair is the better one, 1 where the second is."""
        ...


def pairwise_judge(model: PreferenceModel) -> PairwiseJudge:
    """A judge for TRL's OnlineDPOTrainer, NashMDTrainer and XPOTrainer (``judge=``).

    It names the completion that wins with probability above one half, the first one where they are equal. Its word
    does not depend on their order, so TRL's ``shuffle_order`` changes nothing.

    Raises:
        ConfigError: If TRL is not installed, or has no judges.
    """
    try:
        base = import_module("trl.experimental.judges").BasePairwiseJudge
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"TRL's pairwise judges cannot be imported ({error}): releases after 1.0 have none; pass GroupReward as "
            "reward_funcs of OnlineDPOTrainer, or `pip install trl==1.0.0`"
        ) from error

    class Judge(base):
        """The model's word on pairs of completions."""

        def judge(
            self, prompts: Sequence[Prompt], completions: Sequence[Sequence[CompletionText]], shuffle_order: bool = True
        ) -> list[int]:
            """0 where the first completion of a pair is the better one, 1 where the second is."""
            choices = [_choice(prompt, pair) for prompt, pair in zip(prompts, completions, strict=True)]
            for choice in choices:
                if len(choice.responses) != 2:
                    raise DataError(f"a pairwise judge compares two completions, got {len(choice.responses)}")
            found = model.embed_all(choices)
            response_a, response_b = np.array(found.rows, np.int64).reshape(-1, 2).T
            pairs = model.pairs_of(found, response_a, response_b, found.prompt)
            return (model.compare(found.features, pairs).mean < 0).astype(int).tolist()

    return Judge()


def _choice(prompt: Prompt, completions: Sequence[CompletionText]) -> ResponseSet:
    """A prompt and completions as TRL hands them over: all text, or all messages."""
    texts = [
        text if isinstance(text, str) else response_text(turns_of(list(text), f"completion {number}", "completions"))
        for number, text in enumerate(completions, 1)
    ]
    return ResponseSet.of(prompt, texts)
