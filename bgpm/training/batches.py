"""Labelled pairs as batches of texts, packed where the model can be read so, and the order in which they are seen.

Every random number belongs to a position in that order, so that it does not matter how many processes share an
update or whether a run was cut off and resumed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from bgpm.backbones import packing
from bgpm.backbones.embedding import Backbone, Tokens, tokens
from bgpm.data.texts import TextSet
from bgpm.stage import generator
from bgpm.types import Comparisons

Example = tuple[int, int]  # position in the order (-1 where nothing is drawn), row of the labelled pairs


class Collator:
    """From examples to what `bgpm.training.network.PreferenceNetwork` reads. A text of several pairs is there once.

    Args:
        backbone: Tokenises and says how states are pooled.
        texts: Of the pool.
        data: Labelled pairs, rows of ``texts``.
        prompts: Give the prompts too.
        statistics: float32 [R, s] and [Q, s], features read off responses and prompts, or None.
        margins: Give the margins.
        spoken: Give the tokens that are a response's.
        noise_dim: Coordinates of the noise for each response, 0 for none.
        seed: Draws the noise.
        packed: How texts lie in one row without padding; None for padded batches.
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
        spoken: bool,
        noise_dim: int,
        seed: int,
        packed: packing.Packing | None = None,
    ) -> None:
        self.pad, self.pooling, self.data, self.packed = backbone.pad, backbone.pooling, data, packed
        self.prompts, self.statistics, self.margins, self.spoken = prompts, statistics, margins, spoken
        self.noise_dim, self.seed = noise_dim, seed
        rows: list[int] = np.unique(np.concatenate([data.pairs.response_a, data.pairs.response_b])).tolist()
        self.of_response = {
            row: tokens(backbone, texts.conversations[texts.prompt[row]], texts.response_texts[row]) for row in rows
        }
        asked = np.unique(data.pairs.prompt).tolist() if prompts else []
        self.of_prompt = {row: tokens(backbone, texts.conversations[row], None) for row in asked}

    def __call__(self, examples: Sequence[Example]) -> dict[str, Any]:
        chosen = np.array([row for _, row in examples])
        pairs = self.data.pairs.take(chosen)
        responses = np.concatenate([pairs.response_a, pairs.response_b]).tolist()
        wanted = [("response", row) for row in responses]
        wanted += [("prompt", row) for row in pairs.prompt.tolist()] if self.prompts else []
        place = {name: number for number, name in enumerate(dict.fromkeys(wanted))}
        texts = [(self.of_response if kind == "response" else self.of_prompt)[row] for kind, row in place]
        batch, said_of = self._padded(texts) if self.packed is None else self._packed(texts, self.packed)
        batch |= {
            "which": np.array([place[name] for name in wanted]),
            "label": self.data.label[chosen].astype(np.float32),
        }
        if self.margins and self.data.margin is not None:
            batch["margin"] = self.data.margin[chosen].astype(np.float32)
        if self.statistics is not None:
            of_response, of_prompt = self.statistics
            read = [of_response[responses], *([of_prompt[pairs.prompt]] if self.prompts else [])]
            batch["statistics"] = np.concatenate(read)
        if self.spoken:
            of = [said_of[place["response", row]] for row in responses]
            said = [np.array([target, predictor, np.full(len(target), n)]) for n, (target, predictor) in enumerate(of)]
            batch["spoken"] = np.concatenate(said, 1)
        if self.noise_dim:
            drawn = [self._noise(position) for position, _ in examples]
            batch["noise"] = np.stack(drawn, 1).astype(np.float32)
        segments = batch.pop("segments", None)
        tensors = {name: torch.from_numpy(array) for name, array in batch.items()}
        return tensors if segments is None else {**tensors, "segments": segments}

    def _padded(self, texts: Sequence[Tokens]) -> tuple[dict[str, Any], list[tuple[np.ndarray, np.ndarray]]]:
        """A row a text; and of each text its response's tokens and where each of them is predicted."""
        longest = max(len(text.ids) for text in texts)
        at = [n * longest for n in range(len(texts))]
        length = np.array([[len(text.ids)] for text in texts])
        batch = {
            "input_ids": np.array([text.ids + [self.pad] * (longest - len(text.ids)) for text in texts]),
            "attention_mask": (np.arange(longest) < length).astype(np.int64),
            "pooling": _weights([_span(t, self.pooling, 0) for t in texts], longest),
        }
        return batch, [_said(t.ids, t.start, begin + t.start) for t, begin in zip(texts, at, strict=True)]

    def _packed(
        self, texts: Sequence[Tokens], how: packing.Packing
    ) -> tuple[dict[str, Any], list[tuple[np.ndarray, np.ndarray]]]:
        """All texts in one row; and the same of each text."""
        (pack,) = packing.packs(texts, sum(len(text.ids) for text in texts), share=how.share)
        begins = {row: last + 1 - len(texts[row].ids) for row, _, _, last in pack.texts}
        # The first token after a shared prompt is predicted at that prompt's end.
        shared = {s.start: s.until for s in pack.segments if s.until > s.prefix}
        batch = {
            "input_ids": np.array([pack.ids]),
            "position_ids": np.array([pack.positions]) + how.first,
            "segments": pack.segments,
            "pooling": _weights([_span(t, self.pooling, begins[n]) for n, t in enumerate(texts)], len(pack.ids)),
        }
        responses = []
        for n, text in enumerate(texts):
            target, predictor = _said(text.ids, text.start, begins[n] + text.start)
            if begins[n] + text.start in shared:
                predictor[0] = shared[begins[n] + text.start] - 1
            responses.append((target, predictor))
        return batch, responses

    def length(self, row: int) -> int:
        """Tokens of the longer response to a pair, its prompt included."""
        pairs = self.data.pairs
        return max(len(self.of_response[int(side[row])].ids) for side in (pairs.response_a, pairs.response_b))

    def _noise(self, position: int) -> np.ndarray:
        return generator("training noise", self.seed, position).standard_normal((2, self.noise_dim))


