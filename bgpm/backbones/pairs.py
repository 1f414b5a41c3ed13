"""Both responses of a pair in one context: the text that the backbone reads, in both orders, and what comes of it.

For each pair z = (h(i, j) - h(j, i)) / 2 of the pooled states of every layer: with `pooling: mean` over the tokens of
the response that comes second, which a decoder too reads with the other one in view; with ``last`` at the last token,
where a decoder is about to answer. There the logits of the two letters are read as well. All pairs of K responses are
K (K - 1) forwards. Sums and halves of two numbers round alike whatever their order: a pair that is turned has -z to the
bit. Shapes: N pairs.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np

from bgpm.backbones.embedding import (
    Backbone,
    Messages,
    Tokens,
    batched,
    counted,
    is_causal,
    on_day,
    plain_ids,
    plain_transcript,
    writes_date,
)
from bgpm.errors import ConfigError

log = logging.getLogger("bgpm")

PairText = tuple[Messages, str, str]  # a conversation and two responses to it
FIELDS = ("prompt", "response_a", "response_b")
ASKS = "features.pair_states"
CONTENT = "PAIR8TEXT"  # stands for the whole text in a chat template


@dataclass(frozen=True)
class Frame:
    """A template in tokens.

    Attributes:
        parts: Token ids between the fields, and names of fields, in order.
        room: Tokens that are left for the fields.
        letters: Ids of "A" and "B" as the next token.
    """

    parts: tuple[tuple[int, ...] | str, ...]
    room: int
    letters: tuple[tuple[int, ...], tuple[int, ...]]

    def tokens(self, tokenizer: Any, messages: Messages, first: str, second: str) -> Tokens:
        """One order of a pair. Of a text that is too long the prompt is cut from its left, then both responses from
        their right to one length, so that both orders lose the same."""
        plain = len(messages) == 1 and messages[0]["role"] == "user"
        texts = (messages[0]["content"] if plain else plain_transcript(messages), first, second)
        whole = dict(zip(FIELDS, (plain_ids(tokenizer, text) for text in texts), strict=True))
        one, other = len(whole["response_a"]), len(whole["response_b"])
        longest = max(self.room // 2, self.room - min(one, other))
        kept = {name: whole[name][:longest] for name in FIELDS[1:]}
        left = max(0, self.room - sum(map(len, kept.values())))
        kept["prompt"] = whole["prompt"][max(0, len(whole["prompt"]) - left) :]
        ids: list[int] = []
        start = stop = 0
        for part in self.parts:
            said = kept[part] if isinstance(part, str) else part
            if part == "response_b":
                start, stop = len(ids), len(ids) + max(len(said), 1)
            ids += said
        cut = {name: len(whole[name]) - len(kept[name]) for name in FIELDS}
        start = min(start, len(ids) - 1)  # of an empty response the token after it speaks
        return Tokens(ids, start, min(stop, len(ids)), cut["prompt"], cut["response_a"] + cut["response_b"])


def frame(backbone: Backbone, template: str, asks: str = ASKS) -> Frame:
    """A template as this backbone reads it: as one user turn where the tokeniser has a chat template, in the plain
    words of `bgpm.backbones.embedding.tokens` otherwise. ``asks`` is the section that says so, for messages.

    Raises:
        ConfigError: If the chat template cannot hold it, or it leaves no room for responses.
    """
    tok, causal, ending = backbone.tokenizer, is_causal(backbone.model), []
    chat = bool(getattr(tok, "chat_template", None))
    if chat:
        before, after = _around(backbone, asks)
        head = []
    else:
        before, after = ("Human: ", "\n\nAssistant:") if causal else ("", "")
        opening = tok.bos_token_id if causal else tok.cls_token_id
        head = [opening] if opening is not None else []
        ending = [tok.sep_token_id] if not causal and tok.sep_token_id is not None else []
    pieces = re.split(r"\{(prompt|response_a|response_b)\}", template)
    pieces[0], pieces[-1] = before + pieces[0], pieces[-1] + after
    parts: list[tuple[int, ...] | str] = []
    for n, piece in enumerate(pieces):
        if n % 2:
            parts.append(piece)
        else:
            special = chat and n in (0, len(pieces) - 1)  # what the chat template writes has special tokens
            ids = tok(piece, add_special_tokens=False)["input_ids"] if special else plain_ids(tok, piece)
            parts.append(tuple(ids))
    parts = [tuple(head), *parts, tuple(ending)]
    room = backbone.max_tokens - sum(len(part) for part in parts if not isinstance(part, str))
    if room < 2:
        raise ConfigError(
            f"params.yaml: {_owner(asks)}.max_tokens: {backbone.max_tokens}, and {asks}.template takes "
            f"{backbone.max_tokens - room} tokens itself; raise it, or shorten the template"
        )
    space = "" if chat else " "
    a, b = (tuple(plain_ids(tok, space + letter)) for letter in "AB")
    return Frame(tuple(parts), room, (a, b))


def _owner(asks: str) -> str:
    """The section that names the backbone of one that asks it."""
    return "backbone" if asks == ASKS else asks


def _around(backbone: Backbone, asks: str) -> tuple[str, str]:
    """What the chat template writes before and after one user turn, up to where a response begins."""
    from jinja2 import TemplateError

    tok = backbone.tokenizer
    own = {"chat_template": on_day(tok.get_chat_template(), backbone.template_date)} if writes_date(tok) else {}
    try:
        turn = [{"role": "user", "content": CONTENT}]
        before, after = tok.apply_chat_template(turn, tokenize=False, add_generation_prompt=True, **own).split(CONTENT)
    except (TemplateError, ValueError, TypeError) as error:
        raise ConfigError(
            f"params.yaml: {_owner(asks)}.path: its chat template does not take one user turn, as {asks} needs "
            f"({error}); take another backbone"
        ) from error
    return before, after


def check_letters(backbone: Backbone, found: Frame, asks: str = f"{ASKS}.letters") -> None:
    """ConfigError unless the next token is read where it is to be a letter, and each letter is one token."""
    if backbone.pooling != "last":
        raise ConfigError(
            f"params.yaml: {asks} are read at the last token, and backbone.pooling is {backbone.pooling}; set pooling "
            "to last, or letters to false"
        )
    for letter, ids in zip("AB", found.letters, strict=True):
        if len(ids) != 1:
            raise ConfigError(
                f"params.yaml: {asks}: {letter} is {len(ids)} tokens of this backbone, expected one; do without "
                "letters, or take another backbone"
            )


def require_few(pairs: int, most: int, what: str) -> None:
    """ConfigError if there are more pairs than `max_pairs` allows; each is read twice."""
    if pairs > most:
        raise ConfigError(
            f"params.yaml: features.pair_states: {what} has {pairs:,} pairs, {2 * pairs:,} forwards of the backbone, "
            f"and max_pairs is {most:,}; raise it if that is wanted, or take fewer (pool.limit), or pair_states out"
        )


def embed_pairs(
    backbone: Backbone,
    pairs: Sequence[PairText],
    template: str,
    out: np.ndarray | None,
    letters: np.ndarray | None = None,
    *,
    asks: bool = False,
    batch_tokens: int = 4096,
    title: str = "embed pairs",
    group: Any = None,
) -> dict[str, int]:
    """States of pairs, written to ``out`` float32 [N, layers, width], which has to be 0 everywhere.

    How many forwards and tokens it takes is said before they begin. In a decoder the pairs with one prompt and first
    response share these.

    Args:
        pairs: Conversations with two responses each.
        template: As in `bgpm.features.PairReading`.
        out, letters: Arrays to fill; None on every process of a group but its first. letters is float64 [N, 1], half of
            the log odds of A over B, less those of the other order: positive where the first response is favoured.
        asks: Whether letters are asked for, of a backbone that was loaded for that.
        batch_tokens, group: As in `bgpm.backbones.embedding.embed`.

    Returns:
        How many texts (two a pair), their tokens, and how many lost some.

    Raises:
        ConfigError: As `frame` and `check_letters`.
        NumericsError: If a state is not finite.
    """
    known = frame(backbone, template)
    if asks:
        check_letters(backbone, known)
    items, sign = _both_orders(backbone, known, pairs)
    if out is not None:
        _say_size(title, len(pairs), items)
    bare = replace(backbone, language_model=None)
    for rows, pooled, _ in batched(bare, items, batch_tokens=batch_tokens, title=title, group=group):
        assert out is not None
        own = [row // 2 for row in rows]
        np.add.at(out, own, pooled * (sign[rows] / 2)[:, None, None])
        if asks and letters is not None:
            np.add.at(letters[:, 0], own, _log_odds(backbone, known, pooled) * sign[rows] / 2)
    return counted(items, title, backbone, said=out is not None)


def letter_odds(
    backbone: Backbone, pairs: Sequence[PairText], template: str, *, asks: str, batch_tokens: int = 4096, title: str
) -> np.ndarray:
    """Log odds that a decoder's next word is the letter of the first response and not of the second, nats.

    Half their sum is what `embed_pairs` gives as letters, but for rounding.

    Args:
        backbone: Loaded for its letters.
        pairs: Conversations with two responses each; the same text twice has even odds on average.
        template: As in `bgpm.backbones.PairTemplate`.
        asks: The section of params.yaml that asks, for messages.
        batch_tokens: As in `bgpm.backbones.embedding.embed`.

    Returns:
        float64 [N, 2]: with the first response standing first, as A, and with it standing second, as B.

    Raises:
        ConfigError: As `frame` and `check_letters`.
        NumericsError: If a state is not finite.
    """
    known = frame(backbone, template, asks)
    check_letters(backbone, known, asks)
    items, sign = _both_orders(backbone, known, pairs)
    _say_size(title, len(pairs), items)
    found = np.zeros((len(pairs), 2))
    bare = replace(backbone, language_model=None)
    for rows, pooled, _ in batched(bare, items, batch_tokens=batch_tokens, title=title, group=None):
        own, odds = [row // 2 for row in rows], _log_odds(backbone, known, pooled)
        second = np.where(sign[rows] == 0, np.array(rows) % 2, sign[rows] < 0).astype(int)
        found[own, second] = odds * np.where(second, -1.0, 1.0)
    even = sign[::2] == 0
    found[even, 1] = -found[even, 0]
    counted(items, title, backbone, said=True)
    return found


def _both_orders(backbone: Backbone, known: Frame, pairs: Sequence[PairText]) -> tuple[list[Tokens], np.ndarray]:
    """Two texts a pair; and of each, float32 [2 N], 1 where the first response stands first, -1 where it stands second,
    0 where both orders read the same."""
    # Rounding of a forward depends on what lies beside it: a pair and its reverse are read as one.
    turned = [second < first for _, first, second in pairs]
    ordered = [(m, b, a) if turn else (m, a, b) for (m, a, b), turn in zip(pairs, turned, strict=True)]
    items = list(
        chain.from_iterable(
            (known.tokens(backbone.tokenizer, m, a, b), known.tokens(backbone.tokenizer, m, b, a))
            for m, a, b in ordered
        )
    )
    sign = np.array([turn for turned_one in turned for turn in ((-1, 1) if turned_one else (1, -1))], np.float32)
    sign[[item.ids == items[row ^ 1].ids for row, item in enumerate(items)]] = 0.0
    return items, sign


def _say_size(title: str, pairs: int, items: Sequence[Tokens]) -> None:
    size = sum(len(item.ids) for item in items)
    log.info("%s: %s pairs in both orders are %s forwards of %s tokens together", title, f"{pairs:,}",
             f"{len(items):,}", f"{size:,}")  # fmt: skip


def _log_odds(backbone: Backbone, known: Frame, pooled: np.ndarray) -> np.ndarray:
    """Log odds of the letter A over B as the next token, float64 [n], of states [n, layers, width] of the last one."""
    import torch

    head = backbone.lm_head
    states = torch.from_numpy(pooled[:, -1]).to(head.weight.device, head.weight.dtype)
    with torch.inference_mode():
        logits = head(states).double()
    a, b = (logits[:, ids[0]] for ids in known.letters)
    return (a - b).cpu().numpy()
