"""Batches without padding: texts lie one after another in one row, and attention looks at one text at a time.

`transformers` leaves attention to a function that is found by name (its AttentionInterface). Ours gets the borders of
the texts along and loops over them with torch's scaled_dot_product_attention, or makes one call of flash-attention's
`flash_attn_varlen_func`. In a decoder the responses to one prompt share it: the prompt lies in the row once, and each
response sees it and itself. In an encoder the prompt's states depend on the response, so nothing can be shared.

Not every model can be read so: some give attention a bias or a cap that this function does not know, some count
positions in their own way. `find` therefore compares packed with single texts on the model itself.

`embed` reads texts so (`forward`); training does too, with gradients, inside `own_attention`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

if TYPE_CHECKING:
    from bgpm.backbones.embedding import Backbone, Tokens

NAME = "packed_texts"  # of our function in the AttentionInterface
SHORTEST_SHARED = 8  # tokens; to share less costs more than it saves


class _CannotPackError(Exception):
    """The model asks attention for something that is not known here; caught in `find`."""


@dataclass(frozen=True)
class Segment:
    """Tokens ``start`` to ``stop`` of a row: they see themselves and the shared ``prefix`` to ``until`` before them."""

    start: int
    stop: int
    prefix: int = 0
    until: int = 0


@dataclass(frozen=True)
class Pack:
    """One row of tokens.

    Attributes:
        ids, positions: Of every token; positions count within a text, a shared prompt's included.
        segments: What lies in the row, in order.
        texts: Row number of each text among all texts, and where in this row its pooled tokens start and stop and
            where its last token is.
    """

    ids: list[int]
    positions: list[int]
    segments: list[Segment]
    texts: list[tuple[int, int, int, int]]


@dataclass(frozen=True)
class Packing:
    """How a model is read in packs: number of a text's first position, and whether responses share their prompt."""

    first: int
    share: bool

    @property
    def described(self) -> str:
        """For a log."""
        return "packed batches" + (", responses share their prompt" if self.share else "")


def packs(items: Sequence[Tokens], max_tokens: int, *, share: bool) -> Iterator[Pack]:
    """Rows of at most ``max_tokens`` tokens (more only where one text alone is longer), long texts first.

    What lies together depends on the texts and ``max_tokens`` alone.
    """
    units = list(_units(items, max_tokens, share))
    units.sort(key=lambda unit: (-_size(items, unit), unit[1][0]))
    together: list[tuple[int, list[int]]] = []
    size = 0
    for unit in units:
        if together and size + _size(items, unit) > max_tokens:
            yield _pack(items, together)
            together, size = [], 0
        together.append(unit)
        size += _size(items, unit)
    if together:
        yield _pack(items, together)


def _units(items: Sequence[Tokens], max_tokens: int, share: bool) -> Iterator[tuple[int, list[int]]]:
    """Length of a shared beginning and the rows that share it; 0 and one row for a text by itself."""
    groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for row, item in enumerate(items):
        if share and item.start >= SHORTEST_SHARED:
            groups[tuple(item.ids[: item.start])].append(row)
        else:
            yield 0, [row]
    for prefix, rows in groups.items():
        some: list[int] = []
        for row in rows:
            if some and _size(items, (len(prefix), [*some, row])) > max_tokens:
                yield (len(prefix) if len(some) > 1 else 0), some
                some = []
            some.append(row)
        yield (len(prefix) if len(some) > 1 else 0), some


def _size(items: Sequence[Tokens], unit: tuple[int, list[int]]) -> int:
    prefix, rows = unit
    return prefix + sum(len(items[row].ids) - prefix for row in rows)


def _pack(items: Sequence[Tokens], units: Sequence[tuple[int, list[int]]]) -> Pack:
    pack = Pack([], [], [], [])

    def add(ids: list[int], first: int, prefix: int = 0, until: int = 0) -> int:
        start = len(pack.ids)
        pack.ids.extend(ids)
        pack.positions.extend(range(first, first + len(ids)))
        pack.segments.append(Segment(start, len(pack.ids), prefix, until))
        return start

    for shared, rows in units:
        prefix = add(items[rows[0]].ids[:shared], 0) if shared else 0
        for row in rows:
            item = items[row]
            begin = add(item.ids[shared:], shared, prefix, prefix + shared) - shared
            pack.texts.append((row, begin + item.start, begin + item.stop, begin + len(item.ids) - 1))
    return pack


def attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    segments: Sequence[Segment],
    varlen: Callable[..., Tensor] | None,
    scaling: float | None = None,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    dropout: float = 0.0,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention within each segment of a row, as the AttentionInterface calls it.

    Args:
        query, key, value: [1, heads, tokens, size]; fewer heads of keys and values where queries share them.
        segments: What lies in the row.
        varlen: flash-attention's ``flash_attn_varlen_func``; None to loop with torch's own attention.
        sliding_window: Of a decoder: a token sees this many tokens, itself included.
        softcap: Attention's logits are bounded by it; flash-attention only.
        dropout: Of attention's weights, while training.

    Returns:
        [1, tokens, heads, size], and no weights.
    """
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    asked = {"sink": others.get("s_aux"), "position bias": others.get("position_bias")}
    asked["window that looks both ways"] = None if causal else sliding_window
    asked["soft cap, which takes flash-attention"] = None if varlen else softcap
    for name, value_of in asked.items():
        if value_of is not None:
            raise _CannotPackError(f"its attention has a {name}")
    if varlen is not None:
        from transformers.integrations.flash_attention import get_target_dtype

        # Rotary embeddings in float32 widen queries and keys, which flash-attention does not read.
        if (narrow := get_target_dtype(query, module)) is not None:
            query, key, value = (x.to(narrow) for x in (query, key, value))
        return _by_flash(varlen, query, key, value, segments, causal, scaling, sliding_window, softcap, dropout), None
    if (heads := query.shape[1] // key.shape[1]) > 1:
        key, value = key.repeat_interleave(heads, 1), value.repeat_interleave(heads, 1)
    parts = []
    for s in segments:
        q, k, v = (x[:, :, s.start : s.stop] for x in (query, key, value))
        mask = None
        if s.until > s.prefix:
            k = torch.cat([key[:, :, s.prefix : s.until], k], 2)
            v = torch.cat([value[:, :, s.prefix : s.until], v], 2)
        if causal and (k.shape[2] > q.shape[2] or (sliding_window or k.shape[2]) < k.shape[2]):
            column = torch.arange(k.shape[2], device=q.device)
            row = column[k.shape[2] - q.shape[2] :, None]
            mask = column <= row
            if sliding_window is not None:
                mask &= column > row - sliding_window
        is_plain = causal and mask is None
        out = scaled_dot_product_attention(q, k, v, mask, dropout, is_plain, scale=scaling)
        parts.append(out)
    return torch.cat(parts, 2).transpose(1, 2).contiguous(), None


def _by_flash(
    varlen: Callable[..., Tensor],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    segments: Sequence[Segment],
    causal: bool,
    scaling: float | None,
    sliding_window: int | None,
    softcap: float | None,
    dropout: float,
) -> Tensor:
    """One call for all segments. Where keys outnumber queries, causal means that the last query sees the last key."""
    device = query.device
    queries = [s.stop - s.start for s in segments]
    keys = [s.stop - s.start + s.until - s.prefix for s in segments]
    starts = [torch.tensor(np.cumsum([0, *n]), dtype=torch.int32, device=device) for n in (queries, keys)]
    seen = np.concatenate([np.r_[s.prefix : s.until, s.start : s.stop] for s in segments])
    index = torch.from_numpy(seen).to(device)
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    window = (-1, -1) if sliding_window is None else (sliding_window - 1, 0)
    out = varlen(
        q, k[index], v[index], *starts, max(queries), max(keys),
        dropout_p=dropout, softmax_scale=scaling, causal=causal, window_size=window, softcap=softcap or 0.0,
    )  # fmt: skip
    return out[None]


@contextmanager
def own_attention(model: Any) -> Iterator[Callable[..., Tensor] | None]:
    """The model with `attend` in place of its own attention.

    Gives flash-attention's function where that was the model's attention, for `attend` to use, and None otherwise.
    Activations that are computed again on the way back need it until the way back is done.
    """
    from transformers import AttentionInterface

    if not getattr(model, "_supports_attention_backend", False):
        raise _CannotPackError("it takes no attention function but its own")
    AttentionInterface.register(NAME, attend)
    before, varlen = model.config._attn_implementation, None
    if "flash" in before:
        varlen = import_module("flash_attn").flash_attn_varlen_func  # an extra, which few have
    model.set_attn_implementation(NAME)
    try:
        yield varlen
    finally:
        model.set_attn_implementation(before)


def forward(backbone: Backbone, packing: Packing, pack: Pack) -> Sequence[Tensor]:
    """Hidden states of every layer, [tokens, width] each."""
    model = backbone.model
    device = next(model.parameters()).device
    with own_attention(model) as varlen:
        # No mask and no cache: either would make the model look for texts in the row by itself.
        output = model(
            input_ids=torch.tensor([pack.ids], device=device),
            position_ids=torch.tensor([pack.positions], device=device) + packing.first,
            use_cache=False, output_hidden_states=True, segments=pack.segments, varlen=varlen,
        )  # fmt: skip
    return [state[0] for state in output.hidden_states]


def find(backbone: Backbone, *, causal: bool) -> tuple[Packing | None, str]:
    """How this model can be read in packs, if it can, and why not; the model is in evaluation mode.

    Three short texts of arbitrary words, two with a common beginning, are read in a pack and one at a time; both must
    agree in every layer and token, to rounding.
    """
    implementation = backbone.model.config._attn_implementation
    if implementation == "eager":
        return None, "attention is eager"
    if "flash" in implementation and next(backbone.model.parameters()).device.type == "cpu":
        # Weights that DeepSpeed has yet to divide wait there, where flash-attention cannot try.
        backbone.model.set_attn_implementation("sdpa")
        try:
            packing, why = find(backbone, causal=causal)
            return packing, why and f"{why} (tried on the CPU, where the weights wait)"
        finally:
            backbone.model.set_attn_implementation(implementation)
    from bgpm.backbones.embedding import Tokens

    if getattr(backbone.model.config.get_text_config(), "attention_chunk_size", None):  # longer than our texts here
        return None, "its attention is chunked by a mask"
    words = some_words(backbone)
    common = words[:SHORTEST_SHARED]
    texts = [[*common, *words[10:15]], [*common, *words[15:17]], words[20:31]]
    items = [Tokens(ids, SHORTEST_SHARED, len(ids)) for ids in texts]
    device = next(backbone.model.parameters()).device
    with torch.inference_mode():
        alone = [
            backbone.model(input_ids=torch.tensor([ids], device=device), output_hidden_states=True).hidden_states
            for ids in texts
        ]
        exact = alone[0][0].dtype == torch.float32 and not torch.is_autocast_enabled(device.type)
        allowed = 1e-4 if exact else 0.1
        why = "packed texts come out differently"
        # RoBERTa and its kin count positions from behind the padding token's number.
        for first in (0, (getattr(backbone.model.config, "pad_token_id", None) or 0) + 1):
            for share in (True, False) if causal else (False,):
                packing = Packing(first, share)
                (pack,) = packs(items, 10**6, share=share)
                try:
                    states = forward(backbone, packing, pack)
                except (_CannotPackError, TypeError) as error:  # a forward without position_ids is a TypeError
                    why = str(error)
                    continue
                if all(_agree(states, alone[row], start, last, allowed) for row, start, _, last in pack.texts):
                    return packing, ""
    return None, why


def some_words(backbone: Backbone) -> list[int]:
    """About sixty arbitrary words of the tokeniser, the same each time."""
    words = np.random.default_rng(0).integers(0, len(backbone.tokenizer) // 2, 64).tolist()
    return [word for word in words if word not in backbone.tokenizer.all_special_ids]


def predictors(pack: Pack) -> list[list[int]]:
    """Of each text where in the row its pooled tokens are predicted: at the token before each.

    For the first token behind a shared prompt that is the prompt's last.
    """
    behind = {s.start: s.until - 1 for s in pack.segments if s.until > s.prefix}
    return [[behind.get(at, at - 1) for at in range(start, stop)] for _, start, stop, _ in pack.texts]


def _agree(packed: Sequence[Tensor], alone: Sequence[Tensor], start: int, last: int, allowed: float) -> bool:
    """Whether a text's own tokens, ``start`` to ``last``, have the same states in every layer.

    Each number is held against its own size and the middle one of its token's, and a token against the root mean square
    of what comes out: large language models carry a few numbers a thousand times the others, which hide nothing here.
    """
    length = last + 1 - start
    for p, a in zip(packed, alone, strict=True):
        expected = a[0, -length:].float()
        size = expected.abs() + expected.abs().median(-1, keepdim=True).values
        apart = (p[start : last + 1].float() - expected).abs()
        relative = torch.where(apart == 0, 0.0, apart / size)  # equal zeros agree
        if not bool((relative.square().mean(-1).sqrt() <= allowed).all()):
            return False
    return True