def _span(text: Tokens, pooling: str, begin: int) -> tuple[int, int]:
    """Where a text that begins at ``begin`` has its pooled tokens, as `embed` pools."""
    first, stop = (len(text.ids) - 1, len(text.ids)) if pooling == "last" else (text.start, text.stop)
    return begin + first, begin + stop


def _weights(spans: Sequence[tuple[int, int]], length: int) -> np.ndarray:
    """Weight of each token of a row in its text's state, float32 [M, T]."""
    first, stop = np.array(spans).T[:, :, None]
    position = np.arange(length)
    weight = ((position >= first) & (position < stop)).astype(np.float32)
    return weight / weight.sum(1, keepdims=True)


def _said(ids: Sequence[int], start: int, at: int) -> tuple[np.ndarray, np.ndarray]:
    """A response's tokens, a closing one too, and the places in the rows where each is predicted: one before its own.

    Args:
        start: The response's first token in its text.
        at: Its place in the rows, all laid end to end.
    """
    skipped = int(start == 0)  # nothing is before it
    target = np.array(ids[start + skipped :], np.int64)
    return target, np.arange(at + skipped - 1, at + skipped - 1 + len(target))


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
    """The same labels in each update, ordered by length: for padded batches.

    Passes and processes take an update's labels in this order, so that little of a padded batch is padding. The update
    is the mean over all of them, however they are dealt out.

    Args:
        length: Of a row.
        batch_size: Labels an update.
    """
    return [seen for update in _by_length(examples, length, batch_size) for seen in update]


def evenly(examples: Sequence[Example], length: Callable[[int], int], batch_size: int, parts: int) -> list[Example]:
    """The same labels in each update, short and long ones in each of its parts: for packed batches, where no process
    should wait for another's longer texts.

    Args:
        length, batch_size: As of `alike`.
        parts: Passes of all processes that an update is divided into.
    """
    updates = _by_length(examples, length, batch_size)
    return [seen for update in updates for part in range(parts) for seen in update[part::parts]]


def _by_length(examples: Sequence[Example], length: Callable[[int], int], batch_size: int) -> Iterator[list[Example]]:
    for start in range(0, len(examples), batch_size):
        yield sorted(examples[start : start + batch_size], key=lambda seen: (length(seen[1]), seen[0]))
