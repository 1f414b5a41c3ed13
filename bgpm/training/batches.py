"""Labelled pairs as padded batches, and the order in which they are seen.

Every random number belongs to a position in that order, so that it does not matter how many processes share an
update or whether a run was cut off and resumed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bgpm.backbones.embedding import Backbone, Messages, Tokens, tokens
from bgpm.data.tables import read_table
from bgpm.stage import generator
from bgpm.types import Comparisons

Example = tuple[int, int]  # position in the order (-1 where nothing is drawn), row of the labelled pairs


@dataclass(frozen=True)
class TextSet:
    """The texts of a pool or benchmark.

    Attributes:
        conversations: Messages of each prompt, [Q].
        questions: Text of each prompt, [Q].
        prompt: int64 [R], each response's prompt.
        answers: Text of each response.
    """

    conversations: Sequence[Messages]
    questions: np.ndarray
    prompt: np.ndarray
    answers: np.ndarray

    @classmethod
    def read(cls, folder: Path) -> TextSet:
        """From the tables that `prepare` wrote."""
        prompts = read_table(folder / "prompts.parquet", ["messages", "text"])
        responses = read_table(folder / "responses.parquet", ["prompt", "text"])
        conversations = [json.loads(text) for text in prompts["messages"]]
        return cls(conversations, prompts["text"], responses["prompt"], responses["text"])

    def responses(self) -> list[tuple[Messages, str | None]]:
        """Each answer in its conversation."""
        return [(self.conversations[row], text) for row, text in zip(self.prompt, self.answers, strict=True)]

    def prompts(self) -> list[tuple[Messages, str | None]]:
        """Each conversation alone."""
        return [(conversation, None) for conversation in self.conversations]


class Collator:
    """From examples to what `bgpm.training.model.PreferenceModel` reads.

    Args:
        backbone: Tokenises and says how states are pooled.
        texts: Of the pool.
        data: Labelled pairs, rows of ``texts``.
        prompts: Give the prompts too.
        statistics: float32 [R, s] and [Q, s], features read off answers and prompts, or None.
        margins: Give the margins.
        answers: Give the tokens that are an answer's.
        noise_dim: Coordinates of the noise for each answer, 0 for none.
        seed: Draws the noise.
    """

    def __init__(
        self,
        backbone: Backbone,
        texts: TextSet,
        data: Comparisons,
        *,
        prompts: bool,
        statistics: tuple[np.ndarray, np.ndarray] | None,
        margins: bool,
        answers: bool,
        noise_dim: int,
        seed: int,
    ) -> None:
        self.pad, self.pooling, self.data = backbone.pad, backbone.pooling, data
        self.prompts, self.statistics, self.margins, self.answers = prompts, statistics, margins, answers
        self.noise_dim, self.seed = noise_dim, seed
        rows = np.unique(np.concatenate([data.pairs.first, data.pairs.second])).tolist()
        self.of_response = {
            row: tokens(backbone, texts.conversations[texts.prompt[row]], texts.answers[row]) for row in rows
        }
        asked = np.unique(data.pairs.prompt).tolist() if prompts else []
        self.of_prompt = {row: tokens(backbone, texts.conversations[row], None) for row in asked}

    def __call__(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        chosen = np.array([row for _, row in examples])
        pairs = self.data.pairs.take(chosen)
        responses = np.concatenate([pairs.first, pairs.second]).tolist()
        texts = [self.of_response[row] for row in responses]
        texts += [self.of_prompt[row] for row in pairs.prompt.tolist()] if self.prompts else []
        longest = max(len(text.ids) for text in texts)
        position = np.arange(longest)
        length = np.array([[len(text.ids)] for text in texts])
        batch = {
            "input_ids": np.array([text.ids + [self.pad] * (longest - len(text.ids)) for text in texts]),
            "attention_mask": (position < length).astype(np.int64),
            "pooling": _pooling(texts, position, self.pooling),
            "label": self.data.label[chosen].astype(np.float32),
        }
        if self.margins and self.data.margin is not None:
            batch["margin"] = self.data.margin[chosen].astype(np.float32)
        if self.statistics is not None:
            of_response, of_prompt = self.statistics
            read = [of_response[responses], *([of_prompt[pairs.prompt]] if self.prompts else [])]
            batch["statistics"] = np.concatenate(read)
        if self.answers:  # a closing token is part of what is answered
            first = np.array([[text.start] for text in texts])
            batch["answer"] = (position >= first) & (position < length)
        if self.noise_dim:
            drawn = [self._noise(position) for position, _ in examples]
            batch["noise"] = np.stack(drawn, 1).astype(np.float32)
        return {name: torch.from_numpy(array) for name, array in batch.items()}

    def length(self, row: int) -> int:
        """Tokens of the longer answer to a pair, its prompt included."""
        pairs = self.data.pairs
        return max(len(self.of_response[int(side[row])].ids) for side in (pairs.first, pairs.second))

    def _noise(self, position: int) -> np.ndarray:
        return generator("training noise", self.seed, position).standard_normal((2, self.noise_dim))


def _pooling(texts: Sequence[Tokens], position: np.ndarray, pooling: str) -> np.ndarray:
    """Weight of each token in its text's state, float32 [M, T], as `embed` pools."""
    last = np.array([[len(text.ids)] for text in texts])
    first = last - 1 if pooling == "last" else np.array([[text.start] for text in texts])
    stop = last if pooling == "last" else np.array([[text.stop] for text in texts])
    weight = ((position >= first) & (position < stop)).astype(np.float32)
    return weight / weight.sum(1, keepdims=True)


def held_out(prompt: np.ndarray, share: float, *, seed: int) -> np.ndarray:
    """Where, bool [N], labels belong to the share of the prompts that is held out from training; never to all."""
    names, member = np.unique(prompt, return_inverse=True)
    count = min(round(share * len(names)), len(names) - 1)
    chosen = generator("training holdout", seed).permutation(len(names))[:count]
    return np.isin(member, chosen)


def order(rows: np.ndarray, epochs: float, steps: int | None, batch_size: int, *, seed: int) -> list[Example]:
    """Rows in the order they are seen, as many as whole updates take: one permutation after another."""
    updates = steps if steps is not None else max(1, math.ceil(epochs * len(rows) / batch_size))
    total = updates * batch_size
    drawn = generator("training order", seed)
    passes = [drawn.permutation(rows) for _ in range(math.ceil(total / len(rows)))]
    return list(enumerate(np.concatenate(passes)[:total].tolist()))


def alike(examples: Sequence[Example], length: Callable[[int], int], batch_size: int) -> list[Example]:
    """The same labels in each update, ordered by length.

    Passes and processes take an update's labels in this order, so that little of a padded batch is padding. The update
    is the mean over all of them, however they are dealt out.

    Args:
        length: Of a row.
        batch_size: Labels an update.
    """
    updates = (examples[start : start + batch_size] for start in range(0, len(examples), batch_size))
    return [seen for update in updates for seen in sorted(update, key=lambda seen: (length(seen[1]), seen[0]))]
